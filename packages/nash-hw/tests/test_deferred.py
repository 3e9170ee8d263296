from __future__ import annotations

import subprocess
import sys

import pytest

from nash_hw.finn.deferred import deferred


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A package that is slow to import, and one that imports it."""
    (tmp_path / "slow" / "inner").mkdir(parents=True)
    (tmp_path / "slow" / "__init__.py").write_text("LIMIT = 7\n")
    (tmp_path / "slow" / "inner" / "__init__.py").write_text("class Thing: pass\ndef double(x): return 2 * x\n")
    (tmp_path / "user.py").write_text(
        "import slow\nimport slow.inner as short\nfrom slow import inner\nfrom slow.inner import double\n"
        "def f(x: inner.Thing): return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("slow", "slow.inner", "user"):
        sys.modules.pop(name, None)


def test_deferred_module_is_imported_when_it_is_used(slow):
    with deferred(["slow"]):
        import user
    assert "slow" not in sys.modules
    assert user.double(4) == 8
    assert "slow.inner" in sys.modules
    assert user.slow.LIMIT == 7
    assert user.inner.double(1) == user.short.double(1) == 2
    with pytest.raises(AttributeError, match="absent"):
        _ = user.slow.absent


def test_imported_module_is_not_deferred(slow):
    import slow as real

    with deferred(["slow"]):
        import user
    assert user.slow is real


def test_imports_are_as_ever_after_deferring(slow):
    with deferred(["slow"]):
        import user  # noqa: F401
    import slow.inner

    assert slow.__file__
    assert slow.inner.double(3) == 6
    assert not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path)


def test_missing_module_is_told_when_it_is_used(tmp_path, monkeypatch):
    (tmp_path / "hopeful.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with deferred(["no_such_module"]):
        import hopeful
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = hopeful.no_such_module.x
    sys.modules.pop("hopeful")


def test_finn_starts_without_torch():
    """It takes three quarters of the time that FINN needs to start."""
    code = (
        "import sys\nfrom nash_hw.finn.finn_env import contained_finn\nwith contained_finn(): pass\n"
        "print(sorted({'torch', 'sympy', 'onnxscript'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
