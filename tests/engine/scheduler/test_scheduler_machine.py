"""Random add / schedule / finish / abort sequences against the scheduler's invariants. No torch."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.protocol import FinishReason
from engine.scheduler.admission import MAX_OVERTAKES
from engine.scheduler.block_manager import BlockManager
from engine.scheduler.scheduler import Scheduler
from engine.scheduler.sequence import Sequence, SequenceStatus
from tests.engine.scheduler.sequences import make

BUDGET, ROWS = 24, 5


class SchedulerMachine(RuleBasedStateMachine):
    """Models a and b share a pool, c has its own."""

    def __init__(self) -> None:
        super().__init__()
        shared = BlockManager(12, 4)
        self.pools = {"a": shared, "b": shared, "c": BlockManager(7, 4)}
        self.scheduler = Scheduler(self.pools, ROWS, BUDGET)
        self.overlap, self.under_way = False, []
        self.alive: list[Sequence] = []
        self.ended: list[Sequence] = []
        self.now = 0.0

    @rule(
        num_prompt=st.integers(1, 20),
        num_frames=st.integers(1, 8),
        model=st.sampled_from("abc"),
        text_open=st.booleans(),
    )
    def add(self, num_prompt: int, num_frames: int, model: str, text_open: bool) -> None:
        seq = make(num_prompt, num_frames, model, text_open=text_open)
        self.alive.append(seq)
        self.scheduler.add(seq)

    @initialize(overlap=st.booleans())
    def choose(self, overlap: bool) -> None:
        self.overlap = overlap

    @rule(elapsed=st.floats(0, 1))
    def step(self, elapsed: float) -> None:
        had_work = self.scheduler.has_work
        self.now += elapsed
        batch = self.scheduler.schedule(self.now)
        if batch is None:
            assert not any(seq.is_prefilled and seq.may_speak for seq in self.running)
            self.take([])
            return
        assert had_work and (batch.prefill or batch.decode)
        num_tokens = 0
        for chunk in batch.prefill:
            assert chunk.seq.num_prefilled == chunk.start < chunk.end
            assert chunk.end <= chunk.seq.num_prompt_tokens
            chunk.seq.num_prefilled = chunk.end
            num_tokens += chunk.end - chunk.start
        assert num_tokens <= BUDGET
        if num_tokens:
            self.scheduler.observe_prefill(batch.model, num_tokens, 0.01 * num_tokens)
        for seq in batch.decode:
            assert seq.model == batch.model and seq.is_prefilled
            assert seq.num_scheduled <= seq.max_frames
            assert not seq.text_open or seq.num_scheduled <= seq.num_trailing + 1
        self.take(batch.decode)

    def take(self, begun: list[Sequence]) -> None:
        """Frames are taken when they are begun, or one step later."""
        taken, self.under_way = (self.under_way, begun) if self.overlap else (begun, [])
        for seq in taken:
            if not seq.is_finished:
                self.decode(seq)

    def decode(self, seq: Sequence) -> None:
        assert seq.num_scheduled - seq.num_frames in (1, 2)
        seq.num_frames += 1
        seq.note_emitted(1, self.now)
        if seq.num_frames == seq.max_frames:
            self.end(seq, FinishReason.LENGTH)

    @rule(data=st.data())
    def abort(self, data: Any) -> None:
        if self.alive:
            self.end(data.draw(st.sampled_from(self.alive)), FinishReason.ABORT)

    @rule(data=st.data())
    def abort_again(self, data: Any) -> None:
        if self.ended:
            self.scheduler.finish(data.draw(st.sampled_from(self.ended)), FinishReason.ERROR)

    @rule(data=st.data(), final=st.booleans())
    def more_text(self, data: Any, final: bool) -> None:
        if waiting := [seq for seq in self.alive if seq.text_open]:
            seq = data.draw(st.sampled_from(waiting))
            seq.num_trailing, seq.text_open = seq.num_trailing + 1, not final

    def end(self, seq: Sequence, reason: FinishReason) -> None:
        self.scheduler.finish(seq, reason)
        self.alive.remove(seq)
        self.ended.append(seq)

    @property
    def running(self) -> list[Sequence]:
        return [seq for seq in self.alive if seq.status is SequenceStatus.RUNNING]

    @invariant()
    def every_sequence_is_in_its_place(self) -> None:
        assert set(self.scheduler.running) == set(self.running)
        waiting = [seq for seq in self.alive if seq.status is SequenceStatus.WAITING]
        assert list(self.scheduler.waiting) == waiting, "the queue keeps its order"
        assert all(seq.overtaken <= MAX_OVERTAKES for seq in waiting)
        assert all(seq.finish_reason is not FinishReason.ERROR for seq in self.ended)

    @invariant()
    def rows_and_blocks_have_one_owner(self) -> None:
        self.scheduler.check_integrity()
        rows = [seq.row for seq in self.running]
        assert sorted(rows + self.scheduler.free_rows) == list(range(ROWS))
        for pool in set(self.pools.values()):
            mine = [seq for seq in self.running if self.pools[seq.model] is pool]
            blocks = [block for seq in mine for block in seq.block_table]
            assert sorted([*blocks, *pool.free_blocks]) == list(range(pool.num_blocks))
            assert all(len(s.block_table) == pool.num_needed(s.num_tokens) for s in mine)

    def teardown(self) -> None:
        for seq in list(self.alive):
            self.end(seq, FinishReason.ABORT)
        self.scheduler.check_integrity()
        assert not self.scheduler.has_work


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
