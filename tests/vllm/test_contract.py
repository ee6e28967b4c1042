"""The contract of every TalkerEngine, held by vLLM's."""

from collections.abc import Iterator

import pytest

from engine.config import ModelSpec
from engine.core import EngineCore
from tests.engine.conftest import ending_model, models
from tests.engine.runner.test_talker_contract import *  # noqa: F403
from tests.engine.runner.test_talker_contract import ROWS, Listener, assert_given_back
from tests.vllm.conftest import build_core

__all__ = ["ending_model", "models"]


@pytest.fixture(scope="module")
def built(models: list[ModelSpec]) -> Iterator[EngineCore]:
    """One model: vLLM has no more in a process."""
    core = build_core(models[0], max_num_seqs=ROWS, max_num_batched_tokens=48)
    yield core
    core.close()


@pytest.fixture
def ending_listener(ending_model: ModelSpec) -> Iterator[Listener]:
    core = build_core(ending_model, max_num_seqs=ROWS)
    yield Listener(core.talker, core.checkpoints)
    assert_given_back(core.talker)
    core.close()
