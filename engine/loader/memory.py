"""What fits: rows and KV blocks, from the free memory that the weights leave.

A row costs its codec state and, while a sequence has it, KV for prompt and speech. On a GPU as many
rows are made as can all speak sentences at once; KV then takes most of what is left, because long
texts and clones need more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import EngineConfig, parse_bytes
from engine.errors import CheckpointError
from engine.loader.checkpoint import Checkpoint
from engine.loader.host_memory import available_bytes, zeros
from engine.models.config import TalkerConfig

CPU_ROWS, GPU_ROWS = 32, (128, 64, 32, 16, 8, 4)
CPU_CACHE_SHARE, GPU_CACHE_SHARE = 0.25, 0.9
MAX_CPU_CACHE_BYTES = 4 * 2**30
MIN_TOKENS = 512  # a KV cache smaller than this cannot hold one utterance
SENTENCE_TOKENS = 512  # what one spoken sentence reserves, its runaway guard included
# KV positions per row beyond which more would lie idle.
MAX_TOKENS_PER_ROW = 2048
# A GPU's memory for graphs, activations and libraries: not for KV.
GPU_WORKSPACE_BYTES = 2**30
ROWS_SHARE = 0.6  # of the free memory may be promised to rows that speak sentences

# (layers, kv heads, head dim): models of one geometry share a cache.
Geometry = tuple[int, int, int]


def geometry(c: TalkerConfig) -> Geometry:
    return c.num_hidden_layers, c.num_key_value_heads, c.head_dim


def token_bytes(shape: Geometry, dtype: torch.dtype) -> int:
    layers, heads, dim = shape
    return 2 * layers * heads * dim * dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """Memory that may still be taken; a GPU's without its workspace."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] - GPU_WORKSPACE_BYTES
    return available_bytes()


def check_weights_fit(paths: list[Path], dtype: torch.dtype, device: torch.device) -> None:
    """Before minutes of loading: whether a GPU holds these checkpoints (stored in bfloat16)."""
    if device.type != "cuda":
        return
    files = [path / "model.safetensors" for path in paths]
    needed = sum(file.stat().st_size for file in files if file.is_file()) * dtype.itemsize // 2
    free = free_bytes(device)
    if needed > free:
        raise CheckpointError(
            f"the checkpoints need {needed / 1e9:.1f} GB and the GPU has "
            f"{max(free, 0) / 1e9:.1f} GB to spare: load fewer, or a smaller one, or set "
            "engine.device to cpu"
        )


@dataclass(frozen=True)
class MemoryPlan:
    """`num_rows` sequences at once, and blocks of the KV cache by geometry."""

    num_rows: int
    num_blocks: dict[Geometry, int]


@dataclass(frozen=True)
class Footprint:
    """What the loaded models take beside their weights.

    row_bytes        codec state of one row
    position_bytes   one KV position by geometry: keys and values, and a row of trailing text in
                     every model of that geometry
    kept_bytes       what is kept for all rows: copies of prompt beginnings, codec states that
                     clones start from
    """

    row_bytes: int
    position_bytes: dict[Geometry, int]
    kept_bytes: int = 0


def plan_memory(config: EngineConfig, footprint: Footprint, free: int, *, gpu: bool) -> MemoryPlan:
    """Share `free` bytes among rows and KV. CheckpointError says what does not fit and what to
    change.
    """
    shapes = footprint.position_bytes
    if gpu:  # a CPU's plan leaves most of the memory alone
        free -= footprint.kept_bytes
    sentence_bytes = SENTENCE_TOKENS * max(shapes.values())
    num_rows = _num_rows(config, footprint.row_bytes + sentence_bytes, free, gpu=gpu)
    left = free - num_rows * footprint.row_bytes
    budget = _cache_budget(config, left, gpu=gpu) // len(shapes)
    most = max(config.max_model_len, num_rows * min(config.max_model_len, MAX_TOKENS_PER_ROW))
    num_blocks = {}
    for shape, position_bytes in shapes.items():
        block_bytes = position_bytes * config.block_size
        num_blocks[shape] = min(max(budget, 0) // block_bytes, -(-most // config.block_size))
        if num_blocks[shape] < min(most, MIN_TOKENS) // config.block_size:
            raise CheckpointError(
                f"{max(budget, 0) / 1e6:.0f} MB are left for a KV cache, which needs at least "
                f"{MIN_TOKENS * position_bytes / 1e6:.0f} MB: raise "
                "engine.kv_cache_memory, lower engine.max_num_seqs, or load a smaller checkpoint"
            )
    return MemoryPlan(num_rows, num_blocks)


def _num_rows(config: EngineConfig, bytes_per_row: int, free: int, *, gpu: bool) -> int:
    if config.max_num_seqs != "auto":
        return config.max_num_seqs
    if not gpu:
        return CPU_ROWS
    fitting = [n for n in GPU_ROWS if n * bytes_per_row <= ROWS_SHARE * free]
    return fitting[0] if fitting else GPU_ROWS[-1]


def _cache_budget(config: EngineConfig, free: int, *, gpu: bool) -> int:
    if config.kv_cache_memory != "auto":
        return parse_bytes(config.kv_cache_memory)
    return (
        int(free * GPU_CACHE_SHARE)
        if gpu
        else min(int(free * CPU_CACHE_SHARE), MAX_CPU_CACHE_BYTES)
    )


def kv_caches(
    plan: MemoryPlan,
    block_size: int,
    checkpoints: Mapping[str, Checkpoint],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """Each model's cache, one per geometry: [layers, 2, num_blocks + 1, block_size, kv_heads, D],
    the last block for padding.
    """
    caches = {
        shape: zeros((shape[0], 2, num_blocks + 1, block_size, *shape[1:]), dtype, device)
        for shape, num_blocks in plan.num_blocks.items()
    }
    return {model: caches[geometry(c.config.talker_config)] for model, c in checkpoints.items()}
