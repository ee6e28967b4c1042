from pathlib import Path

import pytest
import torch

from tests.models import golden


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoints of the golden files, by name."""
    return golden.write_all(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield
