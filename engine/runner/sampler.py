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

from engine.config import Sampling
from engine.layers.sampling_table import NUM_CODEBOOKS, PREDICTOR, TALKER, SamplingTable

_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class NetParams:
    """One net's sampling of B rows: tensors from the rows' table, and on the host what some row
    needs at all.
    """

    temperature: Tensor  # [B, 1]; 1 for greedy rows
    greedy: Tensor  # [B] bool
    top_k: Tensor  # [B, 1] int64, 1-based ranks
    top_p: Tensor  # [B, 1]
    all_greedy: bool
    some_greedy: bool
    max_k: int | None  # None: no row cuts by rank
    use_top_p: bool

    @staticmethod
    def gather(
        table: SamplingTable,
        rows: Tensor,
        net: int,
        values: list[tuple[float, int, float]],
        vocab: int,
    ) -> "NetParams":
        """`values`: (temperature, top_k, top_p) of the same rows, as the host knows them."""
        temperature, top_k = table.temperature[rows, net], table.top_k[rows, net].long()
        greedy = temperature == 0
        ks = [min(k, vocab) if k > 0 else vocab for _, k, _ in values]
        return NetParams(
            temperature=torch.where(greedy, 1.0, temperature)[:, None],
            greedy=greedy,
            top_k=torch.where(top_k > 0, top_k, vocab).clamp_max(vocab)[:, None],
            top_p=table.top_p[rows, net][:, None],
            all_greedy=all(t == 0 for t, _, _ in values),
            some_greedy=any(t == 0 for t, _, _ in values),
            max_k=max(ks) if min(ks) < vocab else None,
            use_top_p=any(p < 1 for _, _, p in values),
        )


@dataclass(frozen=True)
class BatchParams:
    """Everything sampling needs for one batch; gathered only when the batch changes."""

    talker: NetParams
    predictor: NetParams
    penalty: Tensor | None  # [B, 1]; None: 1 for every row
    seeds: Tensor  # [B] int64
    ignore_eos: Tensor  # [B] bool

    @staticmethod
    def gather(
        table: SamplingTable, rows: Tensor, samplings: Seq[Sampling], vocabs: tuple[int, int]
    ) -> "BatchParams":
        """rows [B]; samplings: of the same rows; vocabs: talker's and predictor's."""
        talker = [(s.temperature, s.top_k, s.top_p) for s in samplings]
        predictor = [
            (s.subtalker_temperature, s.subtalker_top_k, s.subtalker_top_p) for s in samplings
        ]
        penalised = any(s.repetition_penalty != 1 for s in samplings)
        return BatchParams(
            talker=NetParams.gather(table, rows, TALKER, talker, vocabs[0]),
            predictor=NetParams.gather(table, rows, PREDICTOR, predictor, vocabs[1]),
            penalty=table.penalty[rows][:, None] if penalised else None,
            seeds=table.seeds[rows],
            ignore_eos=table.ignore_eos[rows],
        )


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


def sample(logits: Tensor, params: NetParams, uniform: Tensor) -> Tensor:
    """logits [B, V] float32, uniform [B] -> codes [B] int64. May modify `logits`.

    Ties at the k-th largest logit are all kept, as in the reference implementation.
    """
    if params.all_greedy:
        return logits.argmax(-1)
    greedy = logits.argmax(-1) if params.some_greedy else None
    logits = logits / params.temperature
    if params.max_k is not None:
        kth = logits.topk(params.max_k).values.gather(1, params.top_k - 1)
        logits.masked_fill_(logits < kth, -torch.inf)
    probs = logits.softmax(-1)
    if params.use_top_p:
        probs = _nucleus(probs, params.top_p)
    codes = invert_cdf(probs, uniform)
    return codes if greedy is None else torch.where(params.greedy, greedy, codes)


def invert_cdf(probs: Tensor, uniform: Tensor) -> Tensor:
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
    may_not_end: Tensor,
    params: BatchParams,
    allowed: Tensor,
    eos: int,
) -> Tensor:
    """Codebook-0 rules, in the reference order; logits [B, V] float32 are modified and returned.

    seen [B, V] bool: codes this sequence has sampled. may_not_end [B] bool: it is too early, or
    text is to come. allowed [V] bool: codes and EOS.
    """
    if params.penalty is not None:
        penalised = torch.where(logits < 0, logits * params.penalty, logits / params.penalty)
        logits = torch.where(seen, penalised, logits)
    blocked = may_not_end | params.ignore_eos
    logits[:, eos].masked_fill_(blocked, -torch.inf)
    return logits.masked_fill_(~allowed, -torch.inf)
