"""How Sphinx reads the repository: the READMEs where they lie, and the docstrings without importing a module."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx import addnodes

PACKAGES = sorted((Path(__file__).resolve().parent.parent / "packages").glob("nash-*"))

project = html_title = "NASH"
html_theme = "furo"
html_copy_source = html_show_sourcelink = False

extensions = ["myst_parser", "sphinx.ext.napoleon", "autoapi.extension"]
root_doc = "docs/index"  # the source folder is the repository's root, so links between READMEs are links between pages
include_patterns = ["*.md", "packages/*/*.md", "docs/**"]
myst_heading_anchors = 4
default_role = "code"  # a docstring's `name`

autoapi_dirs = [str(folder) for package in PACKAGES for folder in (package / "src").glob("nash_*")]
autoapi_ignore = ["*/cli.py", "*/__main__.py"]  # the READMEs have the commands
autoapi_root = "docs/api"
autoapi_options = ["members", "undoc-members", "show-inheritance"]
autoapi_add_toctree_entry = False
suppress_warnings = ["autoapi.python_import_resolution"]  # of constants that one line defines together: A, B = 1, 2

_MEANING = re.compile(r"(\w+(?:, \w+)*): ")
_ERRORS = set(re.findall(r"^class (\w+)", next(PACKAGES[0].glob("src/*/base/errors.py")).read_text(), re.MULTILINE))


def _list_meanings(app: object, what: str, name: str, object_: object, options: object, lines: list[str]) -> None:
    """Make a list of a docstring's paragraph of lines such as `width: the backbone's own.`"""
    start = 0
    for end in [*(number for number, line in enumerate(lines) if not line.strip()), len(lines)]:
        begun = {number for number in range(start, end) if not lines[number].startswith(" ")}
        if begun and all(_MEANING.match(lines[number]) for number in begun):
            for number in range(start, end):
                own = _MEANING.sub(r"- ``\1``: ", lines[number], count=1)
                lines[number] = own if number in begun else f"  {lines[number].strip()}"
        start = end + 1


def _link_within_package(app: object, doctree: Any) -> None:
    """Link a name to the class of its own package alone, where several have one of that name."""
    for node in doctree.findall(addnodes.pending_xref):
        if node.get("refdomain") == "py":
            node.attributes.pop("refspecific", None)
            package = (node.get("py:module") or "").partition(".")[0]
            if package and node["reftarget"] in _ERRORS:
                node["reftarget"] = f"{package}.base.errors.{node['reftarget']}"


def setup(app: Any) -> None:
    """Have Sphinx call what changes docstrings and links."""
    app.connect("autodoc-process-docstring", _list_meanings)
    app.connect("doctree-read", _link_within_package)
