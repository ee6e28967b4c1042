"""The kernel of the codec's convolutions by itself."""

import math
from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl

from engine.kernels.codec_conv import ConvConfig, choose_config, conv, conv_kernel, sine_squared
from tests.kernels.compiling import CAPABILITIES, Compiled, compile_apart, compile_kernel

# Channels in, columns, channels out and taps of the official codec, and what each kind is given.
SNAKE = ("alpha", "inverse_beta")
UP, ADDS, LAST = (*SNAKE, "tail", "plain"), (*SNAKE, "residual", "plain"), (*SNAKE, "residual")
OFFICIAL = [
    (1024, 1536, 1536, 7, SNAKE),
    *(
        shape
        for width, rate in ((768, 8), (384, 5), (192, 4), (96, 3))
        for shape in (
            (2 * width, rate * width, width, 2, UP),
            (width, width, width, 7, SNAKE),
            (width, width, width, 1, ADDS),
            (width, width, width, 1, LAST),
        )
    ),
    (96, 1, 1, 7, ()),
]


@triton.jit
def _sines(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, sine_squared(tl.load(x + at)))


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1000.0, 4000.0])
def test_sine(scale: float, device: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4096, device=device) * scale
    x[:8] = torch.arange(8) * (math.pi / 2)  # both ends of the polynomial
    y = torch.empty_like(x)
    _sines[(1,)](x, y, len(x))
    assert (y.double() - x.double().sin() ** 2).abs().max() < 4e-7


def test_sine_beyond_all_measure(device: str) -> None:
    x = torch.tensor([1e9, -3e15, 1e18, 0.0], device=device)
    y = torch.empty_like(x)
    _sines[(1,)](x, y, len(x))
    assert y.min() >= 0 and y.max() <= 1 + 1e-6


@pytest.mark.parametrize("config", [ConvConfig(16, 16, 16, 1, 1), ConvConfig(32, 32, 32, 1, 1)])
@pytest.mark.parametrize(("channels", "columns"), [(16, 32), (20, 7)])
def test_equals_torch(config: ConvConfig, channels: int, columns: int, device: str) -> None:
    """Tiles that fit and that do not, whose rows are of two streams; what lies ahead is not
    written.
    """
    torch.manual_seed(0)
    x = torch.randn(2, 4 + 13, channels, device=device)
    weight = torch.randn(3, channels, columns, device=device)
    bias = torch.randn(columns, device=device)
    out = torch.full((2, 5 + 13, columns), 9.0, device=device)
    conv(x, weight.flatten(0, 1), bias, out, taps=3, dilation=2, ahead=5, config=config)
    expected = torch.conv1d(x.mT, weight.permute(2, 1, 0), bias, dilation=2)
    torch.testing.assert_close(out[:, 5:].mT, expected, atol=1e-4, rtol=1e-4)
    assert (out[:, :5] == 9).all()


def compiled() -> Iterator[tuple[str, Compiled]]:
    integers = ("M", "T", "dilation", "ahead")
    for channels, columns, width, taps, given in OFFICIAL:
        values = {"C": channels, "N": columns, "CHANNELS": width, "TAPS": taps}
        for num_times in (48, 1_000_000):
            config = choose_config(num_times, columns, channels, torch.bfloat16)
            values |= {f"BLOCK_{name}": getattr(config, f"block_{name.lower()}") for name in "MNK"}
            absent = dict.fromkeys({*UP, *ADDS} - set(given))
            signature = {
                name: "i32"
                if name in integers
                else "constexpr"
                if name in values or name in absent
                else "*bf16"
                for name in conv_kernel.arg_names
            }
            for capability in CAPABILITIES:
                result = compile_kernel(
                    conv_kernel,
                    signature,
                    values | absent,
                    capability,
                    config.num_warps,
                    config.num_stages,
                )
                yield f"{channels} -> {columns}, {taps} taps, {config} sm_{capability}", result


@pytest.mark.slow
def test_compiles() -> None:
    for label, result in compile_apart(__name__):
        print(label, result)
        result.check()
