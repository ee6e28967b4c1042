"""What one checkpoint's running sequences keep on the device, indexed by row.

The last row and the last KV block belong to no sequence: batches are padded with them where the
number of rows is fixed (cuda_graphs.py), and what is written there is never read.
"""

from functools import partial

import torch
from torch import Tensor

from engine.layers.sampling_table import SamplingTable
from engine.loader.host_memory import zeros
from engine.models.config import TalkerConfig
from engine.runner.transfer import upload
from engine.scheduler.sequence import Sequence

# As in the reference: so many codes are drawn before the end token may be.
MIN_FRAMES = 2
NEVER = 1 << 62


class RowBuffers:
    """R rows and one for padding; N blocks a sequence may have at most.

    hidden [R + 1, H]        the talker state from which the row's next codebook 0 is drawn
    codes [R + 1, 16]        the row's last frame, fed back as an embedding
    num_tokens [R + 1]       KV positions written so far: the position of the next input
    num_frames [R + 1]       frames spoken so far
    num_trailing [R + 1]     text rows that join frames
    ends_from [R + 1]        the first frame that may be the end: none while text is to come
    block_tables [R + 1, N]  the row's KV blocks
    seen [R + 1, V]          codebook-0 codes the row has drawn (repetition penalty)
    sampling [R + 1]         how the row samples
    text_rows [slots + 1, H] trailing text: the row that joins the input at a position lies in that
                             position's KV slot; the last entry is the padding row
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
        """num_blocks: the padding's included; pad [H], of the dtype and device of all rows."""
        self.num_rows, self.device, self.block_size = num_rows, pad.device, block_size
        n, integers = num_rows + 1, partial(torch.zeros, dtype=torch.int64, device=self.device)
        self.hidden = pad.new_zeros(n, c.hidden_size)
        self.codes = integers(n, c.num_code_groups)
        self.num_tokens, self.num_frames, self.num_trailing = (integers(n) for _ in range(3))
        self.ends_from = integers(n).fill_(MIN_FRAMES)
        self.block_tables = integers(n, -(-max_tokens // self.block_size))
        self.block_tables[-1] = num_blocks - 1
        self.seen = torch.zeros(n, c.vocab_size, dtype=torch.bool, device=self.device)
        self.sampling = SamplingTable(n, self.device)
        text_shape = (num_blocks * self.block_size + 1, c.hidden_size)
        self.text_rows = zeros(text_shape, pad.dtype, self.device)
        self.text_rows[-1] = pad

    @property
    def padding(self) -> int:
        """The row that belongs to no sequence."""
        return self.num_rows

    def padding_state(self) -> list[Tensor]:
        """What a frame of the padding row changes."""
        kept = (self.hidden, self.codes, self.num_tokens, self.num_frames, self.seen)
        return [tensor[-1:] for tensor in kept]

    def start(self, seq: Sequence) -> None:
        """Give the sequence's row its blocks, its sampling parameters and clean counters."""
        row, table = seq.row, upload(seq.block_table, self.device)
        self.block_tables[row, : len(table)] = table
        self.num_tokens[row] = self.num_frames[row] = self.num_trailing[row] = 0
        self.seen[row] = False
        self.ends_from[row] = self._ends_from(seq.num_trailing, seq.text_open)
        self.sampling.set(row, seq.sampling)

    @staticmethod
    def _ends_from(num_trailing: int, text_open: bool) -> int:
        """Frame k is drawn after text row k - 1 went in, and the end row is the last of them. What
        is cut by the frame budget has no end row, and ends by that.
        """
        return NEVER if text_open else max(MIN_FRAMES, num_trailing)

    def append_text(self, seq: Sequence, first: int, rows: Tensor, *, final: bool) -> None:
        """More text rows [n, H] of a running sequence; behind the last of all it may end."""
        self.add_text(seq, first, rows)
        if final:
            self.ends_from[seq.row] = self._ends_from(first + len(rows), text_open=False)

    def add_text(self, seq: Sequence, first: int, rows: Tensor) -> None:
        """Trailing text rows [n, H], the first of which is the sequence's `first`-th."""
        if not len(rows):
            return
        start = seq.num_prompt_tokens + first
        positions = torch.arange(start, start + len(rows), device=self.device)
        self.text_rows[self.slots(upload([seq.row], self.device), positions)] = rows
        self.num_trailing[seq.row] = first + len(rows)

    def slots(self, rows: Tensor, positions: Tensor) -> Tensor:
        """KV slots of positions [T] of rows [T] (or [1])."""
        blocks = self.block_tables[rows, positions // self.block_size]
        return blocks * self.block_size + positions % self.block_size

    def first_slots(self, row: int, length: int) -> Tensor:
        """KV slots of a row's positions 0 .. length - 1."""
        return self.slots(upload([row], self.device), torch.arange(length, device=self.device))

    def text_at(self, rows: Tensor, slots: Tensor) -> Tensor:
        """[B, H]: the text that joins the rows' last frames, padding after the text's end."""
        has_text = self.num_frames[rows] <= self.num_trailing[rows]
        return self.text_rows[torch.where(has_text, slots, len(self.text_rows) - 1)]
