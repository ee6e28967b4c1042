"""Attention over the paged KV cache: flash attention whose keys are gathered through block tables.

Every token is a row of its own with its own number of keys, so decode, prefill and the code
predictor's one or two positions are the same call, and a token's result does not depend on its
neighbours. Equals `layers.attention.paged_attention` once keys and values are in the cache.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_SPLITS = 8
_MAX_KEYS = 64  # of a tile: k and v are 32 KiB of shared memory at D 128 in 16 bits
_MIN_DIM = 16  # tl.dot takes none smaller: a group of query heads is padded to this


def num_splits(num_tokens: int, kv_heads: int, num_sms: int) -> int:
    """Into how many programs to cut each token's keys: as many, of 1, 2, 4 and 8, as still have a
    multiprocessor each.
    """
    splits = 1
    while splits < MAX_SPLITS and num_tokens * kv_heads * splits * 2 <= num_sms:
        splits *= 2
    return splits


def paged_attention(
    q: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    rows: Tensor,
    context_lens: Tensor,
    *,
    splits: int = 1,
) -> Tensor:
    """q [T, heads, D], cache [2, num_blocks, block_size, kv_heads, D], block_tables [R, N] int64,
    rows and context_lens [T] int64 -> [T, heads * D].

    Token t sees the first context_lens[t] keys, its own included, of block_tables[rows[t]]; without
    any its result is 0. With `splits` (a power of two) above 1 the keys are dealt out to that many
    programs, and a second kernel joins what they found.
    """
    num_tokens, heads, head_dim = q.shape
    block_size, kv_heads = cache.shape[2:4]
    assert q.is_contiguous() and cache.is_contiguous() and block_tables.stride(1) == 1
    out = torch.empty((num_tokens, heads * head_dim), dtype=q.dtype, device=q.device)
    parts, weights = out, None
    if splits > 1:
        shape = (num_tokens, heads, splits)
        parts = torch.empty((*shape, head_dim), dtype=torch.float32, device=q.device)
        weights = torch.empty(shape, dtype=torch.float32, device=q.device)
    _attend[(num_tokens, kv_heads, splits)](
        q,
        cache,
        block_tables,
        rows,
        context_lens,
        parts,
        weights,
        block_tables.stride(0),
        cache.stride(0),
        SCALE=math.log2(math.e) / math.sqrt(head_dim),
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        ROWS=max(_MIN_DIM, triton.next_power_of_2(heads // kv_heads)),
        DIM=head_dim,
        BLOCK_SIZE=block_size,
        KEYS=_tile(block_tables.shape[1] * block_size),
        SPLITS=splits,
        num_warps=4,
        num_stages=3,  # block numbers two tiles ahead, their keys and values one
    )
    if splits > 1:
        _join[(num_tokens * heads,)](parts, weights, out, DIM=head_dim, SPLITS=splits, num_warps=2)
    return out


def _tile(max_keys: int) -> int:
    return max(_MIN_DIM, min(_MAX_KEYS, triton.next_power_of_2(max_keys)))


@triton.jit
def _attend(
    q,
    cache,
    block_tables,
    rows,
    context_lens,
    out,
    log_sums,
    table_stride,
    v_offset,
    SCALE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """One program per token, KV head and split of the keys: softmax by running maximum and sum.

    out [T, heads, SPLITS, D]: the result over the split's own keys; log_sums [T, heads, SPLITS]:
    log2 of what it was divided by, None for a single split. SCALE turns products into powers of 2.
    """
    token = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(context_lens + token).to(tl.int32)
    share = tl.cdiv(tl.cdiv(length, KEYS), SPLITS) * KEYS
    end = tl.minimum((split + 1) * share, length)  # before its start when there are fewer tiles

    i, d = tl.arange(0, ROWS), tl.arange(0, DIM)
    head = (token * KV_HEADS + kv_head) * GROUP + i
    in_group = i < GROUP
    query = tl.load(q + head[:, None] * DIM + d, mask=in_group[:, None], other=0.0)
    table = block_tables + tl.load(rows + token) * table_stride
    precision: tl.constexpr = "ieee" if query.dtype == tl.float32 else "tf32"  # 16 bits: no effect

    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, DIM], tl.float32)
    for start in range(split * share, end, KEYS):
        key = start + tl.arange(0, KEYS)
        live = key < end
        block = tl.load(table + key // BLOCK_SIZE, mask=live, other=0)
        slot = block * BLOCK_SIZE + key % BLOCK_SIZE
        source = cache + (slot * KV_HEADS + kv_head)[:, None] * DIM + d
        k = tl.load(source, mask=live[:, None], other=0.0)
        v = tl.load(source + v_offset, mask=live[:, None], other=0.0)

        score = tl.dot(query, tl.trans(k), input_precision=precision) * SCALE  # [ROWS, KEYS]
        score = tl.where(live[None, :], score, -float("inf"))
        new_top = tl.maximum(top, tl.max(score, 1))  # finite: every tile has a live key
        power = tl.exp2(score - new_top[:, None])
        fade = tl.exp2(top - new_top)
        total = total * fade + tl.sum(power, 1)
        mean *= fade[:, None]
        mean = tl.dot(power.to(v.dtype), v, mean, input_precision=precision)
        top = new_top

    total = tl.where(total > 0, total, 1.0)  # no keys: mean is 0, top -inf
    mean /= total[:, None]
    part = head * SPLITS + split
    target = out + part[:, None] * DIM + d
    tl.store(target, mean.to(out.dtype.element_ty), mask=in_group[:, None])
    if SPLITS > 1:
        tl.store(log_sums + part, top + tl.log2(total), mask=in_group)


@triton.jit
def _join(parts, log_sums, out, DIM: tl.constexpr, SPLITS: tl.constexpr):
    """One program per token and head: the splits' means, weighted by their sums."""
    head = tl.program_id(0).to(tl.int64)
    split, d = tl.arange(0, SPLITS), tl.arange(0, DIM)
    log_sum = tl.load(log_sums + head * SPLITS + split)
    top = tl.max(log_sum, 0)
    weight = tl.exp2(log_sum - tl.where(top == -float("inf"), 0.0, top))  # without keys: 0
    total = tl.sum(weight, 0)
    part = tl.load(parts + (head * SPLITS + split)[:, None] * DIM + d)
    mean = tl.sum(part * weight[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + head * DIM + d, mean.to(out.dtype.element_ty))
