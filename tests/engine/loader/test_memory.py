"""What start-up makes of a machine's free memory."""

import msgspec
import pytest
import torch

from engine.config import EngineConfig, parse_bytes
from engine.errors import CheckpointError
from engine.loader.memory import (
    CPU_ROWS,
    MAX_CPU_CACHE_BYTES,
    MIN_TOKENS,
    SENTENCE_TOKENS,
    Footprint,
    MemoryPlan,
    plan_memory,
    token_bytes,
)

PUBLISHED = (28, 8, 128)  # both sizes of the published checkpoints
ROW_BYTES = 4_000_000
BF16 = torch.bfloat16
GB = 10**9


def fit(
    free: float,
    *,
    gpu: bool = True,
    shapes: tuple = (PUBLISHED,),
    kept_bytes: int = 0,
    text_bytes: int = 0,
    **changes: object,
) -> MemoryPlan:
    config = msgspec.structs.replace(EngineConfig(), **changes)
    position_bytes = {shape: token_bytes(shape, BF16) + text_bytes for shape in shapes}
    footprint = Footprint(ROW_BYTES, position_bytes, kept_bytes)
    return plan_memory(config, footprint, int(free), gpu=gpu)


def kv_bytes(fit: MemoryPlan) -> int:
    return sum(n * 16 * token_bytes(shape, BF16) for shape, n in fit.num_blocks.items())


def test_a_token_of_the_published_models_costs_115_kb() -> None:
    assert token_bytes(PUBLISHED, BF16) == 114_688


@pytest.mark.parametrize(
    ("free_gb", "rows"), [(130, 128), (18, 128), (10, 64), (4.5, 32), (1.2, 8)]
)
def test_a_gpu_gets_as_many_rows_as_can_speak_sentences(free_gb: float, rows: int) -> None:
    """130 GB: an H200; 18: 24 GB beside 1.7B; 4.5: 8 GB beside 0.6B."""
    got = fit(free_gb * GB)
    assert got.num_rows == rows
    assert kv_bytes(got) + rows * ROW_BYTES <= free_gb * GB
    tokens = got.num_blocks[PUBLISHED] * 16
    assert tokens >= rows * SENTENCE_TOKENS
    assert tokens <= max(32768, rows * 2048) + 16


def test_a_cpu_gets_32_and_a_bounded_cache() -> None:
    got = fit(200 * GB, gpu=False)
    assert got.num_rows == CPU_ROWS
    assert kv_bytes(got) <= MAX_CPU_CACHE_BYTES


def test_what_is_asked_for_is_done() -> None:
    got = fit(100 * GB, max_num_seqs=7, kv_cache_memory="1GB")
    assert got.num_rows == 7
    assert 0.99 * GB < kv_bytes(got) <= GB


def test_models_of_different_geometry_share_the_memory() -> None:
    got = fit(4 * GB, shapes=(PUBLISHED, (5, 2, 64)))
    assert set(got.num_blocks) == {PUBLISHED, (5, 2, 64)}
    assert kv_bytes(got) <= 4 * GB


@pytest.mark.parametrize("free_gb", [0.03, 0.0, -1.0])
def test_what_does_not_fit_is_said(free_gb: float) -> None:
    least = MIN_TOKENS * token_bytes(PUBLISHED, BF16) / 1e6
    with pytest.raises(CheckpointError, match=f"at least {least:.0f} MB: raise engine.kv_cache"):
        fit(free_gb * GB)


def test_what_is_kept_for_all_is_in_a_gpus_plan() -> None:
    """Three checkpoints on a card of 24 GB: trailing text, copies of prompt beginnings and the
    codec states of clones came out of the tenth that was left over.
    """
    text_bytes, kept_bytes = 3 * 2048 * 2, 700_000_000
    plain, got = fit(3 * GB), fit(3 * GB, kept_bytes=kept_bytes, text_bytes=text_bytes)
    tokens = got.num_blocks[PUBLISHED] * 16
    taken = kv_bytes(got) + tokens * text_bytes + got.num_rows * ROW_BYTES + kept_bytes
    assert taken <= 0.95 * 3 * GB < kv_bytes(plain) + plain.num_rows * ROW_BYTES + kept_bytes


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("2 kB", 2000), ("4GiB", 4 * 2**30), ("0.5mb", 500_000)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size
