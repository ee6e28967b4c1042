"""One checkpoint's talker and code predictor, run for batches.

In: sequences that the scheduler chose. Out: codes [batch, 16], one frame (80 ms) for each. What a
sequence keeps between frames lies on the device, in its row of row_buffers; a step is given row
numbers only, and its codes are copied to the host while the next step may already run. A sequence
whose prompt was just prefilled takes part in the same step's frame, so starting it costs the other
streams its prefill and nothing more.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from engine.layers.rotary import RotaryTable
from engine.loader.checkpoint import TalkerCheckpoint
from engine.runner.cuda_graphs import Capture, FrameGraphs, PrefillGraphs
from engine.runner.frame_step import FrameStep
from engine.runner.prefix_cache import PrefixCache
from engine.runner.prompt_embeds import PromptEmbedder, VoicePrompt
from engine.runner.row_buffers import RowBuffers
from engine.runner.torch_backend import Backend, StepParts, make_backend
from engine.runner.transfer import Download, upload
from engine.scheduler.scheduler import PrefillChunk
from engine.scheduler.sequence import Sequence


class Frames:
    """One frame for each of `seqs`, on its way to the host."""

    def __init__(self, seqs: list[Sequence], codes: Tensor, eos: int) -> None:
        self.seqs, self._codes, self._eos = seqs, Download(codes), eos

    def result(self) -> list[list[int] | None]:
        """The 16 codes of each sequence, or None where it ended instead; waits for them."""
        return [codes if codes[0] != self._eos else None for codes in self._codes.result().tolist()]


class TalkerRunner:
    def __init__(
        self,
        checkpoint: TalkerCheckpoint,
        kv_cache: Tensor,
        num_rows: int,
        max_tokens: int,
        *,
        kernels: bool = False,
    ) -> None:
        """kv_cache [layers, 2, num_blocks, block_size, kv_heads, D], perhaps shared with other
        runners; its last block is for padding. `kernels`: Triton's instead of plain torch.
        """
        self.config = c = checkpoint.config.talker_config
        self.talker, self.predictor = checkpoint.talker, checkpoint.predictor
        self.prompts = PromptEmbedder(checkpoint.config, self.talker, self.predictor)
        self.kv_cache, self.device = kv_cache, kv_cache.device
        inner = c.code_predictor_config
        rotary, inner_rotary = (
            RotaryTable(net.head_dim, net.rope_theta, length, kv_cache.dtype, self.device)
            for net, length in ((c, max_tokens), (inner, c.num_code_groups))
        )
        blocks, size = kv_cache.shape[2:4]
        self.buffers = RowBuffers(c, blocks, size, num_rows, max_tokens, self.prompts.pad[0])
        is_native = self.talker.whole is not None
        self.frames: FrameGraphs | None
        self.prefills: PrefillGraphs | None
        self._parts = StepParts(c, self.buffers, rotary, inner_rotary)
        name = "triton" if kernels else "native" if is_native else "torch"
        self._set(name, make_backend(name, self._parts), None, None)
        self.prefixes = PrefixCache(kv_cache)
        self._prompt_embeds: dict[int, Tensor] = {}

    def start(self, seq: Sequence, voice: VoicePrompt | None) -> int:
        """Give an admitted sequence its row: prompt embeddings, block table, trailing text, clean
        counters. Returns how many prompt tokens need no prefill, because a prompt began like this
        before.
        """
        embeds, trailing = self.prompts.build(seq.prompt, voice)
        assert len(embeds) == seq.num_prompt_tokens and len(trailing) >= seq.num_trailing, (
            "prompt_shape is wrong"
        )
        self._prompt_embeds[seq.id] = embeds
        self.buffers.start(seq)
        self.buffers.add_text(seq, 0, trailing[: seq.num_trailing])
        return self.prefixes.restore(seq.prompt, partial(self.buffers.first_slots, seq.row))

    def append_text(self, seq: Sequence, ids: tuple[int, ...], final: bool) -> None:
        """More trailing text for a running sequence; `final` adds the end-of-text row."""
        rows = self.prompts.more_text(ids, final)
        self.buffers.append_text(seq, seq.num_trailing, rows, final=final)

    def stop(self, seq: Sequence) -> None:
        """Forget a sequence that ended; its row may be reused at once."""
        self._prompt_embeds.pop(seq.id, None)

    def capture(self, capture: Capture, max_tokens: int) -> None:
        """From now on run frames, and prefills of up to `max_tokens`, as recorded graphs."""
        self.buffers.hidden[-1].normal_()  # the padding row's: graphs are compared on it
        self.frames = FrameGraphs(self.frame, self.buffers, capture)
        self.prefills = PrefillGraphs(self._talk, self.buffers, max_tokens, capture)

    def use_plain(self) -> Callable[[], None]:
        """From now on plain torch, nothing recorded; what is returned brings back what was."""
        before = (self.kernels, self.backend, self.frames, self.prefills)
        self._set("torch", make_backend("torch", self._parts), None, None)
        return partial(self._set, *before)

    def _set(
        self,
        kernels: str,
        backend: Backend,
        frames: FrameGraphs | None,
        prefills: PrefillGraphs | None,
    ) -> None:
        self.kernels, self.backend = kernels, backend
        self.frames, self.prefills = frames, prefills
        self.frame = FrameStep(
            self.talker, self.predictor, self.prompts, self.kv_cache, self.buffers, backend
        )

    def _talk(self, x: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        return self.talker(x, self.kv_cache, self.backend.prefill([], rows, positions))

    def prefill(self, chunks: list[PrefillChunk]) -> None:
        """Run slices of prompts; the last position's state of a finished prompt becomes the row's
        `hidden`.
        """
        x = torch.cat([self._prompt_embeds[c.seq.id][c.start : c.end] for c in chunks])
        rows = [c.seq.row for c in chunks for _ in range(c.start, c.end)]
        positions = [at for c in chunks for at in range(c.start, c.end)]
        if self.prefills is not None and self.prefills.fits(len(x)):
            out = self.prefills(x, rows, positions)
        else:
            at = upload([rows, positions], self.device)
            out = self.talker(x, self.kv_cache, self.backend.prefill(chunks, at[0], at[1]))
        self._finish_prefill(chunks, out)

    def _finish_prefill(self, chunks: list[PrefillChunk], out: Tensor) -> None:
        """out [T or more, H]: the chunks' states, laid end to end."""
        ends, at = [], -1
        for chunk in chunks:
            at += chunk.end - chunk.start
            ends.append(at)
        rows = upload([chunk.seq.row for chunk in chunks], self.device)
        self.buffers.hidden[rows] = out[upload(ends, self.device)]
        self.buffers.num_tokens[rows] = upload([chunk.end for chunk in chunks], self.device)
        for seq in (chunk.seq for chunk in chunks if chunk.end == chunk.seq.num_prompt_tokens):
            del self._prompt_embeds[seq.id]
            self.prefixes.keep(seq.prompt, partial(self.buffers.first_slots, seq.row))

    def decode(self, seqs: list[Sequence]) -> Frames:
        """Begin one frame for each sequence."""
        rows, feed_back = [seq.row for seq in seqs], any(seq.num_scheduled > 1 for seq in seqs)
        self.backend.begin(seqs)
        if self.frames is not None:
            codes = self.frames(rows, feed_back)
        else:
            codes = self.frame(upload(rows, self.device), feed_back)
        return Frames(seqs, codes[: len(seqs)], self.config.codec_eos_token_id)
