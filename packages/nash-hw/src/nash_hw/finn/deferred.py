"""Modules that are imported once something of them is used: FINN imports more than what is used of it needs."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def deferred(names: Sequence[str]) -> Iterator[None]:
    """Let the imports of some modules and all below them, in here, wait until an attribute of theirs is used.

    What is imported already stays as it is, and imports after this are as ever.
    """
    finder = _Finder([name for name in names if name not in sys.modules])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        finder.is_open = False
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Deferred)]:
            del sys.modules[name]


class _Deferred(ModuleType):
    """A module, or something in it that was imported by name, in whose place the real one answers later."""

    __path__: Sequence[str] = ()

    def __init__(self, name: str, finder: _Finder) -> None:
        super().__init__(name)
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._finder.is_open:
            return _Deferred(f"{self.__name__}.{name}", self._finder)
        return getattr(_real(self.__name__), name)

    def __call__(self, *args: Any, **given: Any) -> Any:
        return _real(self.__name__)(*args, **given)


def _real(name: str) -> Any:
    """Return the module of a name, or what a module has by that name."""
    parent, _, last = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        if not parent:
            raise
    return getattr(_real(parent), last)


class _Finder:
    """Finds a deferred module for each name asked for, and loads it by doing nothing."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.is_open = True

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if any(name == each or name.startswith(each + ".") for each in self._names):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Deferred(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        pass
