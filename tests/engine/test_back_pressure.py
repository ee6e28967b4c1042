"""Listeners who do not take their audio: their utterance pauses, the others do not notice."""

from types import SimpleNamespace

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.protocol import AudioChunk, Finished, FinishReason, Hold, Outbound, Usage
from engine.speech_stream import SpeechStream
from tests.engine.speaking import assert_idle, prompt, submit

SECOND = bytes(48_000)


def run(core: EngineCore) -> list[Outbound]:
    told = []
    while core.has_work:
        told += core.step()
    return told


def audio(told: list[Outbound], id_: int) -> bytes:
    return b"".join(fact.pcm for fact in told if isinstance(fact, AudioChunk) and fact.id == id_)


def test_a_held_utterance_pauses_and_the_others_end(core: EngineCore) -> None:
    core.add(submit(1, num_frames=30))
    alone = audio(run(core), 1)
    core.add(submit(2, num_frames=30))
    core.add(submit(3, num_frames=30))
    told: list[Outbound] = []
    while not audio(told, 2):
        told += core.step()
    core.hold(2, True)
    told += run(core)  # ends: a held sequence is no work
    assert [fact.id for fact in told if isinstance(fact, Finished)] == [3]
    assert 0 < len(audio(told, 2)) < len(alone)
    core.hold(2, False)
    told += run(core)
    assert [fact.id for fact in told if isinstance(fact, Finished)] == [3, 2]
    assert len(audio(told, 2)) == len(alone) == 30 * 1920 * 2
    assert_idle(core)


def test_a_held_utterance_can_be_left(core: EngineCore) -> None:
    core.add(submit(1, num_frames=30))
    while not core.sequences[1].num_emitted_frames:
        core.step()
    core.hold(1, True)
    core.abort(1)
    core.hold(1, False)  # too late
    run(core)
    assert_idle(core)


async def test_a_stream_holds_at_its_bound_and_goes_on_when_read() -> None:
    sent: list[Hold] = []
    worker = SimpleNamespace(config=EngineConfig(max_unread_s=3.0), send=sent.append)
    stream = SpeechStream(7, worker, prompt())  # type: ignore[arg-type]
    for _ in range(2):
        stream.feed(SECOND)
    assert sent == []
    for _ in range(2):
        stream.feed(SECOND)
    assert sent == [Hold(7, True)]
    assert len(await anext(stream)) == 4 * len(SECOND)
    assert sent == [Hold(7, True), Hold(7, False)]
    stream.feed(SECOND * 3)
    stream.finish(Finished(7, FinishReason.STOP, Usage(1, 1)))
    assert len(await anext(stream)) == 3 * len(SECOND)
    assert sent == [Hold(7, True), Hold(7, False), Hold(7, True)]


def test_what_came_too_late_can_be_spoken_again() -> None:
    worker = SimpleNamespace(config=EngineConfig(), send=lambda message: None)
    live = prompt(3, streaming_text=True, text_open=True)
    stream = SpeechStream(7, worker, live)  # type: ignore[arg-type]
    stream.append((20, 21))
    stream.append((22,), final=True)
    assert stream.unread_text == ()
    stream.finish(Finished(7, FinishReason.STOP, Usage(1, 1), num_text=4))
    stream.append((23,))
    assert stream.unread_text == (21, 22, 23)
