"""Print docs/layout.md: every module with the first line of its docstring.

python docs/layout.py > docs/layout.md
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("toto_robot", "envs", "policies", "real_robot", "benchmarks")


def layout() -> str:
    """Return the text of docs/layout.md.

    The page has a heading for each package and each folder, and below it a line for each module.
    """
    lines = [
        "# Where everything lies",
        "",
        "Every module, with the first line of its docstring; made by `python docs/layout.py`.",
        "Imports run one way, `real_robot -> policies -> envs -> toto_robot`, and so do the rooms",
        "inside each package (`[tool.importlinter]` in pyproject.toml).",
    ]
    for package in PACKAGES:
        folders = sorted({path.parent for path in (ROOT / package).rglob("*.py")})
        for folder in folders:
            modules = sorted(folder.glob("*.py"))
            init = folder / "__init__.py"
            mark = "##" if folder.name == package else "###"
            lines += ["", f"{mark} {folder.relative_to(ROOT)}/", ""]
            if init in modules:
                lines += [_first_line(init), ""]
            lines += [f"- `{one.name}`: {_first_line(one)}" for one in modules if one != init]
    return "\n".join(lines) + "\n"


def _first_line(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text()))
    if not docstring:
        raise ValueError(f"{module.relative_to(ROOT)} has no docstring")
    return docstring.split("\n")[0]


if __name__ == "__main__":
    print(layout(), end="")
