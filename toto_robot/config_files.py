"""Find the YAML files of commands, the groups of a command, and the choices of each group.

The files are in several folders, which together are the search path. The library's files are in
`toto_robot/configs`, which is part of its wheel. The wheel of another package may contain a folder
`configs`. All other files are in the folder `configs` of a checkout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import Any

from .config import from_dict

__all__ = ["Group", "RootFile", "search_path"]

LIBRARY = Path(__file__).parent / "configs"
CHECKOUT = Path(__file__).parents[1] / "configs"


def search_path(package: str | None) -> list[Path]:
    """Return the existing folders of YAML files for the commands of a package.

    Args:
        package: name of the package of the command's module, such as `policies`; None: the
            command's module is not in a package.
    """
    top = (package or "").partition(".")[0]
    spec = find_spec(top) if top else None  # finds the package without importing it
    places = (spec.submodule_search_locations if spec else None) or ()
    own = [Path(place) / "configs" for place in places]
    checkout = [CHECKOUT] if (CHECKOUT / "train.yaml").is_file() else []
    folders = dict.fromkeys([LIBRARY, *own, *checkout])
    return [folder for folder in folders if folder.is_dir()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A part of a command's settings that has several choices, with one YAML file per choice.

    Attributes:
        folder: folder of the choices, relative to a folder of the search path.
        place: key of the part in the settings, such as `imitation.optimizer`; empty if a choice
            changes several keys.
        default: choice that the root file selects; None: the root file selects no choice.
        hydra_key: name of the group on Hydra's command line, such as
            `optimizer@imitation.optimizer`.
    """

    folder: str
    place: str
    default: str | None
    hydra_key: str

    def files(self, folders: Sequence[Path]) -> dict[str, Path]:
        """Return the file of each choice, by name.

        If several folders have a file for the same choice, the file of the first folder is used.
        """
        found: dict[str, Path] = {}
        for folder in folders:
            for path in sorted((folder / self.folder).glob("*.yaml")):
                found.setdefault(path.stem, path)
        return found

    def choices(self, folders: Sequence[Path], hints: Sequence[Any]) -> list[str]:
        """Return the choices whose content is valid for the command, in alphabetical order.

        Args:
            folders: the search path.
            hints: types that the part of the config may have; empty: a choice changes several
                keys, and every file is valid.
        """
        files = self.files(folders)
        return sorted(name for name, path in files.items() if _fits(path, hints))


@dataclass(frozen=True, kw_only=True, slots=True)
class RootFile:
    """A command's root YAML file, which contains its default settings and lists its groups.

    Attributes:
        path: path of the file.
        example: command line from the first comment, the text before the colon.
        summary: description of the command from the first comment, the text after the colon.
        groups: groups of the command, in the order of the file.
    """

    path: Path
    example: str
    summary: str
    groups: tuple[Group, ...]

    @classmethod
    def find(cls, name: str, folders: Sequence[Path]) -> "RootFile | None":
        """Read `<name>.yaml` from the first folder that contains it; return None if none does."""
        for folder in folders:
            path = folder / f"{name}.yaml"
            if path.is_file():
                example, summary = described(path)
                return cls(path=path, example=example, summary=summary, groups=_groups(path))
        return None


def described(path: Path) -> tuple[str, str]:
    """Return the command line and the description in the first comment of a root file."""
    first = path.read_text().partition("\n")[0]
    example, _, summary = first.removeprefix("#").strip().partition(": ")
    return example, summary


def _groups(path: Path) -> tuple[Group, ...]:
    import yaml  # comes with Hydra

    found = []
    for entry in yaml.safe_load(path.read_text()).get("defaults", []):
        if not isinstance(entry, dict):
            continue
        ((key, default),) = entry.items()
        folder, _, place = key.partition("@")
        in_root = place == "_global_" or _is_global(path, folder)
        found.append(
            Group(
                folder=folder,
                place="" if in_root else place or folder,
                default=default,
                hydra_key=folder if place in ("", folder) else key,
            )
        )
    return tuple(found)


def _is_global(path: Path, folder: str) -> bool:
    """Return whether the files of a group change keys at the top level of the settings."""
    files = sorted((path.parent / folder).glob("*.yaml"))
    return bool(files) and "@package _global_" in files[0].read_text()


def _fits(path: Path, hints: Sequence[Any]) -> bool:
    import yaml

    text = path.read_text()
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:  # Hydra says what is wrong when it is chosen
        return False
    if not isinstance(content, dict):
        return False
    if hints and "@package _global_" in text:  # the part is null, beside other settings
        return NoneType in hints or any(content.values())
    if not hints or "defaults" in content:
        return True
    for hint in hints:
        try:
            from_dict(hint, content)
        except (ValueError, TypeError):
            continue
        return True
    return False
