"""Which device a replica gets. The GPUs are made up."""

import logging

import msgspec
import pytest
import torch

from engine.config import EngineConfig
from engine.engine_plan import choose_device
from engine.errors import CheckpointError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    def have(count: int, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return have


def config(**changes: object) -> EngineConfig:
    return msgspec.structs.replace(EngineConfig(), **changes)


@pytest.mark.parametrize("visible", [None, "4,6"])
def test_each_replica_has_a_gpu_of_its_own(gpus, visible: str | None) -> None:
    """Numbers are torch's, which counts what CUDA_VISIBLE_DEVICES names."""
    gpus(2, visible)
    two = config(data_parallel_size=2)
    assert [choose_device(two, i) for i in (0, 1)] == [
        torch.device("cuda", 0),
        torch.device("cuda", 1),
    ]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_replicas_than_gpus_are_refused(gpus, device: str) -> None:
    """Not two on one GPU, and none on the CPU without a word."""
    gpus(1, "3")
    with pytest.raises(
        CheckpointError, match=r"data_parallel_size is 2, but torch sees 1 GPU.*DEVICES=3"
    ):
        choose_device(config(data_parallel_size=2, device=device))


def test_without_a_gpu(gpus, caplog: pytest.LogCaptureFixture) -> None:
    gpus(0)
    assert choose_device(config(data_parallel_size=2), 1) == torch.device("cpu")
    with pytest.raises(CheckpointError, match="torch sees 0 GPU"):
        choose_device(config(device="cuda"))
    assert not caplog.records
    gpus(0, "0")
    with caplog.at_level(logging.WARNING):
        assert choose_device(config()) == torch.device("cpu")
    assert "CUDA_VISIBLE_DEVICES=0: running on the CPU" in caplog.text


def test_a_gpu_need_not_be_used(gpus) -> None:
    gpus(1)
    assert choose_device(config(device="cpu", data_parallel_size=3), 2) == torch.device("cpu")
