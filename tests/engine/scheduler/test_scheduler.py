"""Admission, prefill slices, turns between models, and the end of a sequence. No torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.protocol import FinishReason
from engine.scheduler.admission import MAX_OVERTAKES
from engine.scheduler.block_manager import BlockManager
from engine.scheduler.scheduler import (
    MAX_PREFILL_WAIT_S,
    MIN_PREFILL_TOKENS,
    Batch,
    Scheduler,
)
from engine.scheduler.sequence import Sequence, SequenceStatus
from tests.engine.scheduler.sequences import make

ROOT = Path(__file__).resolve().parents[3]
PURE = ("scheduler.scheduler", "scheduler.codec_schedule", "protocol")


def scheduler(
    num_blocks: int = 64, rows: int = 4, budget: int = 32, models: str = "m"
) -> Scheduler:
    """Models are letters; all share one pool of 16-token blocks."""
    return Scheduler(dict.fromkeys(models, BlockManager(num_blocks, 16)), rows, budget)


def run(batch: Batch) -> None:
    """What the core does with a batch, without audio."""
    for chunk in batch.prefill:
        chunk.seq.num_prefilled = chunk.end
    for seq in batch.decode:
        seq.num_frames += 1


def streaming(s: Scheduler, buffered_s: float, model: str = "m") -> Sequence:
    """A sequence that runs, and whose listener at time 0 has `buffered_s` of audio to play."""
    seq = make(8, 100, model)
    s.add(seq)
    while not seq.is_prefilled:
        batch = s.schedule(0.0)
        assert batch is not None
        run(batch)
    seq.note_emitted(100, 0.0)
    seq.playback_started_at = buffered_s - 100 * 0.08
    return seq


def test_no_torch() -> None:
    names = ", ".join(f"engine.{name}" for name in PURE)
    code = (
        f"import {names}, tests.engine.scheduler.simulation, sys; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# ---- admission ----


def test_first_come_first_served() -> None:
    s = scheduler(rows=2)
    seqs = [make() for _ in range(4)]
    for seq in seqs:
        s.add(seq)
    s.schedule(0.0)
    assert s.running == seqs[:2] and list(s.waiting) == seqs[2:]
    s.finish(seqs[1], FinishReason.STOP)
    s.schedule(0.0)
    assert s.running == [seqs[0], seqs[2]] and list(s.waiting) == seqs[3:]


def test_everything_is_reserved_at_once_and_given_back_once() -> None:
    s = scheduler(num_blocks=10)
    pool = s.pools["m"]
    seq = make(17, 31)  # 48 tokens: 3 blocks
    s.add(seq)
    assert (seq.row, seq.block_table, len(pool.free_blocks)) == (-1, [], 10)
    s.schedule(0.0)
    assert len(set(seq.block_table)) == 3 and len(pool.free_blocks) == 7
    assert seq.row in range(4) and seq.row not in s.free_rows
    for _ in range(2):
        s.finish(seq, FinishReason.STOP)
        assert len(pool.free_blocks) == 10 and sorted(s.free_rows) == [0, 1, 2, 3]
    assert seq.finish_reason is FinishReason.STOP
    s.check_integrity()


def test_blocks_are_used_again_before_new_ones() -> None:
    """Memory that was never written costs a CPU nothing, so what was is taken first."""
    s, used = scheduler(num_blocks=100), set()
    for _ in range(30):
        two = [make(17, 31), make(5, 3)]
        for seq in two:
            s.add(seq)
        s.schedule(0.0)
        for seq in two:
            used.update(seq.block_table)
            s.finish(seq, FinishReason.STOP)
    assert len(used) == 4


def test_one_that_fits_exactly_is_admitted() -> None:
    s = scheduler(num_blocks=3)
    for seq in (exact := make(16, 32), more := make(16, 33)):
        assert s.pools["m"].fits(seq.num_tokens) == (seq is exact)
    s.add(exact)
    s.schedule(0.0)
    assert s.running == [exact]
    s.finish(exact, FinishReason.STOP)
    s.add(more)
    s.schedule(0.0)
    assert s.running == []


def test_integrity_check_notices_leaks() -> None:
    s = scheduler()
    s.free_rows.pop()
    with pytest.raises(AssertionError, match="rows"):
        s.check_integrity()
    pool = BlockManager(4, 16)
    block = pool.free_blocks.pop()
    with pytest.raises(AssertionError, match="leaked"):
        pool.check_integrity()
    pool.free_blocks.extend([block, block])
    pool.owned[1] = -1
    with pytest.raises(AssertionError, match="twice"):
        pool.check_integrity()


def churn(s: Scheduler, big: Sequence, model: str, most: int) -> int:
    """Small sequences come and go until `big` runs; how many were admitted meanwhile."""
    small: list[Sequence] = []
    for _ in range(most):
        while len(s.waiting) < 4:
            s.add(seq := make(8, 8, model))
            small.append(seq)
        s.schedule(0.0)
        if big.status is SequenceStatus.RUNNING:
            break
        s.finish(s.running[0], FinishReason.STOP)
    return sum(seq.status is not SequenceStatus.WAITING for seq in small)


def test_a_blocked_sequence_is_overtaken_a_bounded_number_of_times() -> None:
    s = scheduler(num_blocks=8, rows=8)
    s.add(first := make(8, 8))
    s.schedule(0.0)
    s.add(big := make(64, 64))  # all 8 blocks
    before = MAX_OVERTAKES - 3  # the last pass has more small ones than may pass
    for _ in range(before):
        s.add(seq := make(8, 8))
        s.schedule(0.0)
        assert seq.status is SequenceStatus.RUNNING
        s.finish(seq, FinishReason.STOP)
    more = [make(8, 8) for _ in range(6)]
    for seq in more:
        s.add(seq)
    s.schedule(0.0)
    assert [seq.status is SequenceStatus.RUNNING for seq in more] == [True] * 3 + [False] * 3
    assert big.overtaken == MAX_OVERTAKES and list(s.waiting) == [big, *more[3:]]
    for seq in (first, *more[:3]):
        s.finish(seq, FinishReason.STOP)
    s.schedule(0.0)
    assert s.running == [big]


def test_a_blocked_sequence_runs_under_churn() -> None:
    s = scheduler(num_blocks=8, rows=4)
    s.add(make(8, 8))
    s.schedule(0.0)
    s.add(big := make(64, 64))
    assert churn(s, big, "m", 50) == MAX_OVERTAKES
    assert big.status is SequenceStatus.RUNNING


def test_a_full_pool_holds_up_no_other_pool() -> None:
    pools = {"a": BlockManager(8, 16), "b": BlockManager(8, 16)}
    s = Scheduler(pools, 4, 32)
    s.add(holder := make(8, 8, "a"))
    s.schedule(0.0)
    s.add(big := make(64, 64, "a"))
    for _ in range(3 * MAX_OVERTAKES):
        s.add(other := make(8, 8, "b"))
        s.schedule(0.0)
        assert other.status is SequenceStatus.RUNNING
        s.finish(other, FinishReason.STOP)
    assert big.overtaken == 0
    s.finish(holder, FinishReason.STOP)
    s.schedule(0.0)
    assert big.status is SequenceStatus.RUNNING


# ---- steps ----


def test_prefill_is_cut_to_the_budget_and_decode_joins_in_the_same_step() -> None:
    s = scheduler(budget=32)
    a, b = make(20, 8), make(40, 8)
    s.add(a)
    s.add(b)
    seen = []
    for _ in range(3):
        batch = s.schedule(0.0)
        assert batch is not None
        seen.append(([(c.seq, c.start, c.end) for c in batch.prefill], batch.decode))
        run(batch)
    assert seen == [
        ([(a, 0, 20), (b, 0, 12)], [a]),
        ([(b, 12, 40)], [a, b]),
        ([], [a, b]),
    ]


def test_models_take_turns() -> None:
    s = scheduler(models="abc")
    for model in "aab":
        s.add(make(8, 100, model))
    turns = []
    for _ in range(6):
        batch = s.schedule(0.0)
        assert batch is not None and all(seq.model == batch.model for seq in batch.decode)
        turns.append((batch.model, len(batch.decode)))
        run(batch)
    assert turns == [("a", 2), ("b", 1)] * 3


def test_one_that_waits_for_text_holds_its_place_and_burns_nothing() -> None:
    s = scheduler()
    open_, other = make(8, 8, text_open=True, num_trailing=1), make(8, 8)
    s.add(open_)
    s.add(other)
    decoded = []
    for _ in range(4):
        batch = s.schedule(0.0)
        assert batch is not None
        decoded.append(open_ in batch.decode)
        run(batch)
    assert decoded == [True, True, False, False]
    row, blocks = open_.row, list(open_.block_table)
    s.finish(other, FinishReason.STOP)
    assert s.schedule(0.0) is None and not s.has_work
    open_.num_trailing += 1
    assert s.has_work
    batch = s.schedule(0.0)
    assert batch is not None and batch.decode == [open_]
    assert (open_.row, open_.block_table) == (row, blocks)
    run(batch)
    assert not s.has_work
    open_.text_open = False
    assert s.has_work


def test_no_work_no_batch() -> None:
    s = scheduler()
    assert s.schedule(0.0) is None and not s.has_work


@pytest.mark.parametrize("phase", ["waiting", "prefilling", "running", "finished"])
def test_abort(phase: str) -> None:
    s = scheduler(rows=1)
    if phase == "waiting":
        s.add(make())
    s.add(seq := make(40, 8))
    if phase != "waiting":
        run(s.schedule(0.0))  # type: ignore[arg-type]
    if phase in ("running", "finished"):
        run(s.schedule(0.0))  # type: ignore[arg-type]
        assert seq.is_prefilled
    if phase == "finished":
        s.finish(seq, FinishReason.STOP)
    s.finish(seq, FinishReason.ABORT)
    expected = FinishReason.STOP if phase == "finished" else FinishReason.ABORT
    assert seq.is_finished and seq.finish_reason is expected
    assert seq not in s.running and seq not in s.waiting
    s.check_integrity()


# ---- prefill yields to listeners ----


@pytest.mark.parametrize(("prompt", "tokens"), [(60, 60), (240, 240), (800, 100)])
def test_prefill_takes_no_more_than_the_shortest_lead(prompt: int, tokens: int) -> None:
    s = scheduler(budget=512, num_blocks=100)
    streaming(s, 5.0)
    streaming(s, 0.70)
    s.prefill_s_per_token = {"m": 0.002}
    s.add(make(prompt, 8))
    batch = s.schedule(0.0)
    assert batch is not None
    taken = sum(c.end - c.start for c in batch.prefill)
    assert taken == tokens, "less a margin, which is larger for what takes long"


def test_prefill_waits_its_time_and_then_takes_its_share() -> None:
    s = scheduler(budget=512, num_blocks=100)
    playing = streaming(s, 0.1)
    s.schedule(0.0)
    s.prefill_s_per_token = {"m": 0.001}
    s.add(seq := make(200, 8))

    def tokens(now: float) -> int:
        playing.playback_started_at = now + 0.101 - 8.0  # the lead stays
        batch = s.schedule(now)
        assert batch is not None and playing in batch.decode
        run(batch)
        return sum(c.end - c.start for c in batch.prefill)

    assert tokens(10.0) == tokens(10.0 + MAX_PREFILL_WAIT_S - 0.01) == 0
    assert tokens(10.0 + MAX_PREFILL_WAIT_S) == 50  # half the lead
    assert tokens(10.0 + MAX_PREFILL_WAIT_S + 0.2) == 0
    assert tokens(10.0 + MAX_PREFILL_WAIT_S + 0.251) == 50  # 50 ms are a fifth of 250 ms
    assert seq.num_prefilled == 100


def test_a_large_slice_that_was_affordable_postpones_the_next_no_further() -> None:
    s = scheduler(budget=512, num_blocks=100)
    playing = streaming(s, 5.0)
    s.prefill_s_per_token = {"m": 0.001}
    s.add(make(1000, 8))
    batch = s.schedule(0.0)
    assert batch is not None and [c.end for c in batch.prefill] == [512]
    run(batch)
    for now, tokens in ((MAX_PREFILL_WAIT_S - 0.01, 0), (MAX_PREFILL_WAIT_S, 50)):
        playing.playback_started_at = now + 0.101 - 8.0
        batch = s.schedule(now)
        assert batch is not None and sum(c.end - c.start for c in batch.prefill) == tokens


def test_a_new_prompt_waits_anew() -> None:
    """The time that an aborted prompt has waited is not the next one's."""
    s = scheduler(budget=512, num_blocks=100)
    playing = streaming(s, 0.05)
    s.prefill_s_per_token = {"m": 0.001}
    s.add(seq := make(200, 8))
    s.schedule(0.0)
    s.finish(seq, FinishReason.ABORT)
    playing.playback_started_at = 1000.0 + 0.05 - 8.0
    s.add(make(200, 8))
    batch = s.schedule(1000.0)
    assert batch is not None and batch.prefill == []


@pytest.mark.parametrize("others", ["unheard", "waits for text", "none"])
def test_prefill_yields_to_nobody_who_hears_nothing(others: str) -> None:
    s = scheduler(budget=64, num_blocks=100)
    if others != "none":
        seq = streaming(s, 0.0)
        if others == "unheard":
            seq.playback_started_at = None
        else:
            seq.text_open = True
    s.prefill_s_per_token = {"m": 0.001}
    s.add(make(200, 8))
    batch = s.schedule(0.0)
    assert batch is not None and [c.end for c in batch.prefill] == [64]


def test_nobody_waits_for_a_very_long_prompt() -> None:
    s = scheduler(budget=512, num_blocks=600)
    s.prefill_s_per_token = {"m": 0.001}
    s.add(make(4000, 8))
    batch = s.schedule(0.0)
    assert batch is not None and [c.end for c in batch.prefill] == [250], "a quarter of a second"
    batch.prefill[0].seq.num_prefilled = 250
    s.add(short := make(40, 8))
    s.add(other := make(30, 8))
    batch = s.schedule(0.25)
    assert batch is not None
    assert [(c.seq, c.start, c.end) for c in batch.prefill[:2]] == [(other, 0, 30), (short, 0, 40)]
    assert batch.prefill[2].end == 250 + 180


def test_prefill_cost_is_learnt_per_model() -> None:
    s = scheduler(models="ab")
    s.observe_prefill("a", 10, 1.0)
    s.observe_prefill("b", 10, 4.0)
    assert s.prefill_s_per_token == pytest.approx({"a": 0.1, "b": 0.4})
    for _ in range(30):
        s.observe_prefill("a", 10, 2.0)
    assert s.prefill_s_per_token["a"] == pytest.approx(0.2, rel=1e-3)


def test_a_dry_stream_lets_a_slice_of_useful_size_through() -> None:
    s = scheduler(budget=512, num_blocks=100)
    streaming(s, -1.0)
    s.prefill_s_per_token = {"m": 0.05}  # the forced slice alone would be 2 tokens
    s.add(make(200, 8))
    s.schedule(0.0)
    batch = s.schedule(MAX_PREFILL_WAIT_S)
    assert batch is not None and [c.end for c in batch.prefill] == [MIN_PREFILL_TOKENS]


# ---- where a step costs by its rows ----


def of_next(s: Scheduler, now: float = 0.0) -> list[Sequence]:
    batch = s.schedule(now)
    assert batch is not None
    run(batch)
    return batch.decode


def test_those_with_plenty_wait_until_everybody_has_enough() -> None:
    s = scheduler(rows=8)
    plenty, some = streaming(s, 2.0), streaming(s, 0.6)
    s.rows_cost = True
    new = make(8, 100)
    s.add(new)
    assert of_next(s) == [some, new]
    new.note_emitted(1, 0.0)  # 0.08 s
    assert of_next(s) == [some, new]
    new.codes = [[0] * 16] * 6  # and 0.48 s
    assert of_next(s) == [plenty, some, new]


def test_they_wait_for_another_models_sequence_too() -> None:
    s = Scheduler({"a": BlockManager(16, 16), "b": BlockManager(16, 16)}, 4, 256, rows_cost=True)
    plenty, new = streaming(s, 2.0, model="a"), make(8, 100, model="b")
    s.add(new)
    for _ in range(5):
        assert of_next(s) == [new]
    new.codes = [[0] * 16] * 7
    assert {id(seq) for _ in range(2) for seq in of_next(s)} == {id(plenty), id(new)}


def test_a_callers_only_utterance_goes_before_those_of_a_flood() -> None:
    s = scheduler(rows=8)
    flood = [streaming(s, lead_s) for lead_s in (0.4, 0.6, 3.0)]
    alone = streaming(s, 0.8)
    alone.is_alone, s.rows_cost = True, True
    flood[0].note_emitted(2, 0.0)
    assert of_next(s) == [alone]
    flood[0].playback_started_at -= 0.2  # and has less than enough again
    assert of_next(s) == [flood[0], alone]
    alone.note_emitted(60, 0.0)
    flood[0].note_emitted(3, 0.0)
    assert of_next(s) == [*flood, alone]


def test_elsewhere_all_rows_go_on() -> None:
    s = scheduler(rows=8)
    plenty, new = streaming(s, 2.0), make(8, 100)
    s.add(new)
    assert of_next(s) == [plenty, new]
