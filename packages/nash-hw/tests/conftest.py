from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture
def finn() -> Iterator[str]:
    """FINN, imported and silenced."""
    from nash_hw.finn.finn_env import contained_finn

    with contained_finn() as version:
        yield version


@pytest.fixture
def model_json(tmp_path: Path) -> Path:
    """A copy of a model that nash-qat exported: every operation at both strides, odd sizes, 1, 4 and 8 bits."""
    folder = tmp_path / "model"
    shutil.copytree(DATA / "every-operation-v3", folder)
    return folder / "model.json"


@pytest.fixture(scope="session")
def compiled_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of compiled layers that all simulations of a test run share."""
    return tmp_path_factory.mktemp("compiled")
