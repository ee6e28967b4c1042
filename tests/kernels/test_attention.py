"""Paged attention against a dense loop in float64 and against the plain layers."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.kernels.attention import _attend, _join, num_splits, paged_attention
from engine.layers import attention as plain
from engine.layers.attention import AttentionMetadata
from engine.layers.rotary import RotaryTable
from tests.kernels.compiling import CAPABILITIES, Compiled, compile_apart, compile_kernel
from tests.kernels.conftest import CUDA

pytestmark = pytest.mark.skipif(
    not CUDA and triton.__version__ < "3.7",
    reason="this triton's interpreter cannot loop to a bound that it computed, with numpy 2",
)


class Case(NamedTuple):
    q: Tensor
    cache: Tensor
    block_tables: Tensor
    rows: Tensor
    context_lens: Tensor


def case(
    context_lens: list[int],
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    block_size: int = 16,
    blocks_per_row: int | None = None,
    rows: list[int] | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Case:
    """One token per context length; rows own shuffled blocks, which no other row shares."""
    torch.manual_seed(sum(context_lens))
    rows = rows or list(range(len(context_lens)))
    width = blocks_per_row or -(-max(context_lens) // block_size)
    num_rows = max(rows) + 1
    cache = torch.randn(2, num_rows * width, block_size, kv_heads, head_dim)
    return Case(
        q=torch.randn(len(rows), heads, head_dim).to(device, dtype),
        cache=cache.to(device, dtype),
        block_tables=torch.randperm(num_rows * width).view(num_rows, width).to(device),
        rows=torch.tensor(rows, device=device),
        context_lens=torch.tensor(context_lens, device=device),
    )


def dense(c: Case) -> Tensor:
    outs = []
    group = c.q.shape[1] // c.cache.shape[3]
    for q, row, length in zip(c.q.double(), c.rows, c.context_lens.tolist(), strict=True):
        k, v = c.cache[:, c.block_tables[row]].double().flatten(1, 2)[:, :length]
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))  # [length, heads, D]
        scores = torch.einsum("hd,khd->hk", q, k) / math.sqrt(q.shape[-1])
        outs.append(torch.einsum("hk,khd->hd", scores.softmax(-1), v).flatten())
    return torch.stack(outs)


def check(out: Tensor, expected: Tensor) -> None:
    close = {} if out.dtype is torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(out, expected.to(out), **close)


@pytest.mark.parametrize("splits", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_size"),
    [(4, 2, 128, 16), (3, 1, 16, 4), (20, 1, 64, 1)],
)
def test_equals_dense(
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    splits: int,
    dtype: torch.dtype,
    device: str,
) -> None:
    lens = [1, 64, 65, 200]
    c = case(lens, heads, kv_heads, head_dim, block_size, dtype=dtype, device=device)
    check(paged_attention(*c, splits=splits), dense(c))


@given(
    lens=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    splits=st.sampled_from([1, 2, 4, 8]),
    block_size=st.sampled_from([1, 8, 16, 64]),
    spare_blocks=st.integers(0, 3),
)
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_lengths(
    device: str, lens: list[int], splits: int, block_size: int, spare_blocks: int
) -> None:
    width = -(-max(lens) // block_size) + spare_blocks
    c = case(lens, block_size=block_size, blocks_per_row=width, device=device)
    check(paged_attention(*c, splits=splits), dense(c))


def test_a_token_does_not_depend_on_its_neighbours(dtype: torch.dtype, device: str) -> None:
    c = case([70, 3, 130, 17], dtype=dtype, device=device)
    together = paged_attention(*c)
    for t in range(4):
        alone = Case(c.q[t : t + 1], c.cache, c.block_tables, c.rows[t : t + 1], c.context_lens[t:])
        assert torch.equal(paged_attention(*alone)[0], together[t])


def test_padding_rows(device: str) -> None:
    """Tokens that share a row, and tokens without keys, whose result is 0 and never NaN."""
    c = case([5, 40, 5, 5], rows=[2, 0, 2, 2], device=device)
    c.q[2:] = c.q[0]
    out = paged_attention(*c, splits=2)
    check(out, dense(c))
    assert torch.equal(out[2], out[0]) and torch.equal(out[3], out[0])
    for splits in (1, 4):
        empty = c._replace(context_lens=torch.zeros_like(c.context_lens))
        assert not paged_attention(*empty, splits=splits).any()


def metadata(c: Case, **how: Any) -> AttentionMetadata:
    """The plain layer writes keys before it reads any: the last key of each token, as it is."""
    positions = c.context_lens - 1
    size = c.cache.shape[2]
    slots = c.block_tables[c.rows, positions // size] * size + positions % size
    rotary = RotaryTable(c.q.shape[-1], 1e4, 1, c.q.dtype, c.q.device)
    tables = c.block_tables
    return AttentionMetadata(rotary, positions, slots, tables, **how)


def plainly(c: Case, meta: AttentionMetadata) -> Tensor:
    k, v = c.cache.flatten(1, 2)[:, meta.slot_mapping].clone()
    return plain.paged_attention(c.q, k, v, c.cache, meta)


def test_equals_the_plain_decode(dtype: torch.dtype, device: str) -> None:
    c = case([1, 90, 16, 33], heads=8, kv_heads=4, dtype=dtype, device=device)
    mask = plain.decode_mask(c.context_lens, c.block_tables.shape[1] * c.cache.shape[2])
    check(paged_attention(*c, splits=2), plainly(c, metadata(c, mask=mask)))


def test_equals_the_plain_prefill(dtype: torch.dtype, device: str) -> None:
    """A whole prompt of 20 and the last 6 of a prompt of 38, laid end to end."""
    lens = [*range(1, 21), *range(33, 39)]
    c = case(lens, rows=[0] * 20 + [1] * 6, dtype=dtype, device=device)
    meta = metadata(c, cu_seqlens_q=(0, 20, 26), context_lens=(20, 38))
    check(paged_attention(*c), plainly(c, meta))


def test_num_splits() -> None:
    assert [num_splits(t, 8, 132) for t in (1, 2, 3, 4, 5, 8, 9, 64)] == [8, 8, 4, 4, 2, 2, 1, 1]
    assert num_splits(1, 8, 8) == 1


def compiled() -> Iterator[tuple[str, Compiled]]:
    pointers = {"q": "*bf16", "cache": "*bf16", "block_tables": "*i64", "rows": "*i64"}
    constants = {"SCALE": 0.1, "KV_HEADS": 8, "GROUP": 2, "ROWS": 16, "DIM": 128, "BLOCK_SIZE": 16}
    # The talker alone, and the code predictor's 16 positions.
    for splits, keys in ((8, 64), (1, 16)):
        parts = {"out": "*fp32", "log_sums": "*fp32"}
        if splits == 1:
            parts = {"out": "*bf16", "log_sums": "constexpr"}
        values = constants | {"KEYS": keys, "SPLITS": splits}
        signature = pointers | {"context_lens": "*i64"} | parts
        signature |= {"table_stride": "i32", "v_offset": "i32"} | dict.fromkeys(values, "constexpr")
        if splits == 1:
            values["log_sums"] = None
        for capability in CAPABILITIES:
            result = compile_kernel(_attend, signature, values, capability, 4, 3, ("v_offset",))
            yield f"attend splits={splits} keys={keys} sm_{capability}", result
    signature = {"parts": "*fp32", "log_sums": "*fp32", "out": "*bf16"}
    values = {"DIM": 128, "SPLITS": 8}
    signature |= dict.fromkeys(values, "constexpr")
    for capability in CAPABILITIES:
        yield f"join sm_{capability}", compile_kernel(_join, signature, values, capability, 2, 3)


def test_compiles() -> None:
    for label, result in compile_apart(__name__):
        print(label, result)
        result.check()
