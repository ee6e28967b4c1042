"""Sampling on a GPU: one program for each row does all that runner/sampler.py does, with parameters
that lie on the device.

Nothing is sorted. Top-k and top-p are thresholds, found by binary search over the bits of the
floats: read as integers, positive floats have the same order. Results differ from the plain
sampler's in two ways. Sums run in another order, which changes float32's last bits. Of codes with
equal probability at top-p's boundary all are kept, where the plain sampler keeps as many as fit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.layers.sampling_table import NUM_CODEBOOKS, ROW, SamplingTable

# Words of a row of the table, and where those of each net begin.
_WORDS = tl.constexpr(ROW.size // 4)
_TALKER, _PREDICTOR = tl.constexpr(0), tl.constexpr(1)
_CODEBOOKS = tl.constexpr(NUM_CODEBOOKS)


def sample_codes(
    logits: Tensor, rows: Tensor, table: SamplingTable, num_frames: Tensor, codebook: int
) -> Tensor:
    """A code of codebook 1..15 for each row, as sampler.sample: logits [B, V], rows [B] int64,
    num_frames [R] int64 -> codes [B] int64.
    """
    codes, vocab = _outputs(logits)
    _sample_codes[(len(rows),)](
        logits,
        rows,
        table.words,
        table.seeds,
        num_frames,
        codes,
        codebook,
        VOCAB=vocab,
        **_width(vocab),
    )
    return codes


def sample_code0(
    logits: Tensor,
    rows: Tensor,
    table: SamplingTable,
    num_frames: Tensor,
    ends_from: Tensor,
    seen: Tensor,
    num_codes: int,
    eos: int,
) -> Tensor:
    """Codebook 0 or `eos` for each row, as sampler.talker_logits and sample: logits [B, V], rows
    [B] int64, num_frames and ends_from [R] int64, seen [R, V] bool -> codes [B] int64.

    Only ids below num_codes are drawn, and `eos` from frame ends_from on. Afterwards
    seen[row, code] is True.
    """
    codes, vocab = _outputs(logits)
    assert seen.is_contiguous() and seen.shape[1] == vocab
    _sample_code0[(len(rows),)](
        logits,
        rows,
        table.words,
        table.seeds,
        num_frames,
        ends_from,
        seen,
        codes,
        NUM_CODES=num_codes,
        EOS=eos,
        VOCAB=vocab,
        **_width(vocab),
    )
    return codes


def _outputs(logits: Tensor) -> tuple[Tensor, int]:
    assert logits.is_contiguous()
    batch, vocab = logits.shape
    return torch.empty(batch, dtype=torch.int64, device=logits.device), vocab


def _width(vocab: int) -> dict[str, int]:
    """A row is held in registers, 16 numbers a thread."""
    width = triton.next_power_of_2(vocab)
    return {"WIDTH": width, "num_warps": max(1, min(8, width // 512))}


@triton.jit(do_not_specialize=["codebook"])
def _sample_codes(
    logits,
    rows,
    words,
    seeds,
    num_frames,
    codes,
    codebook,
    VOCAB: tl.constexpr,
    WIDTH: tl.constexpr,
):
    batch = tl.program_id(0)
    row = tl.load(rows + batch)
    x = _logits(logits, batch, VOCAB, WIDTH)
    u = _uniform(
        tl.load(seeds + row * (_WORDS // 2)), tl.load(num_frames + row) * _CODEBOOKS + codebook
    )
    tl.store(codes + batch, _choose(x, words + row * _WORDS + _PREDICTOR, u, VOCAB, WIDTH))


@triton.jit
def _sample_code0(
    logits,
    rows,
    words,
    seeds,
    num_frames,
    ends_from,
    seen,
    codes,
    NUM_CODES: tl.constexpr,
    EOS: tl.constexpr,
    VOCAB: tl.constexpr,
    WIDTH: tl.constexpr,
):
    batch = tl.program_id(0)
    row = tl.load(rows + batch)
    frame = tl.load(num_frames + row)
    param = words + row * _WORDS
    x = _logits(logits, batch, VOCAB, WIDTH)

    i = tl.arange(0, WIDTH)
    penalty = _float(param + 6)
    drawn = tl.load(seen + row * VOCAB + i, mask=i < VOCAB, other=0) != 0
    penalised = tl.where(x < 0, x * penalty, tl.div_rn(x, penalty))
    x = tl.where(drawn, penalised, x)
    may_end = (frame >= tl.load(ends_from + row)) & (tl.load(param + 7) == 0)
    allowed = tl.where(i == EOS, may_end, i < NUM_CODES)
    x = tl.where(allowed, x, -float("inf"))

    u = _uniform(tl.load(seeds + row * (_WORDS // 2)), frame * _CODEBOOKS)
    code = _choose(x, param + _TALKER, u, VOCAB, WIDTH)
    tl.store(codes + batch, code)
    tl.store(seen + row * VOCAB + code, True)


@triton.jit
def _logits(logits, batch, VOCAB: tl.constexpr, WIDTH: tl.constexpr):
    """The batch's row in float32, filled up with -inf."""
    i = tl.arange(0, WIDTH)
    x = tl.load(logits + batch.to(tl.int64) * VOCAB + i, mask=i < VOCAB, other=-float("inf"))
    return x.to(tl.float32)


@triton.jit
def _float(word):
    return tl.load(word).to(tl.float32, bitcast=True)


@triton.jit
def _choose(x, param, uniform, VOCAB: tl.constexpr, WIDTH: tl.constexpr):
    """sampler.sample of one row x [WIDTH] by the net's column of its parameters."""
    temperature, top_k, top_p = _float(param), tl.load(param + 2), _float(param + 4)
    if temperature == 0:
        code = tl.argmax(x, 0).to(tl.int32)
    else:
        x = tl.div_rn(x, temperature)
        if (top_k > 0) & (top_k < VOCAB):
            x = _largest(x, top_k, WIDTH)
        power = tl.exp(x - tl.max(x, 0))
        probs = power / tl.sum(power, 0)
        if top_p < 1:
            probs = _nucleus(probs, top_p)
        code = _invert(probs, uniform, WIDTH)
    # Logits that are not numbers choose nothing: the code must still be one.
    return tl.where(code < VOCAB, code, 0)


@triton.jit
def _largest(x, k, WIDTH: tl.constexpr):
    """x with -inf below its k-th largest; what equals that stays."""
    bits = tl.where(x == 0, 0.0, x).to(tl.uint32, bitcast=True)  # -0 is no less than 0
    order = bits ^ tl.where(bits >= 0x80000000, 0xFFFFFFFF, 0x80000000)
    floor = tl.full((), 0, tl.uint32)  # grows to the largest that k or more reach
    step = tl.full((), 1 << 31, tl.uint32)
    reached = WIDTH
    while (step > 0) & (reached != k):
        count = tl.sum((order >= (floor | step)).to(tl.int32), 0)
        enough = count >= k
        floor = tl.where(enough, floor | step, floor)
        reached = tl.where(enough, count, reached)
        step = step >> 1
    return tl.where(order >= floor, x, -float("inf"))


@triton.jit
def _nucleus(probs, top_p):
    """probs with 0 for the smallest whose sum is at most 1 - top_p; the largest stay."""
    bits = probs.to(tl.uint32, bitcast=True)
    limit = tl.full((), 0, tl.uint32)  # grows to the largest below which little enough lies
    step = tl.full((), 1 << 29, tl.uint32)  # the highest bit of 1.0
    while step > 0:
        tail = tl.sum(tl.where(bits <= (limit | step), probs, 0.0), 0)
        limit = tl.where(tail <= 1 - top_p, limit | step, limit)
        step = step >> 1
    return tl.where((bits > limit) | (probs == tl.max(probs, 0)), probs, 0.0)


@triton.jit
def _invert(probs, uniform, WIDTH: tl.constexpr):
    """sampler.invert_cdf. A parallel scan may lose monotony in the last place, so that a code of
    probability 0 could be the first beyond the mark: those are left out.
    """
    i = tl.arange(0, WIDTH)
    cdf = tl.where(probs > 0, tl.cumsum(probs, 0), 0.0)
    return tl.min(tl.where(cdf > uniform * tl.max(cdf, 0), i, WIDTH), 0)


@triton.jit
def _uniform(seed, counter):
    """sampler.uniforms: seed and frame * 16 + codebook, int64, to a float32 in [0, 1)."""
    bits = _mix(_mix(seed.to(tl.uint64)) + counter.to(tl.uint64) * 0x9E3779B97F4A7C15)
    return (bits >> 41).to(tl.float32) * 2.0**-23


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)
