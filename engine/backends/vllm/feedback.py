"""What running sequences keep on the device, by row, and what goes into and comes out of vLLM's
layers. No vLLM here.

The input at a position p of a row is its prompt's row p while there is one, and then the sum of
frame p - num_prompt's 16 embeddings and of its text row. Both lie in tables by KV slot (of our own
block tables; vLLM has others), for all of a row's positions. So any token of any batch, be it of a
prompt, a slice of one, a frame, or of a sequence that is computed anew, is one gather by row and
position, and a frame that was drawn once is never drawn again.

Nothing reads a value back, and what is written lies at the same address in every step.
"""

from collections import deque
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from engine.layers.rotary import RotaryTable
from engine.models.code_predictor import CodePredictor
from engine.models.config import ModelConfig, TalkerConfig
from engine.models.talker import Talker
from engine.runner.cuda_graphs import Capture, FrameGraphs
from engine.runner.frame_step import FrameStep
from engine.runner.prompt_embeds import PromptEmbedder, VoicePrompt
from engine.runner.row_buffers import RowBuffers
from engine.runner.torch_backend import StepParts, make_backend
from engine.runner.transfer import Download, upload
from engine.scheduler.sequence import Sequence

# Of a frame that left: the number of its sequence's run, which frame it is, and its 16 codes.
Drawn = list[int]
NOBODY = -1


class FeedbackBuffers(RowBuffers):
    """As RowBuffers; num_tokens is what vLLM has computed of a row, text_rows hold the prompt too.

    num_prompt [R + 1]      positions of the row's prompt
    run [R + 1]             a number of its own for every sequence that had the row
    frames [slots + 1, 16]  the codes that are fed back at a slot's position
    """

    def __init__(
        self,
        c: TalkerConfig,
        num_blocks: int,
        block_size: int,
        num_rows: int,
        max_tokens: int,
        pad: Tensor,
    ) -> None:
        super().__init__(c, num_blocks, block_size, num_rows, max_tokens, pad)
        self.num_prompt = torch.zeros_like(self.num_tokens)
        self.run = torch.full_like(self.num_tokens, NOBODY)
        shape = (len(self.text_rows), c.num_code_groups)
        self.frames = torch.zeros(shape, dtype=torch.int16, device=self.device)


class Feedback:
    def __init__(
        self,
        config: ModelConfig,
        ends: Talker,
        predictor: CodePredictor,
        *,
        num_rows: int,
        num_blocks: int,
        block_size: int,
        max_tokens: int,
        kernels: bool,
    ) -> None:
        """ends: a Talker of no layers, for its embeddings and its head."""
        c = config.talker_config
        self.prompts = PromptEmbedder(config, ends, predictor)
        self.pad = self.prompts.pad[0]
        self.buffers = b = FeedbackBuffers(
            c, num_blocks + 1, block_size, num_rows, max_tokens, self.pad
        )
        inner, device = c.code_predictor_config, b.device
        rotary = RotaryTable(
            inner.head_dim, inner.rope_theta, c.num_code_groups, self.pad.dtype, device
        )
        # The talker's rotation and attention are vLLM's: the backend is asked for neither.
        self.backend = make_backend(
            "triton" if kernels else "torch", StepParts(c, b, rotary, rotary)
        )
        no_cache = self.pad.new_zeros(0)
        self.frame = FrameStep(ends, predictor, self.prompts, no_cache, b, self.backend)
        self.graphs: FrameGraphs | None = None
        self.vocab_size = c.vocab_size
        self.rows = torch.full((num_rows,), b.padding, device=device)  # of this step's batch
        self.batch: list[int] = []  # the same, on the host
        self.seqs: dict[int, Sequence] = {}  # by row
        self.drawn: deque[Download] = deque()

    def capture(self, capture: Capture) -> None:
        self.graphs = FrameGraphs(self._frame, self.buffers, capture, feed_backs=(False,))

    # ---- what the talker tells ----

    def start(self, seq: Sequence, run: int, voice: VoicePrompt | None) -> None:
        """Give an admitted sequence its row."""
        embeds, trailing = self.prompts.build(seq.prompt, voice)
        assert len(embeds) == seq.num_prompt_tokens and len(trailing) >= seq.num_trailing
        b = self.buffers
        b.start(seq)
        b.run[seq.row], b.num_prompt[seq.row] = run, len(embeds)
        b.text_rows[b.first_slots(seq.row, len(embeds))] = embeds
        b.add_text(seq, 0, trailing[: seq.num_trailing])
        self.seqs[seq.row] = seq

    def append(self, row: int, first: int, ids: tuple[int, ...], *, final: bool) -> None:
        """More text for a running sequence that has had `first` text rows."""
        rows = self.prompts.more_text(ids, final)
        self.buffers.append_text(self.seqs[row], first, rows, final=final)

    def take(self) -> list[Drawn]:
        """Frames that have reached the host since the last call. vLLM tells of a token after its
        frame's copy was begun, so whose token is known has its frame here.
        """
        taken: list[Drawn] = []
        while self.drawn and self.drawn[0].ready:
            taken += self.drawn.popleft().result().tolist()
        return [drawn for drawn in taken if drawn[0] != NOBODY and drawn[1] >= 0]

    # ---- one step ----

    def begin(self, rows: Seq[int]) -> None:
        """The next step is for these rows, in this order."""
        self.batch = list(rows)
        self.rows[: len(rows)].copy_(upload(self.batch, self.rows.device), non_blocking=True)

    def inputs(self, positions: Tensor, starts: Tensor) -> Tensor:
        """positions [T] of the batch's tokens, starts [B + 1] of each row's among them -> what
        enters the layers [T, H]. It is noted how far each row is then.
        """
        b, rows, ends = self.buffers, self.rows[: len(starts) - 1], starts[1:].long()
        b.num_tokens[rows] = positions[ends - 1] + 1
        tokens = torch.arange(len(positions), device=b.device)
        of_token = rows[torch.searchsorted(ends, tokens, right=True).clamp_max(len(rows) - 1)]
        frame, slots = positions - b.num_prompt[of_token], b.slots(of_token, positions)
        at_end = (frame >= 0) & (frame >= b.num_trailing[of_token])
        text = torch.where(at_end[:, None], self.pad, b.text_rows[slots])
        spoken = self.prompts.embed_frames(b.frames[slots].long())
        return text + torch.where((frame >= 0)[:, None], spoken, 0)

    def draw(self, hidden: Tensor) -> Tensor:
        """hidden [B, H], the batch's last states -> logits [B, V] with one possible token each."""
        batch, self.batch = self.batch, []
        if len(batch) != len(hidden):  # vLLM measures, and there is no batch
            return hidden.new_zeros(len(hidden), self.vocab_size, dtype=torch.float32)
        rows, b = self.rows[: len(batch)], self.buffers
        b.hidden[rows] = hidden
        self.backend.begin([self.seqs[row] for row in batch])
        codes = self.graphs(batch, False) if self.graphs else self._frame(rows, False)
        codes = codes[: len(batch)]
        which = torch.stack([b.run[rows], b.num_tokens[rows] - b.num_prompt[rows]], dim=1)
        self.drawn.append(Download(torch.cat([which, codes], dim=1)))
        logits = torch.full((len(batch), self.vocab_size), -torch.inf, device=b.device)
        return logits.scatter_(1, codes[:, :1], 0.0)

    def _frame(self, rows: Tensor, _feed_back: bool) -> Tensor:
        """rows [B] -> codes [B, 16] of the frame that follows what is computed of each. One that
        exists is as it was; of a prompt that is not done, they mean nothing.
        """
        b = self.buffers
        new = b.num_tokens[rows] == b.num_prompt[rows] + b.num_frames[rows]
        drawn = torch.where(new, rows, b.padding)
        codes = self.frame(drawn, False)
        b.frames[b.slots(drawn, b.num_tokens[drawn])] = codes.to(b.frames.dtype)
        return b.frames[b.slots(rows, b.num_tokens[rows])].long()
