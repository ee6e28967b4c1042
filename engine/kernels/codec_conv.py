"""A causal convolution of the codec, with what surrounds it, as one matrix product.

    y = snake([residual +] [tail +] conv(x) + bias)

Activations are channels-last [B, T, C]. In memory the new samples of a stream follow its past, so
nothing has to be concatenated and every tap is found in the same tensor:

    x [B, past + T, C]      |<- past = (TAPS - 1) * dilation ->|<- T new ->|
    output at time t        sum over taps of x[t + tap * dilation] @ weight[tap]

A program owns BLOCK_N columns of BLOCK_M times, of whichever rows they are, and walks along taps
and channels, BLOCK_K of these at a step. Sums and what follows them are float32, rounded once.

A transposed convolution of kernel 2r and stride r is a convolution with two taps, the time before
and this one, and r * channels columns: times and channels of the output lie in this order.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

# Multiprocessors of a large GPU: with fewer programs than these, narrower ones.
ENOUGH_PROGRAMS = 132


@dataclass(frozen=True)
class ConvConfig:
    """How one convolution is cut up."""

    block_m: int  # times per program
    block_n: int  # columns per program
    block_k: int  # channels per step
    num_warps: int
    num_stages: int  # steps in flight


# By columns of the output: the first entry with at least so many columns; times, columns, channels,
# warps, stages. On an H200 in bfloat16 within 3 % of the best of 25, except for one tap of 96.
WIDE = {
    384: ConvConfig(128, 128, 64, 8, 3),
    192: ConvConfig(128, 64, 64, 4, 3),
    64: ConvConfig(128, 128, 32, 8, 4),
    1: ConvConfig(64, 16, 32, 4, 4),
}
# For so few times that the wide ones would be fewer than the GPU's processors.
NARROW = ConvConfig(64, 32, 64, 4, 4)
# Products of 32 bits have no tensor cores: registers hold the tiles.
FLOAT32 = ConvConfig(32, 32, 16, 4, 2)


def choose_config(num_times: int, columns: int, channels: int, dtype: torch.dtype) -> ConvConfig:
    """For x of `num_times` times in all rows together."""
    if dtype == torch.float32:
        return FLOAT32
    config = next(config for least, config in WIDE.items() if columns >= least)
    programs = triton.cdiv(num_times, config.block_m) * triton.cdiv(columns, config.block_n)
    if programs < ENOUGH_PROGRAMS and columns > NARROW.block_n:
        config = NARROW
    if channels % config.block_k:  # a part of every step would be empty
        config = ConvConfig(config.block_m, config.block_n, 32, config.num_warps, 4)
    return config


@triton.jit
def sine_squared(angle):
    """sin(angle)^2 in float32, to 3e-7 up to angles of thousands.

    Its period is pi, which is taken off in two parts, the first exact. Of what is left, r within
    [-pi/2, pi/2], a polynomial gives sin(r) / r. Angles of which float32 tells no more than their
    size give something from 0 to 1, too.
    """
    periods = tl.floor(angle * 0.3183098861837907 + 0.5)
    r = (angle - periods * 3.140625) - periods * 0.0009676535897931
    u = tl.minimum(r * r, 2.4674011002723395)
    p = 0.008333017118275166 + u * (-0.00019806614727713168 + u * 2.6000534489867277e-06)
    ratio = 1 + u * (-0.16666656732559204 + u * p)
    return u * ratio * ratio


# Rows and times change at run time: one compiled kernel serves all.
@triton.jit(do_not_specialize=["M", "T", "dilation", "ahead"])
def conv_kernel(
    x,  # [B, (TAPS - 1) * dilation + T, C]
    weight,  # [TAPS * C, N]
    bias,  # [CHANNELS]
    alpha,  # [CHANNELS] or None: no activation
    inverse_beta,  # [CHANNELS] or None
    tail,  # [B, CHANNELS, N / CHANNELS] or None: added to the first time
    residual,  # [B, T, N] or None
    plain,  # [B, T, N] or None: y before the activation
    out,  # [B, ahead + T * N / CHANNELS, CHANNELS]
    M,
    T,
    dilation,
    ahead,
    C: tl.constexpr,
    N: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    COLUMN_BLOCKS: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    # Programs that share times run next to each other, so that these are read from memory once.
    program = tl.program_id(0)
    m = (program // COLUMN_BLOCKS) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (program % COLUMN_BLOCKS) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # The last block reads its last time again rather than past the end; nothing stores it.
    row = tl.minimum(m, M - 1) // T
    time = tl.minimum(m, M - 1) % T
    first = (row * (T + (TAPS - 1) * dilation) + time).to(tl.int64) * C
    x_tile = x + first[:, None] + k[None, :]
    weight_tile = weight + k[:, None] * N + n[None, :]

    STEPS: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(TAPS * STEPS):
        tap = step // STEPS
        channel = (step % STEPS) * BLOCK_K
        a_at = x_tile + (tap * dilation * C + channel)
        w_at = weight_tile + (tap * C + channel) * N
        if C % BLOCK_K == 0:
            a = tl.load(a_at)
        else:
            a = tl.load(a_at, mask=(k < C - channel)[None, :], other=0)
        if C % BLOCK_K == 0 and N % BLOCK_N == 0:
            w = tl.load(w_at)
        else:
            w = tl.load(w_at, mask=(k < C - channel)[:, None] & (n < N)[None, :], other=0)
        sums = tl.dot(a, w, sums, input_precision="ieee")

    inside = (m < M)[:, None] & (n < N)[None, :]
    of = n % CHANNELS
    y = sums + tl.load(bias + of, mask=n < N, other=0).to(tl.float32)[None, :]
    at = m.to(tl.int64)[:, None] * N + n[None, :]
    if tail is not None:
        late = (
            tail + row.to(tl.int64)[:, None] * N + (of * (N // CHANNELS) + n // CHANNELS)[None, :]
        )
        y += tl.load(late, mask=inside & (time == 0)[:, None], other=0).to(tl.float32)
    if residual is not None:
        y += tl.load(residual + at, mask=inside, other=0).to(tl.float32)
    if plain is not None:
        tl.store(plain + at, y.to(plain.dtype.element_ty), mask=inside)
    if alpha is not None:
        a = tl.load(alpha + of, mask=n < N, other=0).to(tl.float32)
        scale = tl.load(inverse_beta + of, mask=n < N, other=0).to(tl.float32)
        y += sine_squared(y * a[None, :]) * scale[None, :]
    before = (row.to(tl.int64) + 1) * ahead * CHANNELS
    tl.store(out + before[:, None] + at, y.to(out.dtype.element_ty), mask=inside)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    *,
    taps: int,
    dilation: int = 1,
    ahead: int = 0,
    snake: tuple[Tensor, Tensor] | None = None,
    tail: Tensor | None = None,
    residual: Tensor | None = None,
    plain: Tensor | None = None,
    config: ConvConfig | None = None,
    compile_only: bool = False,
) -> None:
    """x [B, (taps - 1) * dilation + T, C], weight [taps * C, N], bias [channels] -> `out` [B, ahead
    + T * N / channels, channels] from its row `ahead` on.

    snake: the factors a and 1 / b [channels] of the activation, without which y itself is written.
    tail [B, channels, N / channels] is added to the first time, residual [B, T, N] to all; `plain`
    [B, T, N] takes y as it is before the activation. All contiguous, of one dtype. compile_only:
    nothing is computed.
    """
    batch, (columns, channels) = len(x), (weight.shape[1], len(bias))
    length = x.shape[1] - (taps - 1) * dilation
    for tensor in (x, weight, bias, out, tail, residual, plain, *(snake or ())):
        assert tensor is None or tensor.is_contiguous()
    assert weight.shape[0] == taps * x.shape[2]
    assert out.numel() == batch * (ahead * channels + length * columns)
    M = batch * length
    config = config or choose_config(M, columns, x.shape[2], x.dtype)
    grid = (triton.cdiv(M, config.block_m) * triton.cdiv(columns, config.block_n),)
    alpha, inverse_beta = snake or (None, None)
    conv_kernel.run(
        x,
        weight,
        bias,
        alpha,
        inverse_beta,
        tail,
        residual,
        plain,
        out,
        M,
        length,
        dilation,
        ahead,
        x.shape[2],
        columns,
        channels,
        taps,
        config.block_m,
        config.block_n,
        config.block_k,
        grid=grid,
        warmup=compile_only,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
