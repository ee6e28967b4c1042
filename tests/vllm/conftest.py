"""Cores on vLLM. `make test-vllm` runs this folder, in an environment of its own."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from engine.config import EngineConfig, ModelSpec, VllmOptions

if TYPE_CHECKING:
    from engine.backends.vllm.feedback import Feedback
    from engine.core import EngineCore

V2 = os.environ.get("VLLM_TEST_RUNNER") == "v2"
if (
    V2
):  # its kernels run in Triton's interpreter, but vLLM asks for a CPU backend, which no wheel has
    from triton.backends import backends

    backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))  # type: ignore

CONFIG = EngineConfig(
    backend="vllm",
    vllm=VllmOptions(enforce_eager=True, runner="v2" if V2 else "v1"),
    device="cpu",
    dtype="float32",
    threads=1,
    max_num_seqs=4,
    max_model_len=512,
    kv_cache_memory="8MB",
    open_text_timeout_s=3600,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(1800))
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # not our code's


def build_core(model: ModelSpec, **changes: Any) -> "EngineCore":
    from engine.startup import build

    return build(msgspec.structs.replace(CONFIG, **changes), [model])[0]


def feedback(core: "EngineCore") -> "Feedback":
    """Of a core whose vLLM runs in this process."""
    from engine.backends.vllm import worker
    from engine.backends.vllm.talker import VllmTalkerEngine

    assert isinstance(core.talker, VllmTalkerEngine)
    found = worker.feedback_of(core.talker.llm.vllm_config)
    assert found is not None
    return found


def num_free_blocks(core: "EngineCore") -> tuple[int, int]:
    """(free, all) as vLLM counts them."""
    pool = core.talker.llm.engine_core.engine_core.scheduler.kv_cache_manager.block_pool  # type: ignore[attr-defined]
    return pool.get_num_free_blocks(), pool.num_gpu_blocks - 1
