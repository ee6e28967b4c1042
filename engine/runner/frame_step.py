"""One frame (80 ms) for a batch of rows, from start to end on the device.

In: row numbers [B]. Out: codes [B, 16]. State is read from and written to row_buffers. Nothing here
depends on the values in a tensor: no value is read by the host, no shape follows from data. So the
whole step can be captured once as a CUDA graph and replayed (cuda_graphs.py).

A frame begins with the talker step that feeds the last frame back. A sequence whose prompt has just
been prefilled has its talker state already; for it that first half changes nothing.
"""

import torch
from torch import Tensor

from engine.models.code_predictor import CodePredictor
from engine.models.talker import Talker
from engine.runner.prompt_embeds import PromptEmbedder
from engine.runner.row_buffers import RowBuffers
from engine.runner.torch_backend import Backend


class FrameStep:
    def __init__(
        self,
        talker: Talker,
        predictor: CodePredictor,
        prompts: PromptEmbedder,
        kv_cache: Tensor,
        buffers: RowBuffers,
        backend: Backend,
    ) -> None:
        self.talker, self.predictor, self.prompts = talker, predictor, prompts
        self.kv_cache, self.buffers, self.backend = kv_cache, buffers, backend

    def __call__(self, rows: Tensor, feed_back: bool) -> Tensor:
        """rows [B] -> the next frame's codes [B, 16]. A row whose codebook 0 is the end token has
        ended: its other codes mean nothing. `feed_back` may be False if every row is fresh.
        """
        if feed_back:
            self._feed_back(rows)
        b, backend = self.buffers, self.backend
        hidden = b.hidden[rows]
        code0 = backend.sample_code0(self.talker.codec_head(hidden), rows)
        residual = self.predictor(
            hidden,
            self.talker.embed_codec(code0),
            backend.scratch,
            backend.passes(len(rows)),
            lambda logits, codebook: backend.sample(logits, rows, codebook),
        )
        codes = torch.cat([code0[:, None], residual], dim=1)
        b.codes[rows] = codes
        b.num_frames[rows] += 1
        b.num_frames[b.padding].zero_()  # padding stays fresh, so its position never moves
        return codes

    def _feed_back(self, rows: Tensor) -> None:
        """The talker step: each row's last frame plus its text row in, its next `hidden` out.

        A fresh row writes to the slot that its first real step will write again.
        """
        b = self.buffers
        positions = b.num_tokens[rows]
        slots = b.slots(rows, positions)
        x = self.prompts.embed_frames(b.codes[rows]) + b.text_at(rows, slots)
        out = self.talker(x, self.kv_cache, self.backend.decode(rows, positions, slots))
        moves = b.num_frames[rows] > 0
        b.hidden[rows] = torch.where(moves[:, None], out, b.hidden[rows])
        b.num_tokens[rows] = positions + moves
