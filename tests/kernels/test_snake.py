"""The codec's activation against the layer, for every layout that the codec's stages hand it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from engine.kernels.snake import _snake, snake
from engine.models.codec_layers import CausalConv, CausalUpsample, SnakeBeta
from tests.kernels.compiling import CAPABILITIES, Compiled, compile_apart, compile_kernel


def layer(channels: int, device: str) -> SnakeBeta:
    torch.manual_seed(channels)
    act = SnakeBeta(channels).to(device)
    act.alpha.data.normal_()
    act.beta.data.normal_()
    act.finish_loading()
    return act


def check(x: Tensor) -> None:
    act = layer(x.shape[1], x.device.type)
    y = snake(x, act.alpha, act.beta)
    assert y.shape == x.shape and y.dtype == x.dtype and y.is_contiguous()
    # Of 16-bit samples too the kernel computes in float32 and rounds once.
    torch.testing.assert_close(y, act(x.float()).to(x.dtype))


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (2, 7, 3), (1, 1536, 4), (3, 96, 40), (1, 5, 1024), (2, 3, 1500), (1, 130, 33)],
    ids=str,
)
def test_equals_the_layer(shape: tuple[int, ...], device: str) -> None:
    check(torch.randn(shape, device=device) * 4)


def test_float16(device: str) -> None:
    check(torch.randn(2, 20, 70, device=device).half() * 4)


def test_any_strides(device: str) -> None:
    whole = torch.randn(4, 48, 90, device=device)
    check(whole[1:3, 5:40, 3:77])
    check(whole[..., ::2])
    check(torch.randn(2, 60, 24, device=device).mT)
    check(torch.randn(60, 24, 2, device=device).permute(2, 0, 1))
    check(torch.randn(2, 24, 1, device=device).expand(2, 24, 16))


def test_after_the_stages_before_it(device: str) -> None:
    upsample, conv = CausalUpsample("up", 6, 4, 6, 3), CausalConv("conv", 4, 4, 3)
    for stage in (upsample, conv):
        stage.to(device)
        stage.weight.data.normal_()
        stage.bias.data.normal_()
    names = [*upsample.state_shapes(), *conv.state_shapes()]
    state = {name: torch.zeros(2, *shape, device=device) for name, shape in names}
    for length in (5, 1):
        y = upsample(torch.randn(2, 6, length, device=device), state)
        check(y)
        check(conv(y, state))
        check(state["conv"])


def compiled() -> Iterator[tuple[str, Compiled]]:
    signature = dict.fromkeys(("x", "alpha", "inverse_beta", "out"), "*bf16")
    integers = ("stride_b", "stride_c", "stride_t", "channels", "length")
    signature |= dict.fromkeys(integers, "i32")
    # As for a contiguous signal of 1,920 samples a frame; its stride 1 is a constant.
    values = {"TIMES": 1024, "TILE": 1024, "stride_t": 1}
    signature |= dict.fromkeys(values, "constexpr")
    divisible = ("stride_b", "stride_c", "channels", "length")
    for capability in CAPABILITIES:
        result = compile_kernel(_snake, signature, values, capability, 4, 3, divisible)
        yield f"snake sm_{capability}", result


def test_compiles() -> None:
    for label, result in compile_apart(__name__):
        print(label, result)
        # No register spills: the exact sine keeps a table for arguments beyond 100,000 there.
        assert result.spills <= 32
        result._replace(spills=0).check()
