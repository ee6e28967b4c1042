"""What would fit, told without loading, is what is made when it is loaded."""

import msgspec
import pytest
import torch

from engine.config import EngineConfig, ModelSpec
from engine.loader import memory
from engine.startup import build
from engine.what_fits import Asked, fit, report


def test_the_plan_is_what_loading_makes(models: list[ModelSpec]) -> None:
    """Of two families that share nothing, with a bound on KV that no other load can change."""
    config = EngineConfig(dtype="float32", threads=1, max_num_seqs=5, kv_cache_memory="40MB")
    chosen = [models[0], models[-1]]
    planned = fit(config, chosen, 0)
    core, ready = build(config, chosen)
    core.close()
    assert (planned.device, planned.dtype) == (ready.device, ready.dtype)
    assert planned.num_rows == ready.num_rows == 5
    assert planned.num_positions == ready.num_blocks * config.block_size
    assert 0 < planned.kv_bytes <= 40e6 and planned.weight_bytes > 1e5


def test_what_does_not_fit_is_said(models: list[ModelSpec]) -> None:
    config = EngineConfig(kv_cache_memory="1KB")
    assert "engine.kv_cache_memory" in (report(Asked(config, models[:1])).error or "")


def test_a_gpu_for_each_worker(models: list[ModelSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs that are made up, of 8 and of 80 GB."""
    sizes = [8 * 10**9, 80 * 10**9]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    free = lambda index: (sizes[torch.device("cuda", index).index or 0],) * 2  # noqa: E731
    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    monkeypatch.setattr(
        memory, "free_bytes", lambda device: sizes[device.index] - memory.GPU_WORKSPACE_BYTES
    )
    monkeypatch.setattr("engine.what_fits.free_bytes", memory.free_bytes)
    two = msgspec.structs.replace(EngineConfig(), data_parallel_size=2)
    told = report(Asked(two, models[:1]))
    assert told.error is None and [one.device for one in told.workers] == ["cuda:0", "cuda:1"]
    assert [name for name, *_ in told.gpus] == ["card 0", "card 1"]
    assert told.workers[0].num_positions <= told.workers[1].num_positions
    three = msgspec.structs.replace(two, data_parallel_size=3)
    assert "data_parallel_size is 3" in (report(Asked(three, models[:1])).error or "")
