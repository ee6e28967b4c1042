"""Drawing codes in one kernel, against engine/runner/sampler.py."""

import random
from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.config import Sampling
from engine.kernels import sampling
from engine.kernels.sampling import sample_code0, sample_codes
from engine.layers.sampling_table import SamplingTable
from engine.runner import sampler
from engine.runner.row_buffers import NEVER
from tests.kernels.compiling import CAPABILITIES, Compiled, compile_apart, compile_kernel

VOCAB, NUM_CODES, EOS = 90, 64, 70

fast = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def any_sampling(rng: random.Random) -> Sampling:
    def of_a_net() -> tuple[float, int, float]:
        temperature = rng.choice([0.0, 0.5, 0.9, 1.0, 1.7])
        return temperature, rng.choice([-1, 0, 1, 5, 50, 1000]), rng.choice([1.0, 1.0, 0.9, 0.3])

    (t, k, p), (sub_t, sub_k, sub_p) = of_a_net(), of_a_net()
    penalty, seed = rng.choice([1.0, 1.05, 2.0]), rng.getrandbits(64)
    return Sampling(t, k, p, penalty, sub_t, sub_k, sub_p, seed, rng.random() < 0.3)


def table_of(samplings: list[Sampling], device: str) -> SamplingTable:
    table = SamplingTable(len(samplings), torch.device(device))
    for row, s in enumerate(samplings):
        table.set(row, s)
    return table


def greedy_but(**changes: float) -> Sampling:
    values = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 1}
    values |= {"subtalker_temperature": 0.0, "subtalker_top_k": 0, "subtalker_top_p": 1.0}
    return Sampling(**(values | changes))  # type: ignore[arg-type]


def test_the_table_holds_what_it_is_given(device: str) -> None:
    rng = random.Random(0)
    samplings = [any_sampling(rng) for _ in range(9)]
    table = SamplingTable(10, torch.device(device))
    for row in rng.sample(range(9), 9):
        table.set(row, samplings[row])
    for row, s in enumerate(samplings):
        assert table.temperature[row].tolist() == pytest.approx(
            [s.temperature, s.subtalker_temperature]
        )
        assert table.top_k[row].tolist() == [max(0, s.top_k), max(0, s.subtalker_top_k)]
        assert table.top_p[row].tolist() == pytest.approx([s.top_p, s.subtalker_top_p])
        assert table.penalty[row].item() == pytest.approx(s.repetition_penalty)
        assert table.seeds[row].item() % 2**64 == s.seed
        assert table.ignore_eos[row].item() == s.ignore_eos
    assert not table.temperature[9].any() and table.penalty[9] == 1


@triton.jit
def _uniforms(seeds, frames, out, COUNT: tl.constexpr):
    i, codebook = tl.arange(0, COUNT), tl.arange(0, 16)
    counter = tl.load(frames + i)[:, None] * 16 + codebook
    seed = tl.load(seeds + i)[:, None]
    tl.store(out + i[:, None] * 16 + codebook, sampling._uniform(seed, counter))


def test_uniforms_are_bit_equal(device: str) -> None:
    torch.manual_seed(0)
    edges = [0, 1, -1, 2**63 - 1, -(2**63)]
    seeds = torch.cat([torch.tensor(edges), torch.randint(-(2**63), 2**63 - 1, (507,))]).to(device)
    frames = torch.randint(0, 10_000, (512,)).to(device)
    out = torch.empty(512, 16, device=device)
    _uniforms[(1,)](seeds, frames, out, COUNT=512)
    assert torch.equal(out, sampler.uniforms(seeds, frames))


@triton.jit
def _largest(x, k, out, WIDTH: tl.constexpr):
    i = tl.arange(0, WIDTH)
    tl.store(out + i, sampling._largest(tl.load(x + i), k, WIDTH))


@given(
    values=st.lists(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40, -3.5, -torch.inf]) | st.floats(width=32),
        min_size=16,
        max_size=16,
    ).filter(lambda values: all(x == x for x in values)),
    k=st.integers(1, 16),
)
@example(values=[0.0, -0.0] * 8, k=9)
@fast
def test_top_k_keeps_what_equals_the_kth(device: str, values: list[float], k: int) -> None:
    x = torch.tensor(values, device=device)
    out = torch.empty_like(x)
    _largest[(1,)](x, k, out, WIDTH=16)
    assert torch.equal(out, x.masked_fill(x < x.topk(k).values[-1], -torch.inf))


@triton.jit
def _nucleus(probs, top_p, out, WIDTH: tl.constexpr):
    i = tl.arange(0, WIDTH)
    tl.store(out + i, sampling._nucleus(tl.load(probs + i), tl.load(top_p)))


@given(
    weights=st.lists(st.integers(0, 64), min_size=16, max_size=16).filter(any),
    parts=st.integers(0, 255),
)
@example(weights=[1] * 16, parts=128)
@fast
def test_top_p_keeps_whole_ties(device: str, weights: list[int], parts: int) -> None:
    """Counts and top_p in fractions that float32 adds exactly."""
    total = 1 << (sum(weights) - 1).bit_length()
    weights = [*weights, total - sum(weights), *[0] * 15]
    probs, top_p = torch.tensor(weights, device=device) / total, torch.tensor([parts / 256])
    out = torch.empty_like(probs)
    _nucleus[(1,)](probs, top_p.to(device), out, WIDTH=32)
    kept = sampler._nucleus(probs[None], top_p[:, None].to(device))[0]
    kept_values = probs[kept > 0]
    assert torch.equal(out, torch.where(probs >= kept_values.min(), probs, 0.0))


def plain_params(samplings: list[Sampling], device: str) -> sampler.BatchParams:
    rows = torch.arange(len(samplings), device=device)
    table = table_of(samplings, device)
    return sampler.BatchParams.gather(table, rows, samplings, (VOCAB, VOCAB))


def agree(codes: Tensor, expected: Tensor) -> None:
    """Equal but for a draw, if any, so near a boundary that the order of a sum decides."""
    assert (codes != expected).sum() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_draws_as_the_sampler(dtype: torch.dtype, device: str) -> None:
    rng, num_rows, batch = random.Random(1), 12, 120
    torch.manual_seed(1)
    samplings = [any_sampling(rng) for _ in range(num_rows)]
    table = table_of(samplings, device)
    num_frames = torch.randint(0, 1000, (num_rows,), device=device)
    rows = [rng.randrange(num_rows) for _ in range(batch)]
    rows_ = torch.tensor(rows, device=device)
    params = plain_params([samplings[row] for row in rows], device)
    codes, expected = [], []
    for codebook in (1, 15):
        # All different in bfloat16 too: of ties top-p keeps more than the sampler does.
        logits = (torch.rand(batch, VOCAB, device=device).argsort(1) / 8).to(dtype)
        codes.append(sample_codes(logits, rows_, table, num_frames, codebook))
        uniform = sampler.uniforms(params.seeds, num_frames[rows_])[:, codebook]
        expected.append(sampler.sample(logits.float(), params.predictor, uniform))
    agree(torch.cat(codes), torch.cat(expected))


def plain_code0(
    logits: Tensor,
    seen: Tensor,
    frames: Tensor,
    ends_from: Tensor,
    params: sampler.BatchParams,
) -> Tensor:
    allowed = torch.arange(VOCAB, device=logits.device) < NUM_CODES
    allowed[EOS] = True
    too_early = frames < ends_from
    logits = sampler.talker_logits(logits.clone(), seen, too_early, params, allowed, EOS)
    uniform = sampler.uniforms(params.seeds, frames)[:, 0]
    return sampler.sample(logits, params.talker, uniform)


def test_draws_code0_as_the_sampler(device: str) -> None:
    rng, num_rows = random.Random(2), 120
    torch.manual_seed(2)
    samplings = [any_sampling(rng) for _ in range(num_rows)]
    table, params = table_of(samplings, device), plain_params(samplings, device)
    rows = torch.arange(num_rows, device=device)
    num_frames = torch.randint(0, 5, (num_rows,), device=device)
    ends_from = torch.randint(2, 5, (num_rows,), device=device)
    seen = torch.rand(num_rows, VOCAB, device=device) < 0.3
    codes, expected = [], []
    for _ in range(2):
        logits = torch.randn(num_rows, VOCAB, device=device) * 3
        logits[:, EOS] += 4
        expected.append(plain_code0(logits, seen, num_frames, ends_from, params))
        before = seen.clone()
        drawn = sample_code0(logits, rows, table, num_frames, ends_from, seen, NUM_CODES, EOS)
        assert not (drawn[num_frames < ends_from] == EOS).any()
        codes.append(drawn)
        before[rows, codes[-1]] = True
        assert torch.equal(seen, before)
        num_frames += 1
    drawn = torch.cat(codes)
    agree(drawn, torch.cat(expected))
    assert (drawn == EOS).any() and ((drawn < NUM_CODES) | (drawn == EOS)).all()


def test_penalty_and_end(device: str) -> None:
    """Row 0 may end, row 1 is too young, row 2 is told not to; 3 has drawn its favourite before,
    and 4 waits for the end of its text.
    """
    samplings = [greedy_but(ignore_eos=row == 2, repetition_penalty=2.0) for row in range(5)]
    table = table_of(samplings, device)
    logits = torch.zeros(5, VOCAB, device=device)
    logits[[0, 1, 2, 4], EOS], logits[:, 5], logits[:, 6], logits[:, NUM_CODES] = 9, 3, 2, 10
    seen = torch.zeros(5, VOCAB, dtype=torch.bool, device=device)
    seen[3, 5] = True
    num_frames = torch.tensor([2, 1, 7, 7, 7], device=device)
    ends_from = torch.tensor([2, 2, 2, 2, NEVER], device=device)
    rows = torch.arange(5, device=device)
    codes = sample_code0(logits, rows, table, num_frames, ends_from, seen, NUM_CODES, EOS)
    assert codes.tolist() == [EOS, 5, 5, 6, 5]


def test_greedy_takes_the_first_of_equals(device: str) -> None:
    table = table_of([greedy_but()], device)
    zero = torch.zeros(3, dtype=torch.int64, device=device)
    logits = torch.zeros(3, VOCAB, device=device)
    logits[0, [7, 60]], logits[1, [89, 3]] = 1.0, 1.0
    assert sample_codes(logits, zero, table, zero, 1).tolist() == [7, 3, 0]


def test_rows_that_repeat_draw_the_same(device: str) -> None:
    rng = random.Random(3)
    table = table_of([any_sampling(rng), greedy_but(temperature=1.0)], device)
    num_frames = torch.tensor([3, 4], device=device)
    logits = torch.randn(1, VOCAB, device=device).repeat(4, 1)
    rows = torch.tensor([1, 0, 1, 1], device=device)
    seen = torch.zeros(2, VOCAB, dtype=torch.bool, device=device)
    codes = sample_code0(logits, rows, table, num_frames, num_frames, seen, NUM_CODES, EOS)
    assert codes[0] == codes[2] == codes[3]
    assert seen.sum().item() == 2 and seen[rows, codes].all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_no_number_still_draws_a_code(temperature: float, device: str) -> None:
    table = table_of([greedy_but(subtalker_temperature=temperature, subtalker_top_k=5)], device)
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    logits = torch.full((1, VOCAB), torch.nan, device=device)
    assert 0 <= sample_codes(logits, zero, table, zero, 1).item() < VOCAB


def test_the_codes_follow_the_distribution(device: str) -> None:
    """600 seeds of four codes, whose shares are known to three and a half deviations."""
    probs, count = torch.tensor([0.5, 0.3, 0.15, 0.05]), 600
    table = table_of([greedy_but(subtalker_temperature=1.0, seed=i) for i in range(count)], device)
    rows = torch.arange(count, device=device)
    logits = probs.log().repeat(count, 1).to(device)
    codes = sample_codes(logits, rows, table, torch.zeros_like(rows), 7)
    shares = torch.bincount(codes.cpu(), minlength=4) / count
    assert (shares - probs).abs().max() < 3.5 * (0.25 / count) ** 0.5


def compiled() -> Iterator[tuple[str, Compiled]]:
    pointers = {"logits": "*bf16", "rows": "*i64", "words": "*i32", "seeds": "*i64"}
    pointers |= {"num_frames": "*i64"}
    for capability in CAPABILITIES:
        width = sampling._width(2048)
        warps = width.pop("num_warps")
        values = {"VOCAB": 2048} | width
        signature = pointers | {"codes": "*i64", "codebook": "i32"}
        signature |= dict.fromkeys(values, "constexpr")
        result = compile_kernel(sampling._sample_codes, signature, values, capability, warps, 3)
        yield f"sample_codes sm_{capability}", result

        width = sampling._width(3072)
        warps = width.pop("num_warps")
        values = {"NUM_CODES": 2048, "EOS": 2150, "VOCAB": 3072} | width
        signature = pointers | {"ends_from": "*i64", "seen": "*i1", "codes": "*i64"}
        signature |= dict.fromkeys(values, "constexpr")
        result = compile_kernel(sampling._sample_code0, signature, values, capability, warps, 3)
        yield f"sample_code0 sm_{capability}", result


def test_compiles() -> None:
    for label, result in compile_apart(__name__):
        print(label, result)
        result.check()
