"""The contract of every TalkerEngine, held by vLLM's."""

from collections.abc import Iterator

import pytest

from engine.config import ModelSpec
from engine.core import EngineCore
from tests.engine.conftest import ending_model, models
from tests.engine.runner.test_talker_contract import *  # noqa: F403
from tests.engine.runner.test_talker_contract import ROWS
from tests.engine.speaking import MODELS
from tests.vllm.conftest import build_core

__all__ = ["ending_model", "models"]


@pytest.fixture(scope="module")
def built(ending_model: ModelSpec) -> Iterator[EngineCore]:
    """One engine, since there may be no more in a process, with one model under both names that
    the tests ask for; it ends by itself where it may.
    """
    core = build_core(ending_model, max_num_seqs=ROWS, max_num_batched_tokens=48)
    core.checkpoints[MODELS[0]] = core.checkpoints["ending"]
    pools = core.talker.admission.pools  # type: ignore[attr-defined]
    pools[MODELS[0]] = pools["ending"]
    yield core
    core.close()
