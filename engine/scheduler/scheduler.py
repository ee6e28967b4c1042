"""Which sequences run in the next step. Plain Python: no torch, and the time is an argument.

In: sequences that wait or run. Out: a Batch of one model: perhaps slices of prompts (prefill), and
then one frame for each of the model's running sequences (decode).

Admission is first come, first served: a sequence starts when a row and all the KV blocks it may
need are free. One that does not fit yet may be overtaken by smaller ones, but only MAX_OVERTAKES
times.

Prefill yields to listeners: a slice is cut so that it takes no longer than the audio that the
listener with the least still has, and waits while that is nothing. It waits MAX_PREFILL_WAIT_S at
most. From then on prefill gets PREFILL_SHARE of the time even if listeners run out of audio, as
they do anyway if decode is slower than speech. So a prompt that takes c seconds alone starts to
speak about MAX_PREFILL_WAIT_S + c / PREFILL_SHARE after its turn came, whatever else runs.
"""

from collections import deque
from dataclasses import dataclass, field

from engine.protocol import FinishReason
from engine.scheduler.block_manager import BlockManager
from engine.scheduler.sequence import Sequence, SequenceStatus

MAX_OVERTAKES = 16
MAX_PREFILL_WAIT_S = 0.5
PREFILL_SHARE = 0.2
# The longest slice of a prompt that streams may not be able to afford.
FORCED_SLICE_S = 0.1
MIN_PREFILL_TOKENS = 16
# A stream's lead that prefill leaves alone: room for the decode step and the codec after it.
LEAD_MARGIN_S = 0.16


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Prompt positions start..end of one sequence."""

    seq: Sequence
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One step of one model: prefill first, then decode (which includes sequences whose prefill
    ends here).
    """

    model: str
    prefill: list[PrefillChunk]
    decode: list[Sequence]


@dataclass
class Scheduler:
    """`pools` maps a model to the block pool its KV lives in; models of the same geometry share
    one.
    """

    pools: dict[str, BlockManager]
    max_num_seqs: int
    max_num_batched_tokens: int
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free_rows = list(range(self.max_num_seqs - 1, -1, -1))
        self._models = list(self.pools)
        self.prefill_s_per_token: dict[str, float] = {}
        self._prefill_by: dict[str, float] = {}  # when a model's next slice must run, if any waits

    def add(self, seq: Sequence) -> None:
        self.waiting.append(seq)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting) or any(not seq.is_paused for seq in self.running)

    def schedule(self, now: float) -> Batch | None:
        """The next step, or None when nothing can run (every sequence waits for text or for its
        listener, or there is none).
        """
        self._admit()
        for _ in self._models:
            model = self._models.pop(0)
            self._models.append(model)
            batch = self._batch(model, now)
            if batch.prefill or batch.decode:
                for seq in batch.decode:
                    seq.num_scheduled += 1
                return batch
        return None

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
        if not self._due(seq.model):
            self._prefill_by.pop(seq.model, None)

    def observe_prefill(self, model: str, num_tokens: int, elapsed_s: float) -> None:
        """Learn what a prompt token costs; a moving average from the first measurement on."""
        cost = elapsed_s / num_tokens
        known = self.prefill_s_per_token.get(model, cost)
        self.prefill_s_per_token[model] = 0.7 * known + 0.3 * cost

    def check_integrity(self) -> None:
        """When idle: every row and every block is back."""
        for pool in set(self.pools.values()):
            pool.check_integrity()
        assert len(self.free_rows) + len(self.running) == self.max_num_seqs, "rows leaked"

    def _admit(self) -> None:
        blocked: list[Sequence] = []
        closed: set[BlockManager] = set()  # pools whose blocked sequence may not be overtaken again
        while self.waiting and self.free_rows:
            seq = self.waiting.popleft()
            pool = self.pools[seq.model]
            if pool in closed or not pool.can_allocate(seq):
                blocked.append(seq)
            else:
                self._start(seq)
                for other in blocked:
                    other.overtaken += self.pools[other.model] is pool
            closed |= {self.pools[s.model] for s in blocked if s.overtaken >= MAX_OVERTAKES}
        self.waiting.extendleft(reversed(blocked))

    def _start(self, seq: Sequence) -> None:
        self.pools[seq.model].allocate(seq)
        seq.row, seq.status = self.free_rows.pop(), SequenceStatus.RUNNING
        self.running.append(seq)

    def _batch(self, model: str, now: float) -> Batch:
        mine = [seq for seq in self.running if seq.model == model]
        prefill = self._prefill(model, now)
        ends = {chunk.seq for chunk in prefill if chunk.end == chunk.seq.num_prompt_tokens}
        decode = [seq for seq in mine if (seq.is_prefilled or seq in ends) and seq.may_speak]
        return Batch(model, prefill, decode)

    def _due(self, model: str) -> list[Sequence]:
        """Running sequences whose prompt is not done."""
        return [seq for seq in self.running if seq.model == model and not seq.is_prefilled]

    def _prefill(self, model: str, now: float) -> list[PrefillChunk]:
        due = self._due(model)
        if not due:
            self._prefill_by.pop(model, None)
            return []
        deadline = self._prefill_by.setdefault(model, now + MAX_PREFILL_WAIT_S)
        budget = left = self._prefill_budget(model, now, forced=now >= deadline)
        chunks = []
        for seq in due:
            if left <= 0:
                break
            end = min(seq.num_prompt_tokens, seq.num_prefilled + left)
            chunks.append(PrefillChunk(seq, seq.num_prefilled, end))
            left -= end - seq.num_prefilled
        taken_s = (budget - left) * self.prefill_s_per_token.get(model, 0.0)
        self._prefill_by[model] = min(deadline + taken_s / PREFILL_SHARE, now + MAX_PREFILL_WAIT_S)
        return chunks

    def _prefill_budget(self, model: str, now: float, *, forced: bool) -> int:
        """Prompt tokens that may run now without letting a stream of any model run dry; if
        `forced`, some in any case.
        """
        streaming = [seq for seq in self.running if seq.is_prefilled and not seq.is_paused]
        lead = min((seq.buffered_s(now) for seq in streaming), default=float("inf"))
        cost = self.prefill_s_per_token.get(model)
        if lead == float("inf") or not cost:
            return self.max_num_batched_tokens
        affordable = int((lead - LEAD_MARGIN_S) / cost)
        if affordable >= MIN_PREFILL_TOKENS:
            return min(self.max_num_batched_tokens, affordable)
        if not forced:
            return 0
        slice_s = FORCED_SLICE_S if lead < 0 else min(lead / 2, FORCED_SLICE_S)
        return min(self.max_num_batched_tokens, max(MIN_PREFILL_TOKENS, int(slice_s / cost)))
