"""Which frames become audio after a step. No torch."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import FRAME_S
from engine.scheduler.codec_schedule import (
    CATCH_UP,
    DRY_CHUNK,
    LONG_LEAD_S,
    SHORT_LEAD_S,
    CodecBatch,
    CodecSchedule,
)
from engine.scheduler.sequence import Sequence, SequenceStatus
from tests.engine.scheduler.sequences import make

RAMP = (1, 2, 4, 8, 12)
SCHEDULE = CodecSchedule(RAMP)


def stream(pending: int, num_chunks: int = 0, buffered_s: float | None = None) -> Sequence:
    """A running stream at time 0; buffered_s None: never heard."""
    seq = make(status=SequenceStatus.RUNNING)
    seq.codes = [[0] * 16 for _ in range(pending)]
    seq.num_frames = seq.num_scheduled = pending
    seq.num_chunks = num_chunks
    if buffered_s is not None:
        seq.playback_started_at = buffered_s
    return seq


def sizes(batches: list[CodecBatch]) -> dict[Sequence, int]:
    return {seq: batch.num_frames for batch in batches for seq in batch.seqs}


def test_chunks_grow_along_the_ramp_while_the_listener_has_enough() -> None:
    seq, chunks = stream(0, buffered_s=1.0), []
    for _ in range(60):
        seq.codes.append([0] * 16)
        for batch in SCHEDULE.batches([seq], [], 0.0):
            chunks.append(batch.num_frames)
            seq.num_chunks += 1
            del seq.codes[: batch.num_frames]
    assert chunks == [1, 2, 4, 8, 12, 12, 12]


def test_a_backlog_is_decoded_in_the_largest_size_that_is_full() -> None:
    assert sizes(SCHEDULE.batches([a := stream(9, 1)], [], 0.0)) == {a: 8}
    assert sizes(SCHEDULE.batches([a := stream(40, 4)], [], 0.0)) == {a: 12}


def test_a_stream_about_to_run_dry_does_not_wait_for_its_chunk() -> None:
    assert sizes(SCHEDULE.batches([stream(7, 4, buffered_s=1.0)], [], 0.0)) == {}
    assert sizes(SCHEDULE.batches([a := stream(7, 4, buffered_s=0.1)], [], 0.0)) == {a: 4}
    assert sizes(SCHEDULE.batches([a := stream(1, 4, buffered_s=0.1)], [], 0.0)) == {a: 1}


def test_a_dry_stream_takes_what_there_is() -> None:
    dry = stream(DRY_CHUNK - 1, 4, buffered_s=-0.1)
    assert sizes(SCHEDULE.batches([dry], [], 0.0)) == {dry: 2}


def test_in_an_engine_slower_than_speech_a_dry_stream_waits_for_a_few_frames() -> None:
    slow = CodecSchedule(RAMP, step_s=FRAME_S)
    assert sizes(slow.batches([stream(DRY_CHUNK - 1, 4, buffered_s=-0.1)], [], 0.0)) == {}
    dry = stream(DRY_CHUNK, 4, buffered_s=-0.1)
    assert sizes(slow.batches([dry], [], 0.0)) == {dry: DRY_CHUNK}


@pytest.mark.parametrize(
    ("step_s", "few_s", "many_s", "waits"),
    [
        (0.075, 0.03, 0.01, True),
        (0.04, 0.03, 0.01, False),  # there is time for frames one by one
        (0.075, 0.015, 0.01, False),  # together they cost hardly less
        (0.075, 0.03, 0.0, False),  # nobody knows what they cost together
    ],
)
def test_what_is_hardly_in_real_time_waits_where_frames_cost_less_together(
    step_s: float, few_s: float, many_s: float, waits: bool
) -> None:
    schedule = CodecSchedule(RAMP, step_s=step_s, few_s=few_s, many_s=many_s)
    short = stream(DRY_CHUNK - 1, 4, buffered_s=0.1)
    assert schedule.next_chunk(short, 0.1) == (0 if waits else 2)
    full = stream(DRY_CHUNK, 4, buffered_s=0.1)
    assert schedule.next_chunk(full, 0.1) == DRY_CHUNK
    assert schedule.next_chunk(full, 1.0) == 0, "who has plenty waits for a whole chunk"


@pytest.mark.parametrize(("ramp", "waits_for"), [((1, 2, 3, 8), 3), ((1, 3, 6), 3), ((8,), 8)])
def test_it_waits_for_a_size_that_the_ramp_has(ramp: tuple[int, ...], waits_for: int) -> None:
    slow = CodecSchedule(ramp, step_s=2 * FRAME_S)
    sizes_ = [slow.next_chunk(stream(n, 9, buffered_s=-1.0), -1.0) for n in range(1, 9)]
    assert sizes_[: waits_for - 1] == [0] * (waits_for - 1) and sizes_[waits_for - 1] == waits_for


def test_it_learns_what_few_and_many_frames_cost() -> None:
    schedule = CodecSchedule(RAMP)
    schedule.observe(1, 0.03)
    schedule.observe(8, 0.08)
    assert (schedule.few_s, schedule.many_s) == (0.03, 0.01)
    schedule.observe(2, 0.02)
    assert 0.01 < schedule.few_s < 0.03 and schedule.many_s == 0.01


def test_a_stream_whose_turn_comes_late_does_not_wait_for_its_chunk() -> None:
    """Eight that began together: 48 frames take the codec 0.24 s, and all have 0.3 s in hand."""
    together = [stream(6, 3, buffered_s=0.3) for _ in range(8)]
    assert SCHEDULE.batches(together, [], 0.0) == []
    slow = CodecSchedule(RAMP, frame_s=0.005)
    assert sizes(slow.batches(together, [], 0.0)) == dict.fromkeys(together[4:], 4)
    assert slow.batches(together[:4], [], 0.0) == [], "four would be done in time"


def test_those_with_plenty_wait_while_others_are_short() -> None:
    plenty, short = stream(12, 4, LONG_LEAD_S + 0.01), stream(1, 2, SHORT_LEAD_S - 0.01)
    assert sizes(SCHEDULE.batches([plenty, short], [], 0.0)) == {short: 1}
    assert sizes(SCHEDULE.batches([plenty], [], 0.0)) == {plenty: 12}
    new = stream(1)
    assert sizes(SCHEDULE.batches([plenty, short, new], [], 0.0)) == {short: 1, new: 1}


@pytest.mark.parametrize(("step_s", "first"), [(0.02, 1), (0.04, 2), (0.1, 1)])
def test_a_first_chunk_lasts_some_steps_if_any_chunk_can(step_s: float, first: int) -> None:
    schedule, playing = CodecSchedule(RAMP), stream(1, 4, buffered_s=1e9)
    for i in range(100):
        schedule.batches([playing], [], i * step_s)
    schedule.batches([], [], 99 * step_s)
    now = 1000.0  # nobody spoke meanwhile: not a step
    new = stream(0)
    new.codes.append([0] * 16)
    assert bool(sizes(schedule.batches([new], [], now))) == (first == 1)
    new.codes.append([0] * 16)
    assert sizes(schedule.batches([new], [], now)) == {new: 2}


def test_the_driest_goes_first_and_the_unheard_before_all() -> None:
    """Budget: 12 frames."""
    dry, wet, new = stream(8, 3, 0.2), stream(12, 4, 0.4), stream(1)
    assert sizes(SCHEDULE.batches([wet, dry, new], [], 0.0)) == {new: 1, dry: 8}


def test_each_step_decodes_at_most_its_budget() -> None:
    streams = [stream(12, 4, 1.0 + i) for i in range(20)]
    chosen = sizes(SCHEDULE.batches(reversed(streams), [], 0.0))
    assert chosen == dict.fromkeys(streams[:3], 12)  # 36 of 2 * 20 frames, driest first


def test_ending_streams_are_flushed_whatever_the_budget() -> None:
    ending = [stream(n, 4, 9.0) for n in (0, 1, 5, 40)]
    assert sizes(SCHEDULE.batches([], ending, 0.0)) == dict(
        zip(ending[1:], (1, 5, 40), strict=True)
    )


def test_streams_of_one_size_go_together() -> None:
    a, b, c = stream(4, 2, 1.0), stream(4, 2, 2.0), stream(2, 1, 1.5)
    batches = SCHEDULE.batches([a, b, c], [], 0.0)
    assert [(batch.num_frames, batch.seqs) for batch in batches] == [(4, [a, b]), (2, [c])]


@pytest.mark.parametrize("pending", [1, 5, 12, 13, 100])
def test_one_that_waits_for_text_is_flushed_step_by_step(pending: int) -> None:
    seq = stream(pending, 4, 9.0)
    seq.text_open = True
    assert seq.waits_for_text
    for _ in range(-(-pending // RAMP[-1])):
        (batch,) = SCHEDULE.batches([seq], [], 0.0)
        del seq.codes[: batch.num_frames]
    assert seq.codes == []
    assert SCHEDULE.batches([seq], [], 0.0) == []


STREAMS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 6), st.none() | st.floats(-2, 2)), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(running=STREAMS, ending=STREAMS)
def test_never_more_than_there_is(running, ending) -> None:
    alive, last = [stream(*args) for args in running if args[0]], [stream(*a) for a in ending]
    chosen = sizes(SCHEDULE.batches(alive, last, 0.0))
    assert all(0 < size <= len(seq.codes) for seq, size in chosen.items())
    assert all(chosen.get(seq, 0) == len(seq.codes) for seq in last)
    spent = sum(chosen.get(seq, 0) for seq in alive)
    assert spent <= max(CATCH_UP * len(alive), RAMP[-1])
    due = [seq for seq in alive if SCHEDULE.next_chunk(seq, seq.buffered_s(0.0))]
    assert not due or spent, "whatever the order, somebody gets on"


@settings(max_examples=60, deadline=None)
@given(chunks=st.lists(st.tuples(st.integers(1, 12), st.floats(0, 2)), min_size=1, max_size=20))
def test_lead_is_what_a_pausing_listener_has_left(chunks) -> None:
    seq, now, plays_until = make(), 50.0, None
    assert seq.buffered_s(now) == float("inf")
    for num_frames, pause_s in chunks:
        seq.note_emitted(num_frames, now)
        start = now if plays_until is None else max(now, plays_until)
        plays_until = start + num_frames * FRAME_S
        assert seq.buffered_s(now) == pytest.approx(plays_until - now)
        now += pause_s
    assert (seq.num_chunks, seq.num_emitted_frames) == (len(chunks), sum(n for n, _ in chunks))
