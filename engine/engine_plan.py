"""What start-up decides where the configuration says `auto`: device, dtype, number of threads."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import EngineConfig
from engine.errors import CheckpointError
from engine.layers.linear import Linear, can_pack
from engine.loader.memory import MemoryPlan

log = logging.getLogger(__name__)

SMALL_MODEL_BYTES = 100 * 10**6


@dataclass(frozen=True)
class EnginePlan:
    """What start-up decided where the configuration leaves it open ("auto")."""

    device: torch.device
    dtype: torch.dtype
    memory: MemoryPlan
    use_kernels: bool  # Triton's, in talker and predictor
    overlap: bool  # begin a frame before the last one's codes are taken


def choose_device(config: EngineConfig, replica: int = 0) -> torch.device:
    """On GPUs each replica has one of its own: the `replica`-th of those torch sees, which are the
    ones CUDA_VISIBLE_DEVICES names, if it is set.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = f"torch sees {num_gpus} GPU(s)"
    if visible is not None:
        seen += f" with CUDA_VISIBLE_DEVICES={visible}"
    if num_gpus == 0:
        if config.device == "cuda":
            raise CheckpointError(f"engine.device is cuda, but {seen}; use auto or cpu")
        if visible not in (None, "", "-1"):
            log.warning("%s: running on the CPU", seen)
        return torch.device("cpu")
    if num_gpus < config.data_parallel_size:
        raise CheckpointError(
            f"engine.data_parallel_size is {config.data_parallel_size}, but {seen}: lower it to "
            f"{num_gpus}, or make more of them visible"
        )
    return torch.device("cuda", replica)


def choose_dtype(
    config: EngineConfig, device: torch.device, paths: list[Path], *, native: bool = False
) -> torch.dtype:
    """bfloat16 on a GPU. The compiled decoder calculates in float32. Without it, bfloat16 on CPUs
    that multiply it in hardware unless all models are small: there it saves reading memory, and
    small weights stay in the cache. float32 elsewhere.
    """
    if config.dtype != "auto":
        chosen: torch.dtype = getattr(torch, config.dtype)
        return chosen
    if device.type == "cuda":
        return torch.bfloat16
    if native:
        return torch.float32
    files = [path / "model.safetensors" for path in paths]
    large = any(file.exists() and file.stat().st_size >= SMALL_MODEL_BYTES for file in files)
    return torch.bfloat16 if large and _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def measure_threads(dtype: torch.dtype) -> int:
    """The number of torch threads with which a pass over many weights, a few rows at a time, is
    fastest right now: the machine's other load is part of the measurement.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    layers = [Linear(1024, 1024) for _ in range(16)]
    net = torch.nn.Sequential(*layers).to(dtype)
    for module in layers:
        torch.nn.init.constant_(module.weight, 0.01)
        if can_pack(dtype):
            module.transform_("packed")
    x = torch.randn(2, 1024).to(dtype)
    counts = sorted({1, *(n for n in (2, 4, 8, 16, 32) if n < (available or 1)), available or 1})
    return min(counts, key=lambda threads: _time_pass(threads, net, x))


@torch.inference_mode()
def _time_pass(threads: int, net: torch.nn.Module, x: torch.Tensor) -> float:
    """Median seconds: the best case would hide threads that wait for busy cores."""
    torch.set_num_threads(threads)
    times = []
    for _ in range(9):
        started = time.perf_counter()
        net(x)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]
