"""The YAML files of commands: where they lie, which groups a command has, and their choices.

The library's files are in `toto_robot/configs` and travel in its wheel; another package's wheel has
its own `configs` folder; a checkout has the rest in its root. A command reads all of them as one
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
    """Return the folders of YAML files that a command of a package may read; existing ones only.

    Args:
        package: dotted name of the package that the command's module is in; None for no package.
    """
    top = (package or "").partition(".")[0]
    spec = find_spec(top) if top else None  # looks for the package, and does not import it
    places = (spec.submodule_search_locations if spec else None) or ()
    own = [Path(place) / "configs" for place in places]
    checkout = [CHECKOUT] if (CHECKOUT / "train.yaml").is_file() else []
    folders = dict.fromkeys([LIBRARY, *own, *checkout])
    return [folder for folder in folders if folder.is_dir()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A part of a command's config that is chosen among files.

    Attributes:
        folder: of its files, below a folder of the search path.
        place: dotted key of the part in the config; empty where a choice changes several keys.
        default: the choice of the root file; None for none.
        hydra_key: what Hydra calls it on the command line.
    """

    folder: str
    place: str
    default: str | None
    hydra_key: str

    def files(self, folders: Sequence[Path]) -> dict[str, Path]:
        """Return its files by the names of the choices; the first folder that has one wins."""
        found: dict[str, Path] = {}
        for folder in folders:
            for path in sorted((folder / self.folder).glob("*.yaml")):
                found.setdefault(path.stem, path)
        return found

    def choices(self, folders: Sequence[Path], hints: Sequence[Any]) -> list[str]:
        """Return the choices whose content fits into the config, in alphabetical order.

        Args:
            folders: the search path.
            hints: types that the part may have; empty: what changes several keys always fits.
        """
        files = self.files(folders)
        return sorted(name for name, path in files.items() if _fits(path, hints))


@dataclass(frozen=True, kw_only=True, slots=True)
class RootFile:
    """A command's root YAML file.

    Attributes:
        path: the file.
        example: its first comment up to the colon: a command line.
        summary: the rest of the first comment: what the command does.
        groups: its groups, in the order of the file.
    """

    path: Path
    example: str
    summary: str
    groups: tuple[Group, ...]

    @classmethod
    def find(cls, name: str, folders: Sequence[Path]) -> "RootFile | None":
        """Read `<name>.yaml` of the first folder that has it; None where none has."""
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
