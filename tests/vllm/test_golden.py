"""Codes of the official package, spoken by vLLM: every greedy golden case, alone and in one batch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core import EngineCore
from tests.models import golden
from tests.models.test_parity import GREEDY, submission
from tests.vllm.conftest import build_core, codec_head


@pytest.fixture(scope="module", params=golden.CASES["checkpoints"])
def core(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, EngineCore]]:
    folder = tmp_path_factory.mktemp("golden")
    name, path = next(pair for pair in golden.write_each(folder) if pair[0] == request.param)
    core = build_core(path)
    yield name, core
    core.close()
