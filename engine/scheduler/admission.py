"""Which sequences may run: a row, and all the KV blocks that the sequence may ever need.

First come, first served: a sequence starts when both are free. One that does not fit yet may be
overtaken by smaller ones, but only MAX_OVERTAKES times. No torch.
"""

from collections import deque
from dataclasses import dataclass, field

from engine.protocol import FinishReason
from engine.scheduler.block_manager import BlockManager
from engine.scheduler.sequence import Sequence, SequenceStatus

MAX_OVERTAKES = 16


@dataclass
class Admission:
    """`pools` maps a model to the block pool its KV lives in; models of the same geometry share
    one.
    """

    pools: dict[str, BlockManager]
    max_num_seqs: int
    waiting: deque[Sequence] = field(init=False, default_factory=deque)
    running: list[Sequence] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.free_rows = list(range(self.max_num_seqs - 1, -1, -1))

    def add(self, seq: Sequence) -> None:
        self.waiting.append(seq)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting) or any(not seq.is_paused for seq in self.running)

    def admit(self) -> list[Sequence]:
        """Give rows and blocks to those whose turn it is; who they are."""
        started: list[Sequence] = []
        blocked: list[Sequence] = []
        closed: set[BlockManager] = set()  # pools whose blocked sequence may not be overtaken again
        while self.waiting and self.free_rows:
            seq = self.waiting.popleft()
            pool = self.pools[seq.model]
            if pool in closed or not pool.can_allocate(seq):
                blocked.append(seq)
            else:
                self._start(seq)
                started.append(seq)
                for other in blocked:
                    other.overtaken += self.pools[other.model] is pool
            closed |= {self.pools[s.model] for s in blocked if s.overtaken >= MAX_OVERTAKES}
        self.waiting.extendleft(reversed(blocked))
        return started

    def _start(self, seq: Sequence) -> None:
        self.pools[seq.model].allocate(seq)
        seq.row, seq.status = self.free_rows.pop(), SequenceStatus.RUNNING
        self.running.append(seq)

    def finish(self, seq: Sequence, reason: FinishReason) -> None:
        """End a sequence wherever it stands and give back all it owns; a second call is a no-op."""
        if seq.is_finished:
            return
        if seq.status is SequenceStatus.RUNNING:
            self.running.remove(seq)
            self.free_rows.append(seq.row)
            self.pools[seq.model].free(seq)
        else:
            self.waiting.remove(seq)
        seq.status, seq.finish_reason = SequenceStatus.FINISHED, reason

    def check_integrity(self) -> None:
        """When idle: every row and every block is back."""
        for pool in set(self.pools.values()):
            pool.check_integrity()
        assert len(self.free_rows) + len(self.running) == self.max_num_seqs, "rows leaked"
