"""Keep the old paths of moved modules working for one release, with a DeprecationWarning.

    keep_old_paths(__name__, {"encoder": "encoders.encoder encoders.loading"})

The `__init__` of a package calls this function. After that, `import toto_robot.encoder` issues a
warning and returns a module that finds its names in the new modules. The new modules are imported
when a name is used for the first time. CHANGELOG.md lists all old and new paths.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def keep_old_paths(package: str, table: Mapping[str, str]) -> None:
    """Redirect imports of the moved modules of a package to their new paths.

    Args:
        package: the package's `__name__`.
        table: maps each old path to its new paths, separated by spaces; names are looked up in this
            order. Paths are relative to the package unless they begin with `toto_robot.`.
    """

    def absolute(new: str) -> str:
        return new if new.startswith("toto_robot.") else f"{package}.{new}"

    full = {f"{package}.{old}": tuple(map(absolute, news.split())) for old, news in table.items()}
    # First in the list: a leftover folder with bytecode would be found as a namespace package.
    sys.meta_path.insert(0, _OldPaths(full))


def moved_names(module: str, table: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a function `__getattr__` for a module, which finds names that were moved or renamed.

    Args:
        module: the module's `__name__`.
        table: maps each old name to its new place, `module:name`.
    """

    def find(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, new = table[name].partition(":")
        warnings.warn(
            f"{module}.{name} is now {place}.{new}; the next release removes the old name",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(place), new)

    return find


class _OldPaths(MetaPathFinder, Loader):
    """An import finder and loader for modules whose paths are in a table of old paths."""

    def __init__(self, table: Mapping[str, tuple[str, ...]]) -> None:
        self.table = table

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        del path, target
        if fullname not in self.table:
            return None
        # A package, if the table has submodules of it: `policies.lerobot.reader`.
        is_package = any(old.startswith(f"{fullname}.") for old in self.table)
        return ModuleSpec(fullname, self, is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        old, news = module.__name__, self.table[module.__name__]
        warnings.warn(
            f"{old} is now {' and '.join(news)}; the next release removes the old path",
            DeprecationWarning,
            stacklevel=2,
        )

        def find(name: str) -> Any:
            if name.startswith("__"):  # `inspect` reads `__file__` of every module
                raise AttributeError(name)
            for new in news:
                found = importlib.import_module(new)
                if hasattr(found, name):
                    return getattr(found, name)
            raise AttributeError(f"module {old!r} (now {', '.join(news)}) has no {name!r}")

        module.__getattr__ = find  # type: ignore[method-assign]  # PEP 562
