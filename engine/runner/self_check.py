"""Runs the Triton kernels of a step beside plain torch on this GPU, before they are used.

In: the configurations of the loaded talkers. Out: one Check for each kernel in each shape that it
will have, on small random inputs; milliseconds, once the kernels are compiled. Products are checked
where they are chosen (kernels/fused.py), graphs where they are recorded (cuda_graphs.py).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from engine.compare import Measure, compare
from engine.config import Sampling
from engine.kernels.attention import paged_attention
from engine.kernels.rope import norm_rope_write
from engine.kernels.sampling import sample_code0, sample_codes
from engine.kernels.tuning import graph_seconds
from engine.layers.attention import AttentionMetadata, decode_mask, rotated_heads
from engine.layers.attention import paged_attention as plain_attention
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryTable
from engine.layers.sampling_table import SamplingTable
from engine.models.config import DecoderConfig, TalkerConfig
from engine.protocol import Check
from engine.runner.sampler import BatchParams, sample, talker_logits, uniforms

# Tokens of a trial, each a row of its own, and KV blocks a row.
TOKENS, BLOCKS = 16, 8
SAMPLINGS = (
    Sampling(0.0, 0, 1.0, 1.0, 0.0, 0, 1.0, seed=1),
    Sampling(0.9, 50, 1.0, 1.05, 0.9, 50, 1.0, seed=2),
    Sampling(1.0, 0, 0.8, 1.0, 1.0, 20, 0.9, seed=3, ignore_eos=True),
)


class Trial(NamedTuple):
    name: str
    kernel: Callable[[], Tensor]
    plain: Callable[[], Tensor]


@torch.inference_mode()
def check_kernels(
    configs: list[TalkerConfig],
    dtype: torch.dtype,
    device: torch.device,
    block_size: int,
    measure: Measure = graph_seconds,
) -> list[Check]:
    trials: dict[str, Trial] = {}
    for config in configs:
        for trial in _trials(config, dtype, device, block_size):
            trials.setdefault(trial.name, trial)
    return [compare(*trial, device, measure) for trial in trials.values()]


def _trials(
    c: TalkerConfig, dtype: torch.dtype, device: torch.device, block_size: int
) -> Iterator[Trial]:
    inner, pages = c.code_predictor_config, c.num_code_groups
    for label, net, size, blocks, splits in (
        ("talker", c, block_size, BLOCKS, (1, 8)),
        ("predictor", inner, pages, 1, (1,)),
    ):
        tokens = _Tokens(net, dtype, device, size, blocks)
        shape = f"{label} {net.num_attention_heads}/{net.num_key_value_heads} x {net.head_dim}"
        yield Trial(f"norm, rotation, write ({shape})", tokens.rotated, tokens.rotated_plainly)
        for n in splits:
            name = f"attention ({shape}, {n} splits)"
            yield Trial(name, lambda t=tokens, n=n: t.attend(n), tokens.attend_plainly)  # type: ignore[misc]
    draws = _Draws(c, dtype, device)
    yield Trial(f"drawing codebook 0 (of {c.vocab_size})", draws.code0, draws.code0_plainly)
    yield Trial(f"drawing codes (of {inner.vocab_size})", draws.codes, draws.codes_plainly)


class _Tokens:
    """Tokens in the middle of their sequences, as one layer of a net sees them."""

    def __init__(
        self,
        net: DecoderConfig,
        dtype: torch.dtype,
        device: torch.device,
        block_size: int,
        blocks: int,
    ) -> None:
        heads, kv_heads, size = net.num_attention_heads, net.num_key_value_heads, net.head_dim
        length = blocks * block_size
        self.qkv = torch.randn(TOKENS, heads + 2 * kv_heads, size, device=device).to(dtype)
        self.norm = RMSNorm(heads + kv_heads, size, eps=net.rms_norm_eps).to(device, dtype)
        self.norm.weight.data.uniform_(0.5, 1.5)
        cache_shape = (2, TOKENS * blocks, block_size, kv_heads, size)
        self.cache = torch.randn(cache_shape, device=device).to(dtype)
        self.tables = torch.randperm(TOKENS * blocks, device=device).view(TOKENS, blocks)
        self.rows = torch.arange(TOKENS, device=device)
        self.positions = (self.rows * 7 + 1) % length
        block = self.tables[self.rows, self.positions // block_size]
        self.meta = AttentionMetadata(
            RotaryTable(size, net.rope_theta, length, dtype, device),
            self.positions,
            block * block_size + self.positions % block_size,
            self.tables,
            decode_mask(self.positions + 1, length),
        )
        self.q, self.k, self.v = self._heads()

    def _heads(self) -> tuple[Tensor, Tensor, Tensor]:
        cos, sin = self.meta.rotary.at(self.positions)
        return rotated_heads(self.qkv, self.norm, cos[:, None], sin[:, None])

    def _with_written(self, q: Tensor) -> Tensor:
        """Queries, and what lies in the cache now, which is taken out."""
        slots, flat = self.meta.slot_mapping, self.cache.flatten(1, 2)
        found = torch.cat([q.flatten(), flat[:, slots].flatten()])
        flat.index_fill_(1, slots, 0)
        return found

    def rotated(self) -> Tensor:
        table, at = self.meta.rotary, self.meta.slot_mapping
        weight, eps, cache = self.norm.weight, self.norm.eps, self.cache
        q = norm_rope_write(self.qkv, weight, eps, table.cos, table.sin, self.positions, at, cache)
        return self._with_written(q)

    def rotated_plainly(self) -> Tensor:
        q, k, v = self._heads()
        flat = self.cache.flatten(1, 2)
        flat[0].index_copy_(0, self.meta.slot_mapping, k)
        flat[1].index_copy_(0, self.meta.slot_mapping, v)
        return self._with_written(q)

    def attend(self, splits: int) -> Tensor:
        lengths = self.positions + 1
        q = self.q.contiguous()
        return paged_attention(q, self.cache, self.tables, self.rows, lengths, splits=splits)

    def attend_plainly(self) -> Tensor:
        return plain_attention(self.q, self.k, self.v, self.cache, self.meta)


class _Draws:
    """Rows with every kind of sampling, each with logits of its own."""

    def __init__(self, c: TalkerConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.config = c
        samplings = [SAMPLINGS[row % len(SAMPLINGS)] for row in range(TOKENS)]
        self.table = SamplingTable(TOKENS, device)
        for row, sampling in enumerate(samplings):
            self.table.set(row, sampling)
        self.rows = torch.arange(TOKENS, device=device)
        self.frames = self.rows * 3
        self.ends_from = torch.full_like(self.rows, 9)
        vocabs = (c.vocab_size, c.code_predictor_config.vocab_size)
        self.logits, self.inner = (
            3 * torch.randn(TOKENS, vocab, device=device).to(dtype) for vocab in vocabs
        )
        self.seen = torch.rand(TOKENS, vocabs[0], device=device) < 0.1
        self.params = BatchParams.gather(self.table, self.rows, samplings, vocabs)
        self.uniforms = uniforms(self.params.seeds, self.frames)
        self.allowed = torch.arange(c.vocab_size, device=device) < c.num_codes
        self.allowed[c.codec_eos_token_id] = True

    def code0(self) -> Tensor:
        """Codes, and that they are noted."""
        c, seen = self.config, self.seen.clone()
        codes = sample_code0(
            self.logits,
            self.rows,
            self.table,
            self.frames,
            self.ends_from,
            seen,
            c.num_codes,
            c.codec_eos_token_id,
        )
        return torch.cat([codes, seen.gather(1, codes[:, None])[:, 0]])

    def code0_plainly(self) -> Tensor:
        logits = talker_logits(
            self.logits.float().clone(),
            self.seen,
            self.frames < self.ends_from,
            self.params,
            self.allowed,
            self.config.codec_eos_token_id,
        )
        codes = sample(logits, self.params.talker, self.uniforms[:, 0])
        return torch.cat([codes, torch.ones_like(codes)])

    def codes(self) -> Tensor:
        return sample_codes(self.inner, self.rows, self.table, self.frames, 5)

    def codes_plainly(self) -> Tensor:
        return sample(self.inner.float().clone(), self.params.predictor, self.uniforms[:, 5])
