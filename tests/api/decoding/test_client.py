"""The decoder as a process: what a file can do to it, and that nobody else notices."""

import asyncio
import os
import signal
import time
from collections import Counter
from contextlib import asynccontextmanager

import numpy as np
import pytest
import soxr

from qtts_openai.decoding.client import AudioDecoder, DecodeError, DecoderUnavailableError
from qtts_openai.decoding.turns import BusyError, Turns, current_caller
from tests.api.decoding.conftest import children, files_open
from tests.api.decoding.test_decoder import speech, wav
from tests.fuzz import seeds

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]


class SlowFile(AudioDecoder):
    """Its files never end: a child waits for one more byte for as long as it may."""

    def _job(self, parts: list[int], function: str | None) -> bytes:
        return super()._job([parts[0] + 1], function)


@asynccontextmanager
async def slow(decoder: AudioDecoder, timeout_s: float = 20.0):
    """Another client of the same zygote whose files hang, and what it counted."""
    counts: Counter[str] = Counter()
    other = SlowFile(
        min_s=0.5, max_s=10, timeout_s=timeout_s, count=lambda outcome: counts.update([outcome])
    )
    await decoder.begin()
    other._begun = decoder._begun
    await all_gone(decoder)
    yield other, counts


async def child_of(decoder: AudioDecoder) -> int:
    zygote = await decoder.begin()
    for _ in range(200):
        if found := children(zygote.process.pid):
            return found[0]
        await asyncio.sleep(0.01)
    raise AssertionError("no child")


async def all_gone(decoder: AudioDecoder) -> None:
    zygote = await decoder.begin()
    for _ in range(200):
        if not children(zygote.process.pid):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a child lives on")


@pytest.mark.parametrize("name", sorted(seeds.GOOD))
async def test_every_format_is_read_behind_the_filter(decoder, name):
    audio = await decoder.decode(seeds.good(name))
    assert len(audio.samples) / 96000 == pytest.approx(seeds.SECONDS, abs=0.15)
    assert (await decoder.begin()).has_filter


async def test_samples_arrive_as_they_were_made(decoder):
    wave = speech(5, 44100)
    audio = await decoder.decode(wav(wave, 44100))
    assert audio.samples == soxr.resample(wave, 44100, 24000, "HQ").astype("<f4").tobytes()
    assert audio == await decoder.decode(wav(wave, 44100))


@pytest.mark.parametrize("name", sorted(seeds.BAD))
async def test_other_formats_are_refused(decoder, name):
    with pytest.raises(DecodeError, match="none of the formats"):
        await decoder.decode(seeds.BAD[name])


async def test_many_channels_at_a_high_rate_cost_no_memory(decoder):
    """92 KB that were 375 MB once: the child's limit lets it have about 200."""
    quiet = np.zeros((192_000 * 4, 8), "f4")
    quiet[::7] = 0.1
    data = wav(quiet, 192_000, "PCM_16", "FLAC")
    assert len((await decoder.decode(data)).samples) == 4 * 96000


@pytest.mark.parametrize("number", [signal.SIGFPE, signal.SIGSEGV, signal.SIGKILL])
async def test_a_crash_is_the_files_fault_and_nobody_elses(decoder, number):
    async with slow(decoder) as (hanging, counts):
        task = asyncio.create_task(hanging.decode(seeds.good("wav")))
        os.kill(await child_of(decoder), number)
        with pytest.raises(DecodeError, match="cannot be decoded"):
            await task
    assert counts == {"crashed": 1}
    assert (await decoder.decode(seeds.good("wav"))).samples


async def test_too_little_memory_is_the_files_fault(decoder, monkeypatch):
    monkeypatch.setattr("qtts_openai.decoding.client.EXTRA_MEMORY_BYTES", -(30 << 20))
    with pytest.raises(DecodeError, match="cannot be decoded"):
        await decoder.decode(wav(speech(9, 48000), 48000))


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_file_that_takes_too_long_loses_its_child(decoder, stopped):
    zygote = await decoder.begin()
    async with slow(decoder, timeout_s=1.0) as (hanging, counts):
        task = asyncio.create_task(hanging.decode(seeds.good("wav")))
        if stopped:
            os.kill(await child_of(decoder), signal.SIGSTOP)
        with pytest.raises(DecodeError, match="within 1 s"):
            await task
    assert counts == {"timed_out": 1}
    await all_gone(decoder)
    assert await decoder.begin() is zygote


async def test_whoever_leaves_frees_the_place(decoder):
    async with slow(decoder) as (hanging, counts):
        task = asyncio.create_task(hanging.decode(seeds.good("wav")))
        await child_of(decoder)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert counts == {"cancelled": 1}
    await all_gone(decoder)


async def test_a_zygote_that_hangs_or_dies_is_replaced():
    decoder = AudioDecoder(min_s=0.5, max_s=10, timeout_s=1)
    try:
        zygote = await decoder.begin()
        os.kill(zygote.process.pid, signal.SIGSTOP)
        with pytest.raises(DecodeError, match="within 1 s"):
            await decoder.decode(seeds.good("wav"))
        decoder.timeout_s = 10
        assert (await decoder.decode(seeds.good("wav"))).samples
        second = await decoder.begin()
        assert second is not zygote
        second.process.kill()
        second.process.wait()
        assert (await decoder.decode(seeds.good("wav"))).samples
    finally:
        decoder.close()


async def test_a_zygote_killed_during_a_file_is_not_the_files_fault():
    decoder = SlowFile(min_s=0.5, max_s=10, timeout_s=10)
    try:
        task = asyncio.create_task(decoder.decode(seeds.good("wav")))
        child = await child_of(decoder)
        zygote = await decoder.begin()
        zygote.process.kill()
        with pytest.raises(DecoderUnavailableError):
            await task
        for _ in range(200):
            if not os.path.exists(f"/proc/{child}"):
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("the child outlived its zygote")
    finally:
        decoder.close()


async def test_nothing_is_left_over(decoder):
    zygote = await decoder.begin()
    await all_gone(decoder)
    before = files_open(zygote.process.pid), files_open(os.getpid())
    for data in [seeds.good("wav"), b"x", seeds.good("webm")] * 5:
        await asyncio.gather(decoder.decode(data), return_exceptions=True)
    await all_gone(decoder)
    assert (files_open(zygote.process.pid), files_open(os.getpid())) == before


async def test_the_servers_secrets_do_not_reach_it(decoder, monkeypatch):
    monkeypatch.setenv("QTTS_API_KEYS", "secret-key")
    other = AudioDecoder(min_s=0.5, max_s=10, timeout_s=10)
    try:
        pid = (await other.begin()).process.pid
        with open(f"/proc/{pid}/environ", "rb") as file:
            assert b"secret-key" not in file.read()
    finally:
        other.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\n",
        b"{}\n",
        b"x" * 100_000,
        b'{"num_bytes": 3}\n123',
        b'{"num_bytes": 99999999999}\n',
        b'{"num_bytes": -4}\n',
        b'{"num_bytes": 8}\n1234',
        b'{"num_bytes": 4}\n\0\0\xc0\x7f',
        b'{"refused": 7}\n',
        b'{"refused": "' + b"x" * 5000 + b'"}\n',
    ],
)
async def test_a_child_that_a_file_took_over_is_not_believed(reply):
    decoder = AudioDecoder(min_s=0.5, max_s=10, timeout_s=10)
    reader = asyncio.StreamReader()
    reader.feed_data(reply)
    reader.feed_eof()
    with pytest.raises((ValueError, EOFError, asyncio.LimitOverrunError)):
        await decoder._answer(reader)


async def test_one_of_a_caller_and_two_in_all():
    queue = Turns(max_at_once=2, max_wait_s=5)
    running: Counter[str] = Counter()
    order: list[str] = []

    async def one(caller: str) -> None:
        current_caller.set(caller)
        async with queue.take():
            running[caller] += 1
            order.append(caller)
            assert running[caller] == 1 and running.total() <= 2
            await asyncio.sleep(0.01)
            running[caller] -= 1

    tasks = [asyncio.create_task(one(caller)) for caller in "aaaaabc"]
    await asyncio.gather(*tasks)
    # b did not wait for all that a had sent before.
    assert order.index("b") == 1 and order.index("c") <= 3
    assert not queue.num_waiting


async def wait_in(queue: Turns, caller: str) -> None:
    current_caller.set(caller)
    async with queue.take():
        pass


async def test_waiting_has_bounds():
    queue = Turns(max_at_once=1, max_waiting=6, max_wait_s=0.3)
    async with queue.take():
        started = time.monotonic()
        tasks = [asyncio.create_task(wait_in(queue, caller)) for caller in "aaabbbcccd"]
        await asyncio.sleep(0.05)
        # Two of each of three callers wait; the others were sent away at once.
        assert dict(queue.num_waiting) == {"a": 2, "b": 2, "c": 2}
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [BusyError] * 10
    assert time.monotonic() - started > 0.25
    await wait_in(queue, "a")
    assert not queue.num_waiting
