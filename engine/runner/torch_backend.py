"""The operations of a step that exist in more than one form: attention and sampling.

TorchBackend is plain torch: the reference, and what runs on a CPU without the compiled decoder.
NativeBackend (native_backend.py) serves that decoder. TritonBackend (triton_backend.py) does the
same in kernels that read nothing back to the host.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from engine.layers.attention import Attention, AttentionMetadata, TokenBatch, decode_mask
from engine.layers.rotary import RotaryTable
from engine.models.code_predictor import DensePass
from engine.models.config import TalkerConfig
from engine.runner.row_buffers import RowBuffers
from engine.runner.sampler import BatchParams, sample, talker_logits, uniforms
from engine.runner.transfer import upload
from engine.scheduler.scheduler import PrefillChunk
from engine.scheduler.sequence import Sequence

Tokens = Attention | TokenBatch


class Backend(Protocol):
    # Keys and values of one frame of the code predictor, in the layout that `passes` expects.
    scratch: Tensor

    def begin(self, seqs: list[Sequence]) -> None:
        """The next step is for these sequences, in this order."""

    def prefill(self, chunks: list[PrefillChunk], rows: Tensor, positions: Tensor) -> Tokens:
        """Attention of prompt slices laid end to end: rows and positions [T]."""

    def decode(self, rows: Tensor, positions: Tensor, slots: Tensor) -> Tokens:
        """Attention of one token per row: [B] each."""

    def passes(self, batch: int) -> Seq[Tokens]:
        """The code predictor's 15 passes over a frame of `batch` rows."""

    def sample_code0(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Codebook 0 [B] from logits [B, V] by the rows' sampling rules; notes it in `seen`."""

    def sample(self, logits: Tensor, rows: Tensor, codebook: int) -> Tensor:
        """Another codebook's codes [B] of the same frame."""


@dataclass(eq=False)
class StepParts:
    """What every backend is made from; rotary tables of the talker and of the code predictor."""

    config: TalkerConfig
    buffers: RowBuffers
    rotary: RotaryTable
    inner_rotary: RotaryTable

    def __post_init__(self) -> None:
        """A backend makes here what it needs besides."""


class TorchBackend(StepParts):
    def __post_init__(self) -> None:
        config, buffers, inner_rotary = self.config, self.buffers, self.inner_rotary
        inner, num_residual = config.code_predictor_config, config.num_code_groups - 1
        dtype, device = buffers.hidden.dtype, buffers.device
        self.scratch = DensePass.scratch(
            inner, buffers.num_rows + 1, config.num_code_groups, dtype, device
        )
        self._passes: Callable[[int], Seq[Tokens]] = cache(
            lambda batch: DensePass.all(inner_rotary, batch, num_residual)
        )
        self.allowed = torch.arange(config.vocab_size, device=device) < config.num_codes
        self.allowed[config.codec_eos_token_id] = True
        self.true = torch.ones((), dtype=torch.bool, device=device)
        self._params: tuple[list[Sequence], BatchParams] | None = None

    def begin(self, seqs: list[Sequence]) -> None:
        # The longest sequence bounds what attention gathers.
        self._num_keys = max(seq.num_prompt_tokens + seq.num_scheduled - 1 for seq in seqs)
        if self._params is None or self._params[0] != seqs:
            c = self.config
            params = BatchParams.gather(
                self.buffers.sampling,
                upload([seq.row for seq in seqs], self.buffers.device),
                [seq.sampling for seq in seqs],
                (c.vocab_size, c.code_predictor_config.vocab_size),
            )
            self._params = (list(seqs), params)

    def prefill(self, chunks: list[PrefillChunk], rows: Tensor, positions: Tensor) -> Tokens:
        cuts = [0]
        for chunk in chunks:
            cuts.append(cuts[-1] + chunk.end - chunk.start)
        first = upload([chunk.seq.row for chunk in chunks], self.buffers.device)
        return AttentionMetadata(
            rotary=self.rotary,
            positions=positions,
            slot_mapping=self.buffers.slots(rows, positions),
            block_tables=self.buffers.block_tables[first],
            cu_seqlens_q=tuple(cuts),
            context_lens=tuple(chunk.end for chunk in chunks),
        )

    def decode(self, rows: Tensor, positions: Tensor, slots: Tensor) -> Tokens:
        block_size = self.buffers.block_size
        num_blocks = -(-self._num_keys // block_size)
        return AttentionMetadata(
            rotary=self.rotary,
            positions=positions,
            slot_mapping=slots,
            block_tables=self.buffers.block_tables[rows, :num_blocks],
            mask=decode_mask(positions + 1, num_blocks * block_size),
        )

    def passes(self, batch: int) -> Seq[Tokens]:
        return self._passes(batch)

    def sample_code0(self, logits: Tensor, rows: Tensor) -> Tensor:
        assert self._params is not None, "begin comes first"
        params, b = self._params[1], self.buffers
        self._uniform = uniforms(params.seeds, b.num_frames[rows])
        logits = talker_logits(
            logits.float(),
            b.seen[rows],
            b.num_frames[rows] < b.ends_from[rows],
            params,
            self.allowed,
            self.config.codec_eos_token_id,
        )
        code0 = sample(logits, params.talker, self._uniform[:, 0])
        b.seen.index_put_((rows, code0), self.true)
        return code0

    def sample(self, logits: Tensor, rows: Tensor, codebook: int) -> Tensor:
        assert self._params is not None, "begin comes first"
        params = self._params[1].predictor
        return sample(logits.float(), params, self._uniform[:, codebook])


def make_backend(kernels: str, parts: StepParts) -> Backend:
    """`kernels`: torch, triton or native."""
    if kernels == "triton":
        from engine.runner.triton_backend import TritonBackend  # Triton is there only with a GPU

        return TritonBackend(**vars(parts))
    if kernels == "native":
        from engine.runner.native_backend import NativeBackend

        return NativeBackend(**vars(parts))
    return TorchBackend(**vars(parts))
