"""Cores on vLLM, each with one of the tiny checkpoints. What is not marked in a file of this folder
is: `make test-vllm` runs it, in an environment of its own.
"""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from engine.config import EngineConfig, ModelSpec, VllmOptions

if TYPE_CHECKING:
    from engine.core import EngineCore

CONFIG = EngineConfig(
    backend="vllm",
    vllm=VllmOptions(enforce_eager=True),
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


def build_core(path: Path, name: str = "m", **changes: Any) -> "EngineCore":
    from engine.startup import build

    config = msgspec.structs.replace(CONFIG, **changes)
    return build(config, [ModelSpec(id=name, checkpoint=str(path))])[0]
