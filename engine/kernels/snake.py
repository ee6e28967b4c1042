"""The codec's activation in one pass over the samples, where plain torch makes four."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 1024


def snake(x: Tensor, alpha: Tensor, inverse_beta: Tensor) -> Tensor:
    """x [B, C, T] of any strides, alpha and inverse_beta [C] -> x + sin(alpha * x)^2 *
    inverse_beta, contiguous, in x's dtype: codec_layers.SnakeBeta, with float32 in between.
    """
    batch, channels, length = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    times = min(_TILE, triton.next_power_of_2(length))
    grid = (triton.cdiv(length, times), triton.cdiv(channels, _TILE // times), batch)
    _snake[grid](
        x, alpha, inverse_beta, out, *x.stride(), channels, length, TIMES=times, TILE=_TILE
    )
    return out


@triton.jit
def _snake(
    x,
    alpha,
    inverse_beta,
    out,
    stride_b,
    stride_c,
    stride_t,
    channels,
    length,
    TIMES: tl.constexpr,
    TILE: tl.constexpr,
):
    """A program's tile is TIMES long and as many channels high as make TILE samples: low for long
    signals, high for the short ones of the first stages.
    """
    t = tl.program_id(0) * TIMES + tl.arange(0, TIMES)
    c = tl.program_id(1) * (TILE // TIMES) + tl.arange(0, TILE // TIMES)
    b = tl.program_id(2).to(tl.int64)
    mask = (c < channels)[:, None] & (t < length)
    a = tl.load(alpha + c, mask=c < channels, other=0.0).to(tl.float32)
    scale = tl.load(inverse_beta + c, mask=c < channels, other=0.0).to(tl.float32)
    source = x + b * stride_b + c[:, None] * stride_c + t * stride_t
    value = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    wave = tl.sin(value * a[:, None])
    value += wave * wave * scale[:, None]
    target = out + (b * channels + c[:, None]) * length + t
    tl.store(target, value.to(out.dtype.element_ty), mask=mask)
