"""The fused product against torch's operators, its tuning, and what the compiler makes of it."""

import itertools
import os
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.kernels.linear import LinearConfig, fused_linear, linear_kernel
from engine.kernels.tuning import SHAPES, Choice, candidates, choose
from engine.layers.linear import quantise
from tests.kernels.compiling import SHARED_LIMIT, Compiled, compile_apart, compile_kernel

CUDA = torch.cuda.is_available()
SMALL = LinearConfig(block_m=16, block_n=16, block_k=32, num_warps=2, num_stages=2)
EPS = 1e-6
OPTIONS = ("norm", "gated", "bias", "residual", "int8")


def reference(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    norm: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """What `fused_linear` computes, in torch's own operators and with the same roundings."""
    if norm is not None:
        x = F.rms_norm(x, x.shape[-1:], None, eps) * norm
    wide = weight.float() if scale is None else weight.float() * scale[:, None]
    y = F.linear(x.float(), wide, None if bias is None else bias.float()).to(x.dtype)
    if gated:
        gate, up = y.chunk(2, dim=-1)
        y = F.silu(gate) * up
    return y if residual is None else residual + y


def operands(M: int, N: int, K: int, options: tuple[str, ...], device: str, dtype: torch.dtype):
    """x, weight and the keyword arguments of a product with the named options."""
    generator = torch.Generator().manual_seed(M * 7919 + N * 31 + K)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    outputs = 2 * N if "gated" in options else N
    weight, scale = normal(outputs, K) * K**-0.5, None
    if "int8" in options:
        weight, scale = quantise(weight)
    return (normal(M, K), weight), {
        "norm": normal(K) if "norm" in options else None,
        "eps": EPS,
        "gated": "gated" in options,
        "bias": normal(outputs) if "bias" in options else None,
        "scale": scale,
        "residual": normal(M, N) if "residual" in options else None,
    }


def check(M, N, K, options, config=SMALL, device="cpu", dtype=torch.float32) -> None:
    (x, weight), keywords = operands(M, N, K, options, device, dtype)
    y = fused_linear(x, weight, config, **keywords)
    expected = reference(x, weight, **keywords)
    assert y.shape == (M, N) and y.dtype == dtype
    # bfloat16: one rounding of the intermediate values to the other side, for a few of them.
    tolerance = 1e-5 if dtype == torch.float32 else 6e-2
    torch.testing.assert_close(y, expected, atol=tolerance, rtol=tolerance)


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [s for n in range(len(names) + 1) for s in itertools.combinations(names, n)]


@pytest.mark.parametrize("options", subsets(OPTIONS), ids="+".join)
def test_every_combination_of_options(options, device, dtype):
    check(3, 20, 80, options, device=device, dtype=dtype)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 70),
    channels=st.integers(1, 50),
    inputs=st.integers(1, 8).map(lambda n: 16 * n),
    options=st.sets(st.sampled_from(OPTIONS)).map(tuple),
    block_m=st.sampled_from([16, 32, 64]),
    block_n=st.sampled_from([8, 16, 32]),
    block_k=st.sampled_from([32, 64]),
)
def test_ragged_shapes(rows, channels, inputs, options, block_m, block_n, block_k):
    config = LinearConfig(block_m, block_n, block_k, num_warps=2, num_stages=2)
    check(rows, channels, inputs, options, config, "cuda" if CUDA else "cpu")


@pytest.mark.parametrize("block_m", SHAPES)
def test_candidates_compute_the_same(block_m, device, dtype):
    """The shapes that tuning tries, where K has several steps and where it has less than one."""
    for K in (16, 1040):
        for config in candidates(block_m, 24, K, True, dtype, SHARED_LIMIT[89]):
            check(block_m - 1, 24, K, ("norm", "gated", "residual"), config, device, dtype)


def test_leading_dimensions_and_a_residual_in_place(device, dtype):
    (x, weight), keywords = operands(6, 24, 32, ("residual",), device, dtype)
    expected = reference(x, weight, **keywords).view(2, 3, 24)
    residual = keywords.pop("residual").view(2, 3, 24)
    y = fused_linear(x.view(2, 3, 32), weight, SMALL, residual=residual, out=residual)
    assert y is residual
    tolerance = 1e-5 if dtype == torch.float32 else 6e-2
    torch.testing.assert_close(y, expected, atol=tolerance, rtol=tolerance)


def test_quantised_weights_are_near(device):
    weight = torch.randn(40, 64, device=device)
    weight[3] = 0  # a channel of zeros keeps a scale to divide by
    values, scale = quantise(weight)
    assert values.dtype == torch.int8 and values.abs().max() == 127
    assert ((values * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()


# Tuning


def test_candidates_fit_and_cover_the_rows():
    for M, gated, shared in itertools.product((1, 16, 17, 64, 200), (0, 1), SHARED_LIMIT.values()):
        configs = candidates(M, 3072, 1024, bool(gated), torch.bfloat16, shared)
        assert 2 <= len(configs) <= 5 and len(set(configs)) == len(configs)
        assert all(c.block_m >= min(M, 64) and c.block_m < max(2 * M, 17) for c in configs)


def test_candidates_divide_the_inputs_where_one_does():
    assert {c.block_k for c in candidates(1, 64, 640, False, torch.bfloat16, 99 << 10)} == {128}
    assert candidates(1, 64, 48, False, torch.bfloat16, 99 << 10)


def test_candidates_drop_stages_then_vanish():
    deep, shallow = (candidates(64, 64, 2048, True, torch.float32, s << 10) for s in (512, 160))
    assert deep[0].num_stages > shallow[0].num_stages
    assert candidates(64, 64, 2048, True, torch.float32, 16 << 10) == []


class Stopwatch:
    """Takes a run's time from a table instead of a clock."""

    def __init__(self, seconds: dict[LinearConfig | None, float | Exception]) -> None:
        self.seconds, self.ran = seconds, []

    def run(self, config: LinearConfig | None) -> None:
        self.ran.append(config)

    def measure(self, work, device: torch.device) -> float:
        work()
        seconds = self.seconds[self.ran[-1]]
        if isinstance(seconds, Exception):
            raise seconds
        return seconds


def chosen(plain: float, *others: float | Exception):
    configs = [LinearConfig(16, 16, 16 << n, 4, 2) for n in range(len(others))]
    watch = Stopwatch({None: plain, **dict(zip(configs, others, strict=True))})
    choice = choose(watch.run, [None, *configs], torch.device("cpu"), watch.measure)
    assert watch.ran == [None, *configs]
    return (None if choice.config is None else configs.index(choice.config)), choice.seconds


def test_the_fastest_is_chosen():
    assert chosen(3.0, 2.0, 1.0, 4.0) == (1, 1.0)


def test_the_plain_path_may_be_the_fastest():
    assert chosen(1.0, 2.0) == (None, 1.0)
    assert chosen(1.0) == (None, 1.0)


def test_what_does_not_fit_the_gpu_is_passed_over():
    from triton.runtime.errors import OutOfResources

    assert chosen(3.0, OutOfResources(2, 1, "shared memory"), 2.0) == (1, 2.0)


def test_what_does_not_run_here_is_left_out_and_said(caplog):
    assert chosen(3.0, RuntimeError("broken"), 2.0) == (1, 2.0)
    assert "is left out on cpu" in caplog.text and "broken" in caplog.text


def test_something_must_fit():
    watch = Stopwatch({SMALL: 2.0})
    cpu = torch.device("cpu")
    assert choose(watch.run, [SMALL], cpu, watch.measure) == Choice(SMALL, 2.0)
    with pytest.raises(ValueError, match="fits"):
        choose(watch.run, [], cpu, watch.measure)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="measures on a GPU")
def test_choice_on_a_gpu():
    from engine.kernels.tuning import shared_limit

    device = torch.device("cuda", torch.cuda.current_device())
    (x, weight), _ = operands(4, 1024, 1024, (), "cuda", torch.bfloat16)
    configs = [None, *candidates(4, 1024, 1024, False, x.dtype, shared_limit(device))]

    def run(config: LinearConfig | None) -> None:
        x @ weight.T if config is None else fused_linear(x, weight, config)

    choice = choose(run, configs, device)
    assert choice.config in configs and 0 < choice.seconds < 1


# Compiling: every product of the layers in the 1.7B model and its code predictor.

PRODUCTS = [  # K, N, options
    (2048, 4096, ("norm",)),
    (2048, 2048, ("residual",)),
    (2048, 6144, ("norm", "gated")),
    (6144, 2048, ("residual",)),
    (1024, 4096, ("norm",)),
    (2048, 1024, ("residual",)),
    (1024, 3072, ("norm", "gated")),
    (3072, 1024, ("residual",)),
]
EVERY = 83  # of all variants: a sample of every kind in seconds; QTTS_COMPILE_ALL=1 takes all


def variants() -> Iterator[tuple]:
    """(capability, K, options, config) of all candidates; N changes nothing for the compiler."""
    seen = set()
    for (K, N, options), form, capability, M in itertools.product(
        PRODUCTS, ((), ("int8",)), SHARED_LIMIT, SHAPES
    ):
        weight_dtype = torch.int8 if form else torch.bfloat16
        shared, gated = SHARED_LIMIT[capability], "gated" in options
        for config in candidates(M, N, K, gated, torch.bfloat16, shared, weight_dtype):
            variant = (capability, K, options + form, config)
            if variant not in seen:
                seen.add(variant)
                yield variant


def compiled() -> Iterator[tuple[str, Compiled]]:
    every = 1 if "QTTS_COMPILE_ALL" in os.environ else EVERY
    for capability, K, options, config in itertools.islice(variants(), 0, None, every):
        int8 = "int8" in options
        signature = {
            "x": "*bf16",
            "weight": "*i8" if int8 else "*bf16",
            "norm": "*bf16" if "norm" in options else "constexpr",
            "scale": "*fp32" if int8 else "constexpr",
            "bias": "constexpr",
            "residual": "*bf16" if "residual" in options else "constexpr",
            "out": "*bf16",
            "eps": "fp32",
            "M": "i32",
            "N": "i32",
        }
        constants = {
            "K": K,
            "GATED": "gated" in options,
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "BLOCK_K": config.block_k,
            "PARTS": config.num_warps,
        }
        absent = {name: None for name, kind in signature.items() if kind == "constexpr"}
        signature |= dict.fromkeys(constants, "constexpr")
        numbers = compile_kernel(
            linear_kernel,
            signature,
            absent | constants,
            capability,
            config.num_warps,
            config.num_stages,
            divisible=("N",),
        )
        yield f"K {K} {'+'.join(options)} {config}", numbers


@pytest.mark.slow
def test_candidates_compile_without_spills():
    found = compile_apart(__name__)
    for label, numbers in found:
        print(label, numbers)
    assert {numbers.capability for _, numbers in found} == set(SHARED_LIMIT)
    for _, numbers in found:
        numbers.check()
