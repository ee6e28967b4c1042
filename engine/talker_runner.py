"""One checkpoint's talker and code predictor, run for batches: one step = one frame for every
running sequence.

The frame loop stays on the device. State is indexed by row (a running sequence's index), and a step
is told rows and flags only:

    hidden [R, H]          the talker state from which the row's next codebook 0 is drawn
    codes [R, 16]          the row's last frame, fed back as an embedding
    num_tokens [R]         KV positions written so far: the position of the next input
    num_frames [R]         frames spoken so far
    block_tables [R, N]    the row's KV blocks
    seen [R, V]            codebook-0 codes the row has drawn (repetition penalty)
    text_rows [slots + 1]  trailing text: the row that joins the input at a position lies in that
    position's KV slot;
                           the last entry is the padding row

A frame begins with the talker step that feeds the last frame back; a sequence whose prompt has just
been prefilled skips that and joins the same code-predictor pass, so admission costs the running
streams nothing but the prefill.
"""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.layers.attention import AttentionMetadata, decode_mask
from engine.layers.rotary import RotaryTable
from engine.prompt import PromptBuilder, VoicePrompt
from engine.sampler import BatchParams, sample, talker_logits, uniforms
from engine.scheduler import PrefillChunk
from engine.sequence import Sequence


class TalkerRunner:
    def __init__(
        self, checkpoint: Checkpoint, kv_cache: Tensor, num_rows: int, max_tokens: int
    ) -> None:
        """kv_cache [layers, 2, num_blocks, block_size, kv_heads, D], perhaps shared with other
        runners.
        """
        self.config = c = checkpoint.config.talker_config
        self.talker, self.predictor = checkpoint.talker, checkpoint.predictor
        self.prompts = PromptBuilder(checkpoint.config, self.talker, self.predictor)
        self.kv_cache, self.device, self.dtype = kv_cache, kv_cache.device, kv_cache.dtype
        num_blocks, self.block_size = kv_cache.shape[2:4]
        inner = c.code_predictor_config
        self.rotary = RotaryTable(c.head_dim, c.rope_theta, max_tokens, self.dtype, self.device)
        self.inner_rotary = RotaryTable(
            inner.head_dim, inner.rope_theta, c.num_code_groups, self.dtype, self.device
        )
        self.scratch = self.predictor.scratch(num_rows, self.dtype, self.device)
        self.hidden = self._zeros(num_rows, c.hidden_size)
        self.codes = self._zeros(num_rows, c.num_code_groups, dtype=torch.int64)
        self.num_tokens, self.num_frames = (
            self._zeros(num_rows, dtype=torch.int64) for _ in range(2)
        )
        self.block_tables = self._zeros(
            num_rows, -(-max_tokens // self.block_size), dtype=torch.int64
        )
        self.seen = self._zeros(num_rows, c.vocab_size, dtype=torch.bool)
        self.text_rows = self._zeros(num_blocks * self.block_size + 1, c.hidden_size)
        self.text_rows[-1] = self.prompts.pad[0]
        self.allowed = torch.arange(c.vocab_size, device=self.device) < c.vocab_size - 1024
        self.allowed[c.codec_eos_token_id] = True
        self._prompt_embeds: dict[int, Tensor] = {}
        self._params: tuple[list[Sequence], BatchParams] | None = None

    def _zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)

    def start(self, seq: Sequence, voice: VoicePrompt | None) -> None:
        """Give an admitted sequence its row: prompt embeddings, block table, trailing text, clean
        counters.
        """
        embeds, trailing = self.prompts.build(seq.prompt, voice)
        assert len(embeds) == seq.num_prompt_tokens and len(trailing) >= seq.num_trailing, (
            "prompt_shape is wrong"
        )
        self._prompt_embeds[seq.id] = embeds
        row = seq.row
        self.block_tables[row, : len(seq.block_table)] = torch.tensor(
            seq.block_table, device=self.device
        )
        self.num_tokens[row] = self.num_frames[row] = 0
        self.seen[row] = False
        self._write_text(seq, 0, trailing[: seq.num_trailing])

    def append_text(self, seq: Sequence, ids: Seq[int], final: bool) -> None:
        """More trailing text for a running sequence; `final` adds the end-of-text row."""
        rows = [self.prompts.text(tuple(ids))] if ids else []
        rows += [self.prompts.eos] if final else []
        if rows:
            self._write_text(seq, seq.num_trailing, torch.cat(rows))

    def _write_text(self, seq: Sequence, first: int, rows: Tensor) -> None:
        if not len(rows):
            return
        start = seq.num_prompt_tokens + first
        positions = torch.arange(start, start + len(rows), device=self.device)
        self.text_rows[self._slots(torch.tensor(seq.row, device=self.device), positions)] = rows

    def stop(self, seq: Sequence) -> None:
        """Forget a sequence that ended; its row may be reused at once."""
        self._prompt_embeds.pop(seq.id, None)

    def _slots(self, rows: Tensor, positions: Tensor) -> Tensor:
        return (
            self.block_tables[rows, positions // self.block_size] * self.block_size
            + positions % self.block_size
        )

    def prefill(self, chunks: list[PrefillChunk]) -> None:
        """Run slices of prompts; the last position's state of a finished prompt becomes the row's
        `hidden`.
        """
        x = torch.cat([self._prompt_embeds[c.seq.id][c.start : c.end] for c in chunks])
        lengths = [c.end - c.start for c in chunks]
        rows = torch.tensor([c.seq.row for c in chunks], device=self.device)
        positions = torch.cat([torch.arange(c.start, c.end, device=self.device) for c in chunks])
        cuts = [0]
        for length in lengths:
            cuts.append(cuts[-1] + length)
        meta = AttentionMetadata(
            positions=positions,
            slot_mapping=self._slots(
                rows.repeat_interleave(torch.tensor(lengths, device=self.device)), positions
            ),
            block_tables=self.block_tables[rows],
            cu_seqlens_q=tuple(cuts),
            context_lens=tuple(c.end for c in chunks),
        )
        out = self.talker(x, self.kv_cache, self.rotary, meta)
        self.hidden[rows] = out[torch.tensor(cuts[1:], device=self.device) - 1]
        self.num_tokens[rows] = torch.tensor([c.end for c in chunks], device=self.device)
        for chunk in chunks:
            if chunk.end == chunk.seq.num_prompt_tokens:
                del self._prompt_embeds[chunk.seq.id]

    def decode(self, seqs: list[Sequence]) -> list[list[int] | None]:
        """One frame for each sequence: its 16 codes, or None where it ended instead."""
        stepping = [seq for seq in seqs if seq.num_frames]
        if stepping:
            self._feed_back(stepping)
        rows = self._rows(seqs)
        params = self._batch_params(seqs)
        uniform = uniforms(params.seeds, self.num_frames[rows])
        code0 = self._draw_code0(rows, params, uniform[:, 0])
        ended = code0 == self.config.codec_eos_token_id
        alive = [seq for seq, end in zip(seqs, ended.tolist(), strict=True) if not end]
        if not alive:
            return [None] * len(seqs)
        if len(alive) < len(seqs):
            keep = (~ended).nonzero()[:, 0]
            rows, code0, uniform = rows[keep], code0[keep], uniform[keep]
            params = self._batch_params(alive)
        frames = self._speak(rows, code0, uniform, params).tolist()
        spoken = dict(zip(alive, frames, strict=True))
        return [spoken.get(seq) for seq in seqs]

    def _rows(self, seqs: list[Sequence]) -> Tensor:
        return torch.tensor([seq.row for seq in seqs], device=self.device)

    def _feed_back(self, seqs: list[Sequence]) -> None:
        """The talker step: each row's last frame plus its text row in, its next `hidden` out."""
        rows = self._rows(seqs)
        positions = self.num_tokens[rows]
        slots = self._slots(rows, positions)
        has_text = torch.tensor(
            [seq.num_frames <= seq.num_trailing for seq in seqs], device=self.device
        )
        text = self.text_rows[torch.where(has_text, slots, len(self.text_rows) - 1)]
        x = self.prompts.embed_frames(self.codes[rows]) + text
        longest = max(seq.num_prompt_tokens + seq.num_frames for seq in seqs)
        num_blocks = -(-longest // self.block_size)
        meta = AttentionMetadata(
            positions=positions,
            slot_mapping=slots,
            block_tables=self.block_tables[rows, :num_blocks],
            mask=decode_mask(positions + 1, num_blocks * self.block_size),
        )
        self.hidden[rows] = self.talker(x, self.kv_cache, self.rotary, meta)
        self.num_tokens[rows] += 1

    def _draw_code0(self, rows: Tensor, params: BatchParams, uniform: Tensor) -> Tensor:
        logits = self.talker.codec_head(self.hidden[rows]).float()
        eos = self.config.codec_eos_token_id
        logits = talker_logits(
            logits, self.seen[rows], self.num_frames[rows], params, self.allowed, eos
        )
        code0 = sample(logits, params.talker, uniform)
        self.seen[rows, code0] = True
        return code0

    def _speak(self, rows: Tensor, code0: Tensor, uniform: Tensor, params: BatchParams) -> Tensor:
        """The code predictor: codes [B, 16] of the frame that begins with code0 [B]."""
        residual = self.predictor(
            self.hidden[rows],
            self.talker.embed_codec(code0),
            self.scratch,
            self.inner_rotary,
            lambda logits, g: sample(logits, params.predictor, uniform[:, g]),
        )
        codes = torch.cat([code0[:, None], residual], dim=1)
        self.codes[rows] = codes
        self.num_frames[rows] += 1
        return codes

    def _batch_params(self, seqs: list[Sequence]) -> BatchParams:
        if self._params is None or self._params[0] != seqs:
            c = self.config
            samplings = [seq.sampling for seq in seqs]
            params = BatchParams.of(
                samplings, c.vocab_size, c.code_predictor_config.vocab_size, self.device
            )
            self._params = (list(seqs), params)
        return self._params[1]
