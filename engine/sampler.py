"""Choosing codes from logits: repetition penalty, suppression, temperature, top-k, top-p, seeded
per row.

Random numbers are counter-based: a hash of (seed, frame, codebook) gives one uniform number, which
picks a code by inverting the row's cumulative distribution. So a seed gives the same codes alone
and in any batch, wherever the kernels before it compute a row independently of its neighbours.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.sequence import Sampling

NUM_CODEBOOKS = 16
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class RowParams:
    """Parameters of one net's sampling for B rows, on the device. What no row uses is None."""

    temperature: Tensor | None  # [B, 1]; None: every row is greedy
    greedy: Tensor | None  # [B] bool; None: no row is greedy
    top_k: Tensor | None  # [B, 1] int64, 1-based ranks
    max_k: int
    top_p: Tensor | None  # [B, 1]

    @staticmethod
    def of(rows: Seq[tuple[float, int, float]], vocab: int, device: torch.device) -> "RowParams":
        """From (temperature, top_k, top_p) per row."""
        temperatures = [t for t, _, _ in rows]
        ks = [min(k, vocab) if k > 0 else vocab for _, k, _ in rows]
        some_greedy, all_greedy = 0 in temperatures, not any(temperatures)
        return RowParams(
            temperature=None
            if all_greedy
            else _column([t or 1.0 for t in temperatures], torch.float32, device),
            greedy=torch.tensor([t == 0 for t in temperatures], device=device)
            if some_greedy
            else None,
            top_k=None if min(ks) == vocab else _column(ks, torch.int64, device),
            max_k=max(ks),
            top_p=_column([p for _, _, p in rows], torch.float32, device)
            if any(p < 1 for _, _, p in rows)
            else None,
        )


@dataclass(frozen=True)
class BatchParams:
    """Everything sampling needs for one batch; rebuilt only when the batch changes."""

    talker: RowParams
    predictor: RowParams
    penalty: Tensor | None  # [B, 1]; None: 1 for every row
    seeds: Tensor  # [B] int64
    ignore_eos: Tensor | None  # [B] bool

    @staticmethod
    def of(
        rows: Seq[Sampling], talker_vocab: int, predictor_vocab: int, device: torch.device
    ) -> "BatchParams":
        subtalker = [(r.subtalker_temperature, r.subtalker_top_k, r.subtalker_top_p) for r in rows]
        penalties = [r.repetition_penalty for r in rows]
        return BatchParams(
            talker=RowParams.of(
                [(r.temperature, r.top_k, r.top_p) for r in rows], talker_vocab, device
            ),
            predictor=RowParams.of(subtalker, predictor_vocab, device),
            penalty=_column(penalties, torch.float32, device)
            if any(p != 1 for p in penalties)
            else None,
            seeds=torch.tensor([_signed(r.seed) for r in rows], device=device),
            ignore_eos=torch.tensor([r.ignore_eos for r in rows], device=device)
            if any(r.ignore_eos for r in rows)
            else None,
        )


def _column(values: list, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)[:, None]


def _signed(value: int) -> int:
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


def uniforms(seeds: Tensor, frames: Tensor) -> Tensor:
    """seeds, frames [B] int64 -> [B, 16] float32 in [0, 1), one per codebook: two rounds of
    SplitMix64's finaliser.
    """
    counters = frames[:, None] * NUM_CODEBOOKS + torch.arange(NUM_CODEBOOKS, device=frames.device)
    bits = _mix(_mix(seeds)[:, None] + counters * _signed(0x9E3779B97F4A7C15))
    # 23 bits: the largest value times any total stays strictly below that total in float32.
    return ((bits >> 41) & 0x7FFFFF).float() * 2.0**-23


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift right of an int64 tensor."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def sample(logits: Tensor, params: RowParams, uniform: Tensor) -> Tensor:
    """logits [B, V] float32, uniform [B] -> codes [B] int64. May modify `logits`.

    Ties at the k-th largest logit are all kept, as in the reference implementation.
    """
    if params.temperature is None:
        return logits.argmax(-1)
    greedy = logits.argmax(-1) if params.greedy is not None else None
    logits = logits / params.temperature
    if params.top_k is not None:
        kth = logits.topk(params.max_k).values.gather(1, params.top_k - 1)
        logits.masked_fill_(logits < kth, -torch.inf)
    probs = logits.softmax(-1)
    if params.top_p is not None:
        probs = _nucleus(probs, params.top_p)
    codes = draw(probs, uniform)
    return codes if greedy is None else torch.where(params.greedy, greedy, codes)


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """probs [B, V] (any positive total), uniform [B] in [0, 1) -> indices [B], by inverting the
    cumulative distribution."""
    cdf = probs.cumsum(-1)
    return (cdf <= uniform[:, None] * cdf[:, -1:]).sum(-1)


def _nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """Zero the tail whose cumulative mass, from the smallest up, is at most 1 - top_p; keep at
    least the largest.
    """
    ascending, order = probs.sort(-1)
    drop = ascending.cumsum(-1) <= 1 - top_p
    drop[:, -1].zero_()
    return probs.masked_fill(drop.scatter(1, order, drop), 0.0)


def talker_logits(
    logits: Tensor,
    seen: Tensor,
    num_sampled: Tensor,
    params: BatchParams,
    allowed: Tensor,
    eos: int,
) -> Tensor:
    """Codebook-0 rules, in the reference order; logits [B, V] float32 are modified and returned.

    seen [B, V] bool: codes this sequence has sampled. num_sampled [B]: how many. allowed [V] bool:
    codes and EOS.
    """
    if params.penalty is not None:
        penalised = torch.where(logits < 0, logits * params.penalty, logits / params.penalty)
        logits = torch.where(seen, penalised, logits)
    blocked = num_sampled < 2
    if params.ignore_eos is not None:
        blocked = blocked | params.ignore_eos
    logits[:, eos].masked_fill_(blocked, -torch.inf)
    return logits.masked_fill_(~allowed, -torch.inf)
