"""`toto-robot <command> key=value ...`: list and run the commands of all installed packages.

Packages register their commands as entry points in their installed metadata. The group of an entry
point is `toto_robot.commands` if the command is part of a wheel. It is
`toto_robot.checkout_commands` if the command's package exists only in a checkout of the repository.
Therefore the library can run commands of other packages without importing these packages first.
"""

import difflib
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from .config_files import CHECKOUT, described, search_path
from .usage import show

__all__ = ["main"]

GROUP, CHECKOUT_GROUP = "toto_robot.commands", "toto_robot.checkout_commands"
GET_CHECKOUT = "runs from a checkout: git clone the repository, then pip install -e '.[sim,train]'"


def main() -> None:
    """Run the command that the first argument names, or list all commands."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        show(_list())
        return
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"toto-robot {version('toto-robot')}")
        return
    name = words[0].replace("-", "_")
    found = commands()
    if name not in found:
        near = difflib.get_close_matches(name, list(found), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        sys.exit(f"toto-robot: unknown command {words[0]!r}{hint} All commands: toto-robot --help")
    entry = found[name]
    if not is_here(entry):
        sys.exit(f"toto-robot {name}: {GET_CHECKOUT}")
    try:
        Path.cwd()
    except FileNotFoundError:
        sys.exit(f"toto-robot {name}: the current folder was deleted: cd to another")
    sys.argv = [f"toto-robot {name}", *words[1:]]
    sys.path.insert(0, "")  # as `python -m` does: settings name modules of the user, `module:name`
    try:
        main_of_command = entry.load()
    except ModuleNotFoundError as error:
        extras = "[train]'" if entry.group == GROUP else "[sim,train]' in the checkout"
        sys.exit(f"toto-robot {name}: {error.name} is missing: pip install 'toto-robot{extras}")
    sys.exit(main_of_command())


def commands() -> dict[str, EntryPoint]:
    """Return the entry points of all commands, by name.

    If a wheel and a checkout have a command of the same name, the checkout's command is returned.
    """
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    for entry in entry_points(group=CHECKOUT_GROUP):
        if entry.name not in found or is_here(entry):
            found[entry.name] = entry
    return found


def is_here(entry: EntryPoint) -> bool:
    """Return whether the package of a command exists here.

    A command of a checkout needs the checkout's own package. Another package of the same name,
    such as `envs`, may be installed and does not count.
    """
    if entry.group != CHECKOUT_GROUP:
        return True
    return (CHECKOUT.parent / entry.module.partition(".")[0] / "__init__.py").is_file()


def _list() -> str:
    lines = [
        "usage: toto-robot <command> [key=value ...]",
        "       toto-robot <command> --help    what it does, an example, and all its settings",
    ]
    by_package: dict[str, list[EntryPoint]] = {}
    missing = []
    for entry in sorted(commands().values(), key=_order):
        if is_here(entry):
            by_package.setdefault(entry.module.partition(".")[0], []).append(entry)
        else:
            missing.append(entry.name)
    for package, entries in by_package.items():
        lines += ["", f"{package}:"]
        lines += [f"  {entry.name:<24}{_summary(entry)}".rstrip() for entry in entries]
    if missing:
        lines += ["", f"and from a checkout (git clone): {', '.join(missing)}"]
    return "\n".join(lines)


def _order(entry: EntryPoint) -> tuple[int, str]:
    """Return a key that sorts commands by package (the library first), then by name."""
    packages = ("toto_robot", "envs", "toto_robot_envs", "policies", "real_robot")
    package = entry.module.partition(".")[0]
    return packages.index(package) if package in packages else len(packages), entry.name


def _summary(entry: EntryPoint) -> str:
    """Return the description of a command from the first line of its YAML file.

    The command's module is not imported, because this takes seconds.
    """
    for folder in search_path(entry.module):
        path = folder / f"{entry.name}.yaml"
        if path.is_file():
            return described(path)[1]
    return SUMMARIES.get(entry.name, "")


SUMMARIES = {  # of commands without a YAML file
    "doctor": "what this machine has, how fast it renders, and what to install",
    "reproduce": "list the paper's tables and figures, with the commands that make them",
}


if __name__ == "__main__":
    main()
