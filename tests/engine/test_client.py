"""A worker process behind EngineClient: what its streams say, carry, refuse and give back."""

import asyncio
import random
import time
from collections.abc import AsyncIterator

import msgspec
import numpy as np
import pytest
import pytest_asyncio

from engine import (
    EngineClient,
    FinishReason,
    GenerationFailedError,
    InvalidPromptError,
    QueueFullError,
    SamplingParams,
)
from engine.config import ModelSpec
from engine.core import EngineCore
from engine.protocol import MAX_VOICES
from tests.engine.conftest import CONFIG
from tests.engine.speaking import (
    MODELS,
    Speaker,
    collect,
    prompt,
    random_submit,
    recording,
    start,
    submit,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROWS, QUEUE = 4, 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(models: list[ModelSpec]) -> AsyncIterator[EngineClient]:
    config = msgspec.structs.replace(CONFIG, max_num_seqs=ROWS, max_queued=QUEUE)
    client = EngineClient(config, models)
    await client.start()
    yield client
    await client.close()


async def idle(engine: EngineClient) -> None:
    """Until the worker says that nothing runs or waits; it must have everything back by then."""
    deadline = time.monotonic() + 60
    while True:
        stats = engine.stats[0] if engine.stats else None
        told = stats is not None and stats.num_running == stats.num_waiting == 0
        if told and not engine._workers[0].streams:
            break
        assert time.monotonic() < deadline, stats
        await asyncio.sleep(0.01)
    assert stats is not None and stats.num_free_rows == stats.num_rows == ROWS
    assert stats.num_free_blocks == stats.num_blocks


async def test_it_tells_what_it_has_loaded(engine: EngineClient, models: list[ModelSpec]) -> None:
    assert engine.status == "ready"
    assert list(engine.models) == [spec.id for spec in models]
    info = engine.models["custom_voice-0b6"]
    assert (info.model_type, info.model_size, info.path) == (
        "custom_voice",
        "0b6",
        models[0].checkpoint,
    )
    assert info.speakers["ryan"] == 3061 and info.languages["english"] == 2050
    assert info.random_weights and not info.supports_instruct
    assert engine.models["voice_design-1b7"].supports_instruct


async def test_streams_carry_what_a_core_says(engine: EngineClient, core: EngineCore) -> None:
    submits = [random_submit(random.Random(900 + i), i, most_frames=12) for i in range(14)]
    with Speaker(core) as speaker:
        expected = speaker.run(submits)
    for batch in (submits[:7], submits[7:]):
        streams = [start(engine, one) for one in batch]
        for one, stream in zip(batch, streams, strict=True):
            pcm = np.frombuffer(await collect(stream), "<i2").astype(int)
            want = expected[one.id]
            assert len(pcm) == len(want.samples) == 1920 * len(want.codes)
            assert np.abs(pcm - want.samples).max() <= 2
            assert stream.finished is not None and want.finished is not None
            assert stream.finished.reason is want.finished.reason
            assert stream.finished.usage == want.finished.usage
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
    await idle(engine)


async def test_the_first_audio_tells_when_the_stages_began(engine: EngineClient) -> None:
    before = time.monotonic()
    stream = start(engine, submit(0, num_frames=4))
    await anext(stream)
    timing = stream.timing
    assert timing is not None
    stages = (timing.received, timing.started, timing.prefilled, timing.framed)
    moments = [before, *stages, time.monotonic()]
    assert moments == sorted(moments)
    await collect(stream)
    assert stream.timing is timing


async def test_a_slow_reader_gets_merged_chunks_and_holds_up_nobody(engine: EngineClient) -> None:
    slow = start(engine, submit(0, num_frames=40))
    first = await anext(slow)
    assert len(await collect(start(engine, submit(0, num_frames=20)))) == 20 * 3840
    await idle(engine)  # the slow reader's utterance is done too
    rest = [pcm async for pcm in slow]
    assert len(rest) <= 1 and len(first + b"".join(rest)) == 40 * 3840


async def test_live_text(engine: EngineClient, core: EngineCore) -> None:
    words = tuple(range(30, 42))
    whole = submit(1, num_frames=15, prompt=prompt(0, streaming_text=True))
    whole = msgspec.structs.replace(whole, prompt=msgspec.structs.replace(whole.prompt, text=words))
    with Speaker(core) as speaker:
        expected = speaker.run([whole])[1]
    begun = msgspec.structs.replace(whole.prompt, text=words[:2], text_open=True)
    stream = engine.submit(whole.model, begun, whole.params)
    heard = bytearray(await anext(stream))
    stream.append(words[2:7])
    while len(heard) < 7 * 3840:
        heard += await anext(stream)
    assert stream.finished is None
    stream.append(words[7:], final=True)
    heard += await collect(stream)
    assert np.abs(np.frombuffer(heard, "<i2").astype(int) - expected.samples).max() <= 2
    stream.append(words)
    await idle(engine)


async def test_a_bad_prompt_names_its_field(engine: EngineClient) -> None:
    for one, param in (
        (submit(0, "nobody"), "model"),
        (submit(0, prompt=prompt(0)), "input"),
        (submit(0, prompt=prompt(reference="unheard of")), "ref_audio"),
    ):
        stream = start(engine, one)
        with pytest.raises(InvalidPromptError) as caught:
            await collect(stream)
        assert caught.value.param == param and not stream.is_open
    await idle(engine)


async def test_what_cannot_be_sent_takes_no_place(engine: EngineClient) -> None:
    with pytest.raises(OverflowError):
        engine.submit(MODELS[0], prompt(), SamplingParams(seed=2**70))
    await idle(engine)


async def test_too_many(engine: EngineClient) -> None:
    streams = [start(engine, submit(0, num_frames=300)) for _ in range(ROWS + QUEUE)]
    with pytest.raises(QueueFullError) as caught:
        start(engine, submit(0))
    assert caught.value.retry_after_s > 0
    streams[0].abort()
    last = start(engine, submit(0, num_frames=2))
    for stream in streams[1:]:
        stream.abort()
    assert len(await collect(last)) == 2 * 3840
    await idle(engine)


async def test_leaving_frees_at_once(engine: EngineClient) -> None:
    """Speaking, waiting in the queue, not yet sent: none of them runs on."""
    streams = [start(engine, submit(0, num_frames=900)) for _ in range(ROWS + QUEUE)]
    await anext(streams[0])
    before = engine.stats[0].num_steps
    for stream in streams:
        stream.abort()
        stream.abort()
    await idle(engine)
    assert engine.stats[0].num_steps - before < 800, "far from their 900 frames"
    with pytest.raises(GenerationFailedError):
        await anext(streams[0])
    stream = start(engine, submit(0, num_frames=900))
    stream.abort()
    await idle(engine)
    assert len(await collect(start(engine, submit(0, num_frames=2)))) == 2 * 3840


async def test_stats_come_while_it_is_busy(engine: EngineClient) -> None:
    await idle(engine)
    before = engine.stats[0]
    stream = start(engine, submit(0, num_frames=900))
    deadline = time.monotonic() + 60
    while engine.stats[0].num_running != 1:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    busy = engine.stats[0]
    assert busy.num_free_rows == ROWS - 1 and busy.num_free_blocks < busy.num_blocks
    assert busy.num_steps > before.num_steps and busy.decode_s > before.decode_s
    stream.abort()
    await idle(engine)


async def test_both_sides_forget_the_same_voices(engine: EngineClient) -> None:
    """More recordings than a worker keeps, come and gone in any order: none is ever missing."""
    references = [recording(1000 + i, 1_300) for i in range(MAX_VOICES + 6)]
    rng, model = random.Random(3), "base-0b6"
    order = [*references, *rng.choices(references, k=80)]
    for reference in order:
        one = submit(0, model, 1, prompt=prompt(1, reference=reference.key))
        stream = engine.submit(model, one.prompt, one.params, reference)
        assert len(await collect(stream)) == 3840
    await idle(engine)


async def test_reason_reaches_the_reader(engine: EngineClient) -> None:
    stream = start(engine, submit(0, num_frames=3))
    await collect(stream)
    assert stream.finished is not None and stream.finished.reason is FinishReason.LENGTH


async def test_it_hears_recordings_and_keeps_none(engine: EngineClient) -> None:
    samples = recording(6, 9_600).samples
    one, again = await asyncio.gather(*(engine.embed("base-0b6", samples) for _ in range(2)))
    size = engine.models["base-0b6"].embedding_size
    assert one == again and len(np.frombuffer(one, "<f4")) == size
    with pytest.raises(InvalidPromptError):
        await engine.embed("base-0b6", samples[:-1])
    assert not engine._workers[0]._heard
