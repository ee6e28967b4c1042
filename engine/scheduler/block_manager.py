"""A pool of KV blocks. A sequence gets all the blocks it may ever need when it is admitted, and
returns them at once.

That makes decode unable to run out, so there is no preemption anywhere; the price is that the
blocks of frames never spoken lie idle until the sequence ends.

The block that became free last is taken first. A CPU's memory counts as used once it was written:
taken in turn, every block of the pool would be, however few sequences run.
"""

from engine.scheduler.sequence import Sequence


class BlockManager:
    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks > 0 and block_size > 0
        self.num_blocks, self.block_size = num_blocks, block_size
        self.free_blocks = list(range(num_blocks))[::-1]
        self.owned: dict[int, int] = {}  # sequence id -> number of blocks

    def num_needed(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def fits(self, num_tokens: int) -> bool:
        """Whether a sequence of this length could run in an empty pool."""
        return self.num_needed(num_tokens) <= self.num_blocks

    def can_allocate(self, seq: Sequence) -> bool:
        return self.num_needed(seq.num_tokens) <= len(self.free_blocks)

    def allocate(self, seq: Sequence) -> None:
        assert not seq.block_table and seq.id not in self.owned
        count = self.num_needed(seq.num_tokens)
        seq.block_table = [self.free_blocks.pop() for _ in range(count)]
        self.owned[seq.id] = count

    def free(self, seq: Sequence) -> None:
        count = self.owned.pop(seq.id)
        assert count == len(seq.block_table)
        self.free_blocks.extend(reversed(seq.block_table))
        seq.block_table = []

    def check_integrity(self) -> None:
        """free + owned == total, and no block is free twice."""
        free = len(self.free_blocks)
        assert free + sum(self.owned.values()) == self.num_blocks, "blocks leaked"
        assert len(set(self.free_blocks)) == free, "a block was freed twice"
