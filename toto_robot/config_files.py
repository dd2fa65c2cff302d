"""Find the YAML files of commands, the groups of a command, and the choices of each group.

The library's files are in `toto_robot/configs` and part of its wheel; the wheel of another package
has its own folder `configs`; a checkout has the rest in its root folder. Together they are one
search path.
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
    """Return the folders of YAML files that a command of a package may read and that exist.

    Args:
        package: dotted name of the package of the command's module; None: no package.
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
    """A part of a command's config that is chosen from several files.

    Attributes:
        folder: folder of its files, relative to a folder of the search path.
        place: dotted key of the part in the config; empty if a choice changes several keys.
        default: the choice in the root file; None: no choice.
        hydra_key: its name on Hydra's command line.
    """

    folder: str
    place: str
    default: str | None
    hydra_key: str

    def files(self, folders: Sequence[Path]) -> dict[str, Path]:
        """Return the files by name of the choice; the first folder that has a file is used."""
        found: dict[str, Path] = {}
        for folder in folders:
            for path in sorted((folder / self.folder).glob("*.yaml")):
                found.setdefault(path.stem, path)
        return found

    def choices(self, folders: Sequence[Path], hints: Sequence[Any]) -> list[str]:
        """Return the choices whose content is valid in the config, in alphabetical order.

        Args:
            folders: the search path.
            hints: types that the part may have; empty: the choice changes several keys, and every
                file is valid.
        """
        files = self.files(folders)
        return sorted(name for name, path in files.items() if _fits(path, hints))


@dataclass(frozen=True, kw_only=True, slots=True)
class RootFile:
    """A command's root YAML file.

    Attributes:
        path: the file.
        example: the first comment up to the colon, a command line.
        summary: the rest of the first comment, a description of the command.
        groups: the groups of the command, in the order of the file.
    """

    path: Path
    example: str
    summary: str
    groups: tuple[Group, ...]

    @classmethod
    def find(cls, name: str, folders: Sequence[Path]) -> "RootFile | None":
        """Read `<name>.yaml` from the first folder that has it; None if there is none."""
        for folder in folders:
            path = folder / f"{name}.yaml"
            if path.is_file():
                example, summary = described(path)
                return cls(path=path, example=example, summary=summary, groups=_groups(path))
        return None


def described(path: Path) -> tuple[str, str]:
    """Return the command line and the summary of a root file's first comment."""
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
    """Return whether the files of a group change keys of the root."""
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
