"""Matrix products of few rows: decoding reads every weight once per step and computes little with
it, so what matters is that the weights stream in and that nothing else costs a trip to memory.

    y = [residual +] act(norm(x) W^T [* scale] [+ bias])

One kernel does a Qwen3 layer's four products with what surrounds them. A program owns BLOCK_N
output channels for BLOCK_M rows and walks along K, BLOCK_K inputs at a step. So few rows and
channels cannot be divided among several warps. Instead each warp takes a part of the inputs of
every step, for all rows and channels: a batched product [parts, BLOCK_M, BLOCK_N], whose parts are
added at the end:

    step 0                step 1
    | warp 0 | warp 1 ... | warp 0 | warp 1 ...   along K

Sums are float32. Values are rounded to x's dtype where the plain layers round them.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class LinearConfig:
    """How one product is cut up; candidates and the choice among them are in tuning.py."""

    block_m: int  # rows of x per program: 16, 32, 64
    block_n: int  # output channels per program, at least 8
    block_k: int  # inputs per step, at least 16 for each warp
    num_warps: int
    num_stages: int  # steps in flight


@triton.jit
def _rows(pointers, row_inside, k, K: tl.constexpr, STEP: tl.constexpr):
    """A tile of x: k [parts, width] -> [parts, BLOCK_M, width]."""
    mask = row_inside[None, :, None]
    if K % STEP != 0:
        mask &= (k < K)[:, None, :]
    return tl.load(pointers + k[:, None, :], mask=mask, other=0)


@triton.jit
def _weights(pointers, k, K: tl.constexpr, STEP: tl.constexpr):
    """A tile of weights [parts, width, BLOCK_N]: read once, so first to leave the cache."""
    if K % STEP == 0:
        return tl.load(pointers, eviction_policy="evict_first")
    else:
        return tl.load(pointers, mask=(k < K)[:, :, None], other=0, eviction_policy="evict_first")


@triton.jit
def _finish(sums, scale, bias, columns, inside, dtype: tl.constexpr):
    """The sum of the parts, scale and bias in float32, then the product's one rounding."""
    y = tl.sum(sums, 0)
    if scale is not None:
        y *= tl.load(scale + columns, mask=inside, other=0)[None, :].to(tl.float32)
    if bias is not None:
        y += tl.load(bias + columns, mask=inside, other=0)[None, :].to(tl.float32)
    return y.to(dtype)


# M is the batch, which changes at run time: one compiled kernel serves every M.
@triton.jit(do_not_specialize=["M"])
def linear_kernel(
    x,  # [M, K]
    weight,  # [N, K]; GATED: [2 * N, K], gates first
    norm,  # [K] or None
    scale,  # one per row of weight, or None
    bias,  # one per row of weight, or None
    residual,  # [M, N] or None
    out,  # [M, N]
    eps,
    M,
    N,
    K: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
):
    dtype: tl.constexpr = x.dtype.element_ty
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_inside, column_inside = rows < M, columns < N
    x_rows = x + rows[None, :, None] * K

    if norm is not None:
        WIDTH: tl.constexpr = 4096 // BLOCK_M
        squares = tl.zeros([BLOCK_M, WIDTH], tl.float32)
        # Unrolled, so that several loads are under way at once.
        for start in tl.range(0, K, WIDTH, loop_unroll_factor=4):
            k = start + tl.arange(0, WIDTH)
            mask = row_inside[:, None] & (k < K)[None, :]
            a = tl.load(x + rows[:, None] * K + k[None, :], mask=mask, other=0).to(tl.float32)
            squares += a * a
        inverse_rms = tl.rsqrt(tl.sum(squares, 1) / K + eps)[None, :, None]

    WARP_K: tl.constexpr = BLOCK_K // PARTS
    part = tl.arange(0, PARTS)[:, None] * WARP_K + tl.arange(0, WARP_K)[None, :]
    # The last block reads its last channel again rather than past the end; nothing stores it.
    channels = tl.minimum(columns, N - 1)[None, None, :]
    w_columns = weight + channels * K + part[:, :, None]
    sums = tl.zeros([PARTS, BLOCK_M, BLOCK_N], tl.float32)
    up_sums = tl.zeros([PARTS, BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + part
        a = _rows(x_rows, row_inside, k, K, BLOCK_K)
        if norm is not None:
            factor = tl.load(norm + k, mask=k < K, other=0)[:, None, :]
            a = (a.to(tl.float32) * inverse_rms).to(dtype) * factor
        w = _weights(w_columns + start, k, K, BLOCK_K).to(dtype)
        sums = tl.dot(a, w, sums, input_precision="ieee")
        if GATED:
            w = _weights(w_columns + N * K + start, k, K, BLOCK_K).to(dtype)
            up_sums = tl.dot(a, w, up_sums, input_precision="ieee")

    y = _finish(sums, scale, bias, columns, column_inside, dtype)
    if GATED:
        gate = y.to(tl.float32)
        up = _finish(up_sums, scale, bias, columns + N, column_inside, dtype)
        y = (gate / (1 + tl.exp(-gate))).to(dtype) * up
    at = rows[:, None] * N + columns[None, :]
    mask = row_inside[:, None] & column_inside[None, :]
    if residual is not None:
        y += tl.load(residual + at, mask=mask, other=0)
    tl.store(out + at, y, mask=mask)


def fused_linear(
    x: Tensor,
    weight: Tensor,
    config: LinearConfig,
    *,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    norm: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    compile_only: bool = False,
) -> Tensor:
    """x [..., K], weight [N, K] -> [..., N] in x's dtype; all tensors contiguous.

    norm [K] is the weight of an RMSNorm of x with `eps`. gated: weight is [2 N, K], gate rows
    first, and the result silu(gate) * up. scale (with an int8 weight) and bias have one value per
    row of weight. residual [..., N] is added last; `out` may be the residual, but not x.
    K is a multiple of 16. compile_only: nothing is computed.
    """
    K, N = weight.shape[1], weight.shape[0] // (2 if gated else 1)
    assert x.shape[-1] == K and K % 16 == 0
    assert x.is_contiguous() and weight.is_contiguous()
    assert residual is None or residual.is_contiguous()
    if out is None:
        out = torch.empty(*x.shape[:-1], N, dtype=x.dtype, device=x.device)
    assert out.is_contiguous()
    M = x.numel() // K
    # Programs that share weights run next to each other, so that these are read from memory once.
    grid = (triton.cdiv(M, config.block_m), triton.cdiv(N, config.block_n))
    linear_kernel.run(
        x,
        weight,
        norm,
        scale,
        bias,
        residual,
        out,
        eps,
        M,
        N,
        K,
        gated,
        config.block_m,
        config.block_n,
        config.block_k,
        config.num_warps,
        grid=grid,
        warmup=compile_only,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out
