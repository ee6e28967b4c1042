"""SegmentedStream alone, on parts that a test ends by hand."""

import asyncio

import numpy as np
import pytest

from engine import Finished, FinishReason, Prompt, QueueFullError, Usage
from qtts_openai.speech import segmented_stream as module
from qtts_openai.speech.segmented_stream import BYTES_PER_S, FADE_BYTES, SegmentedStream

CHUNK = np.full(4800, 1000, "<i2").tobytes()


def prompt(text: int) -> Prompt:
    return Prompt(role=(1,), text=(text,))


class Part:
    """Two chunks, then its end."""

    def __init__(self, reason: FinishReason | None = FinishReason.STOP) -> None:
        self.ended = asyncio.Event()
        self.finished: Finished | None = None
        self.aborted = False
        self._reason = reason
        self._chunks = [CHUNK, CHUNK]

    def __aiter__(self) -> "Part":
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        if self._chunks:
            return self._chunks.pop()
        if self._reason is not None:
            self.finished = Finished(0, self._reason, Usage(3, 5))
        self.ended.set()
        raise StopAsyncIteration

    def abort(self) -> None:
        self.aborted = True


class Submits:
    def __init__(self, *parts: Part | Exception) -> None:
        self.parts = list(parts)
        self.calls: list[tuple[Prompt, float]] = []

    def __call__(self, what: Prompt, buffered_s: float) -> Part:
        part = self.parts.pop(0)
        if isinstance(part, Exception):
            raise part
        self.calls.append((what, buffered_s))
        return part


async def heard(stream: SegmentedStream) -> bytes:
    return b"".join([pcm async for pcm in stream])


async def test_parts_are_heard_in_order_with_their_usage_added():
    submits = Submits(Part(), Part())
    stream = SegmentedStream(submits, (prompt(1), prompt(2)))
    pcm = await heard(stream)
    assert len(pcm) == 4 * len(CHUNK)
    assert [what for what, _ in submits.calls] == [prompt(1), prompt(2)]
    assert stream.finished == Finished(0, FinishReason.STOP, Usage(6, 10))


async def test_each_part_fades_in_and_out():
    pcm = np.frombuffer(await heard(SegmentedStream(Submits(Part()), (prompt(1),))), "<i2")
    fade = FADE_BYTES // 2
    assert pcm[0] == 0 and pcm[-1] < 20 and (pcm[fade:-fade] == 1000).all()
    assert (np.diff(pcm[:fade]) >= 0).all() and (np.diff(pcm[-fade:]) <= 0).all()


async def test_silences_before_between_and_after():
    parts = (0.5, prompt(1), 0.25, 0.25, prompt(2), 1.0)
    pcm = await heard(SegmentedStream(Submits(Part(), Part()), parts))
    assert len(pcm) == 4 * len(CHUNK) + 2 * BYTES_PER_S
    assert not any(pcm[: BYTES_PER_S // 2]) and not any(pcm[-BYTES_PER_S:])


async def test_silence_is_made_in_pieces():
    sizes = [len(pcm) async for pcm in SegmentedStream(Submits(Part()), (prompt(1), 10.0))]
    assert max(sizes) <= module.SILENCE_BYTES and sum(sizes) == 2 * len(CHUNK) + 10 * BYTES_PER_S


async def test_the_second_part_is_submitted_when_the_first_is_made_not_when_it_is_heard():
    first = Part()
    submits = Submits(first, Part())
    stream = SegmentedStream(submits, (prompt(1), prompt(2)))
    await anext(stream)
    assert len(submits.calls) == 1
    first.finished = Finished(0, FinishReason.STOP, Usage(3, 5))
    first.ended.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(submits.calls) == 2, "though its own audio has not been read"
    assert submits.calls[0][1] == 0 and submits.calls[1][1] > 0, "the listener has a lead by now"
    stream.abort()


def test_the_first_prompts_error_is_raised_at_once():
    with pytest.raises(QueueFullError):
        SegmentedStream(Submits(QueueFullError("full", 1.0)), (prompt(1),))


async def test_a_full_queue_in_the_middle_is_waited_for(monkeypatch):
    full = QueueFullError("full", 0.001)
    submits = Submits(Part(), full, full, Part())
    pcm = await heard(SegmentedStream(submits, (prompt(1), prompt(2))))
    assert len(pcm) == 4 * len(CHUNK) and len(submits.calls) == 2


async def test_a_queue_that_stays_full_ends_the_stream(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAIT_S", 0.0)
    submits = Submits(Part(), *[QueueFullError("full", 0.001)] * 50)
    with pytest.raises(QueueFullError):
        await heard(SegmentedStream(submits, (prompt(1), prompt(2))))


async def test_a_part_at_its_limit_goes_on_and_is_said():
    stream = SegmentedStream(Submits(Part(FinishReason.LENGTH), Part()), (prompt(1), prompt(2)))
    assert len(await heard(stream)) == 4 * len(CHUNK)
    assert stream.finished is not None and stream.finished.reason is FinishReason.LENGTH


@pytest.mark.parametrize("reason", [None, FinishReason.ABORT])
async def test_a_part_that_ends_otherwise_ends_the_whole(reason):
    submits = Submits(Part(reason), Part())
    stream = SegmentedStream(submits, (prompt(1), prompt(2)))
    await heard(stream)
    assert stream.finished is not None
    assert stream.finished.reason is (reason or FinishReason.ERROR)


async def test_abort_reaches_what_is_open_and_submits_nothing_more():
    part = Part()
    submits = Submits(part, Part())
    stream = SegmentedStream(submits, (prompt(1), prompt(2)))
    await anext(stream)
    stream.abort()
    await heard(stream)
    assert part.aborted and len(submits.calls) == 1
