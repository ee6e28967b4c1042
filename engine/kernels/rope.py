"""Between the fused projection and attention: per-head norm, rotation, and the write into the KV
cache, in one pass over a token's heads.

Equals, for every token, `RMSNorm(heads + kv_heads, D)` on its queries and keys, `rotary.rotate` and
the two `index_copy_` of `layers.attention.paged_attention`. It rounds to the dtype where they do.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


def norm_rope_write(
    qkv: Tensor,
    norm_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    cache: Tensor,
) -> Tensor:
    """qkv [T, heads + 2 * kv_heads, D], norm_weight [heads + kv_heads, D], cos and sin [P, D] of a
    RotaryTable, positions and slots [T] int64 -> q [T, heads, D].

    Keys and values go to cache [2, num_blocks, block_size, kv_heads, D] at slot = block *
    block_size + offset. Of tokens with the same slot any one is kept, so padding may share one.
    """
    num_tokens, num_heads, head_dim = qkv.shape
    kv_heads = cache.shape[3]
    heads = num_heads - 2 * kv_heads
    assert norm_weight.shape == (heads + kv_heads, head_dim)
    assert qkv.is_contiguous() and cache.is_contiguous()
    q = torch.empty((num_tokens, heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    _norm_rope_write[(num_tokens, num_heads)](
        qkv,
        norm_weight,
        cos,
        sin,
        positions,
        slots,
        q,
        cache,
        cache.stride(0),
        eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=head_dim // 2,
        num_warps=1,
        # Fused, product and sum would be rounded once where the layers round twice.
        enable_fp_fusion=False,
    )
    return q


@triton.jit
def _norm_rope_write(
    qkv,
    norm_weight,
    cos,
    sin,
    positions,
    slots,
    q,
    cache,
    v_offset,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """One program per token and head. A head is held as its two halves, which rotation mixes."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    i = tl.arange(0, HALF)
    source = qkv + (token * (HEADS + 2 * KV_HEADS) + head) * (2 * HALF)
    low = tl.load(source + i)
    high = tl.load(source + HALF + i)

    if head < HEADS + KV_HEADS:
        low, high = _normed(low, high, norm_weight + head * (2 * HALF) + i, eps, HALF)
        angle = tl.load(positions + token) * (2 * HALF) + i
        rotated = _rotated(low, high, cos + angle, sin + angle)
        high = _rotated(high, low, cos + angle + HALF, sin + angle + HALF)
        low = rotated

    if head < HEADS:
        target = q + (token * HEADS + head) * (2 * HALF)
    else:
        slot = tl.load(slots + token)
        kv_head = (head - HEADS) % KV_HEADS
        target = cache + (slot * KV_HEADS + kv_head) * (2 * HALF)
        if head >= HEADS + KV_HEADS:
            target += v_offset
    tl.store(target + i, low)
    tl.store(target + HALF + i, high)


@triton.jit
def _normed(low, high, weight, eps, HALF: tl.constexpr):
    """As layers.norm.RMSNorm: float32, cast back, times the weight in that dtype."""
    a, b = low.to(tl.float32), high.to(tl.float32)
    scale = tl.rsqrt((tl.sum(a * a) + tl.sum(b * b)) / (2 * HALF) + eps)
    return (
        _product((a * scale).to(low.dtype), tl.load(weight)),
        _product((b * scale).to(low.dtype), tl.load(weight + HALF)),
    )


@triton.jit
def _rotated(x, partner, cos, sin):
    """As layers.rotary.rotate, for one half of a head and the half that rolls onto it."""
    kept, rolled = _product(x, tl.load(cos)), _product(partner, tl.load(sin))
    return (kept.to(tl.float32) + rolled.to(tl.float32)).to(x.dtype)


@triton.jit
def _product(x, y):
    """Exact in float32 for 16-bit factors, so rounded once: the product in their own dtype."""
    return (x.to(tl.float32) * y.to(tl.float32)).to(x.dtype)
