"""The folders of the package import only downwards, in the order of the README, and no modules import in circles."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from importlib import util
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_SOURCES = next((_PACKAGE / "src").glob("nash_*"))
_MODULES = {
    ".".join(path.relative_to(_SOURCES.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in _SOURCES.rglob("*.py")
}


def _imported(name: str, path: Path) -> set[str]:
    """Return the modules of the package that a module imports when it is itself imported or later."""
    found = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            target = util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            inner = {f"{target}.{alias.name}" for alias in node.names} & _MODULES.keys()
            found |= inner or {target}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & _MODULES.keys()) - {name}


_IMPORTS = {name: _imported(name, path) for name, path in _MODULES.items()}


def _part(module: str) -> str:
    """Return the folder or module at the top of the package that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def _order() -> list[str]:
    """Return the folders and modules at the top in the order of the README's table, those imported by all first."""
    table = (_PACKAGE / "README.md").read_text("utf-8").partition(f"| in `src/{_SOURCES.name}/`")[2]
    return re.findall(r"^\| `(\w+)(?:/|\.py)` \|", table, re.MULTILINE)


def test_readme_names_every_folder_and_module_at_the_top() -> None:
    names = {_part(module) for module in _MODULES} - {"", "__main__"}
    assert sorted(_order()) == sorted(names)


def test_folders_import_only_what_stands_above_them_in_the_readme() -> None:
    rank = {name: place for place, name in enumerate(_order())}
    upwards = [
        f"{module} imports {other}"
        for module, others in _IMPORTS.items()
        for other in others
        if _part(module) in rank and rank.get(_part(other), -1) > rank[_part(module)]
    ]
    assert not upwards


def test_no_modules_import_in_circles() -> None:
    parts = {module: {other for other in others if other != _SOURCES.name} for module, others in _IMPORTS.items()}
    assert len(list(TopologicalSorter(parts).static_order())) >= len(_MODULES) - 1  # raises CycleError, with the circle
