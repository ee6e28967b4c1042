"""Attention over a paged KV cache, and the metadata a batch carries into it.

Cache layout: [2 (k, v), num_blocks, block_size, kv_heads, head_dim] per layer. A token's slot is
block * block_size + offset; a sequence's blocks are listed in its block table in order of position.

Grouped queries ride along as extra query rows of their KV head, so keys and values are never
repeated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryTable, rotate

# attend(qkv [T, heads + 2 * kv_heads, D], the norm of the q and k heads) -> [T, heads * D]
Attend = Callable[[Tensor, RMSNorm], Tensor]


class Attention(Protocol):
    """How a batch of tokens attends, layer after layer; its keys and values end up in `cache`."""

    def attend(self, qkv: Tensor, qk_norm: RMSNorm, cache: Tensor) -> Tensor: ...


def rotated_heads(
    qkv: Tensor, qk_norm: RMSNorm, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [T, heads + 2 * kv_heads, D]; cos, sin [T, 1, D] -> q [T, heads, D], k, v [T, kv_heads,
    D]: q and k normed per head and rotated.
    """
    num_qk = len(qk_norm.weight)
    heads = 2 * num_qk - qkv.shape[1]
    qk = rotate(qk_norm(qkv[:, :num_qk]), cos, sin)
    return qk[:, :heads], qk[:, heads:], qkv[:, num_qk:]


@dataclass(frozen=True)
class AttentionMetadata:
    """Where a batch's tokens sit. T tokens of B sequences, laid end to end. The plain torch form of
    Attention.

    positions [T] int64, slot_mapping [T] int64, block_tables [B, max_blocks] int64 (padded with
    block 0). Decode: one token per sequence (T == B) and `mask` [B, 1, 1, max_blocks * block_size]
    is True at live keys. Prefill: cu_seqlens_q (host ints, B + 1) cuts the tokens; context_lens
    (host ints) count keys incl. this chunk's.
    """

    rotary: RotaryTable
    positions: Tensor
    slot_mapping: Tensor
    block_tables: Tensor
    mask: Tensor | None = None
    cu_seqlens_q: tuple[int, ...] = ()
    context_lens: tuple[int, ...] = ()

    @cached_property
    def _angles(self) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary.at(self.positions)
        return cos[:, None], sin[:, None]

    def attend(self, qkv: Tensor, qk_norm: RMSNorm, cache: Tensor) -> Tensor:
        """cache [2, num_blocks, block_size, kv_heads, D] of one layer."""
        return paged_attention(*rotated_heads(qkv, qk_norm, *self._angles), cache, self)


@dataclass(frozen=True)
class TokenBatch:
    """T tokens for layers that run as a whole (native/decoder.py): rows, positions, slots [T] and
    the block_tables [R, N] of all rows, int64. A token sees its row's positions up to its own.
    """

    rotary: RotaryTable
    rows: Tensor
    positions: Tensor
    slots: Tensor
    block_tables: Tensor


# As Talker.forward's layers and norm: (x [T, H], kv_cache, batch) -> [T, H].
WholeDecoder = Callable[[Tensor, Tensor, TokenBatch], Tensor]


def decode_mask(context_lens: Tensor, num_keys: int) -> Tensor:
    """[B] -> [B, 1, 1, num_keys], True where the key exists."""
    keys = torch.arange(num_keys, device=context_lens.device)
    return (keys < context_lens[:, None])[:, None, None, :]


def paged_attention(
    q: Tensor, k: Tensor, v: Tensor, cache: Tensor, meta: AttentionMetadata
) -> Tensor:
    """Write k, v [T, kv_heads, D] into the cache, then attend with q [T, heads, D]; returns [T,
    heads * D].
    """
    flat = cache.view(2, -1, *cache.shape[3:])
    flat[0].index_copy_(0, meta.slot_mapping, k)
    flat[1].index_copy_(0, meta.slot_mapping, v)
    if meta.mask is not None:
        return _decode(q, cache, meta)
    return _prefill(q, cache, meta)


def _gather(cache: Tensor, block_tables: Tensor) -> tuple[Tensor, Tensor]:
    """Pages of B sequences as k, v [B, kv_heads, keys, D]."""
    pages = cache[:, block_tables]  # [2, B, max_blocks, block_size, kv_heads, D]
    k, v = pages.flatten(2, 3).transpose(2, 3)
    return k, v


def _decode(q: Tensor, cache: Tensor, meta: AttentionMetadata) -> Tensor:
    k, v = _gather(cache, meta.block_tables)
    grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[-1])  # [B, kv_heads, group, D]
    out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=meta.mask)
    return out.reshape(q.shape[0], -1)


def _prefill(q: Tensor, cache: Tensor, meta: AttentionMetadata) -> Tensor:
    outs = []
    for i, length in enumerate(meta.context_lens):
        start, end = meta.cu_seqlens_q[i], meta.cu_seqlens_q[i + 1]
        num_blocks = -(-length // cache.shape[2])
        k, v = _gather(cache, meta.block_tables[i : i + 1, :num_blocks])
        outs.append(_causal(q[start:end], k[:, :, :length], v[:, :, :length]))
    return torch.cat(outs)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [T, heads, D] are the last T of the keys' positions; k, v [1, kv_heads, keys, D]."""
    num_tokens, num_keys, kv_heads = q.shape[0], k.shape[2], k.shape[1]
    rows = torch.arange(num_keys - num_tokens, num_keys, device=q.device)
    mask = torch.arange(num_keys, device=q.device) <= rows[:, None]  # [T, keys]
    grouped = q.view(num_tokens, kv_heads, -1, q.shape[-1]).permute(
        1, 2, 0, 3
    )  # [kv_heads, group, T, D]
    group = grouped.shape[1]
    out = F.scaled_dot_product_attention(
        grouped.reshape(1, kv_heads, group * num_tokens, -1), k, v, attn_mask=mask.repeat(group, 1)
    )
    return out.view(kv_heads, group, num_tokens, -1).permute(2, 0, 1, 3).reshape(num_tokens, -1)
