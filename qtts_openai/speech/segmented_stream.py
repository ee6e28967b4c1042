"""Several prompts and pauses as one stream of PCM, in order and without clicks.

In: prompts and seconds of silence. Out: bytes of 16-bit mono PCM at 24 kHz.

A prompt is submitted as soon as the one before it is made, which is earlier than it has been heard:
its audio is there in time, and one answer never has two places in a batch. The engine gets to know
how many seconds the listener still has, so that it can serve others first. Each part fades in and
out over 5 ms. Silence is made while it is sent, so a long pause costs neither memory nor a wait.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import Protocol

import numpy as np

from engine import SAMPLE_RATE_HZ, Finished, FinishReason, Prompt, QueueFullError, Usage

BYTES_PER_S = SAMPLE_RATE_HZ * 2
FADE_BYTES = SAMPLE_RATE_HZ // 200 * 2
# How long a part in the middle may wait for a place in a full queue.
MAX_WAIT_S = 30.0
# Of silence, at once.
SILENCE_BYTES = SAMPLE_RATE_HZ // 2 * 2

logger = logging.getLogger(__name__)


class PcmStream(Protocol):
    """What Turn and SegmentedStream have in common."""

    @property
    def finished(self) -> Finished | None: ...

    def __aiter__(self) -> "PcmStream": ...

    async def __anext__(self) -> bytes: ...

    def abort(self) -> None: ...


class PartStream(PcmStream, Protocol):
    """One part's; `ended` is set when all of it is made, though it may be unread."""

    ended: asyncio.Event


class SegmentedStream:
    """`submit` takes a prompt and the listener's lead in seconds. It raises the engine's errors at
    once for the first prompt, as for a single one.
    """

    def __init__(
        self, submit: Callable[[Prompt, float], PartStream], parts: tuple[Prompt | float, ...]
    ) -> None:
        self.finished: Finished | None = None
        self._submit = submit
        self._waiting, self._last_silence_s = _with_silences(parts)
        self._open: deque[tuple[float, PartStream]] = deque()
        self._reason = FinishReason.STOP
        self._usage = Usage(0, 0)
        # When a listener who plays everything as it comes has heard what was sent (monotonic, s).
        self._plays_until = 0.0
        self._submit_next()
        self._pcm = self._speak()

    def __aiter__(self) -> "SegmentedStream":
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pcm)

    def abort(self) -> None:
        self._waiting.clear()
        for _, stream in self._open:
            stream.abort()

    async def _speak(self) -> AsyncGenerator[bytes]:
        while self._open:
            silence_s, stream = self._open[0]
            next_one = asyncio.create_task(self._submit_after(stream))
            try:
                async for pcm in _faded(stream):
                    for quiet in _silence(silence_s):
                        yield self._heard(quiet)
                    silence_s = 0.0
                    yield self._heard(pcm)
                await next_one
            finally:
                next_one.cancel()
            self._open.popleft()
            if not self._count(stream):
                break
            if not self._open:
                await self._submit_patiently()
        for quiet in _silence(self._last_silence_s):
            yield self._heard(quiet)
        self.finished = Finished(0, self._reason, self._usage)

    def _heard(self, pcm: bytes) -> bytes:
        heard_at = max(self._plays_until, time.monotonic())
        self._plays_until = heard_at + len(pcm) / BYTES_PER_S
        return pcm

    def _submit_next(self) -> None:
        if self._waiting:
            silence_s, prompt = self._waiting[0]
            buffered_s = max(0.0, self._plays_until - time.monotonic())
            self._open.append((silence_s, self._submit(prompt, buffered_s)))
            self._waiting.popleft()

    async def _submit_after(self, stream: PartStream) -> None:
        await stream.ended.wait()
        if stream.finished is not None:
            with suppress(QueueFullError):
                self._submit_next()

    async def _submit_patiently(self) -> None:
        """In the middle of an answer a full queue is no reason to break off at once."""
        deadline = time.monotonic() + MAX_WAIT_S
        while True:
            try:
                return self._submit_next()
            except QueueFullError as error:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(error.retry_after_s)

    def _count(self, stream: PartStream) -> bool:
        """Add up usage; False where the part ended in a way that ends the whole."""
        if stream.finished is None:
            self._reason = FinishReason.ERROR
            return False
        usage, reason = stream.finished.usage, stream.finished.reason
        self._usage = Usage(
            self._usage.num_prompt_tokens + usage.num_prompt_tokens,
            self._usage.num_frames + usage.num_frames,
        )
        if reason is not FinishReason.STOP:
            self._reason = reason
        if reason is FinishReason.LENGTH:
            # Its text was cut to fit, so this is a voice that did not find its end: go on, and say.
            logger.warning("a part of %d frames ended at its limit", usage.num_frames)
        return reason in (FinishReason.STOP, FinishReason.LENGTH)


def _with_silences(parts: tuple[Prompt | float, ...]) -> tuple[deque[tuple[float, Prompt]], float]:
    """Each prompt with the seconds of silence before it, and those after the last one."""
    prompts: deque[tuple[float, Prompt]] = deque()
    silence_s = 0.0
    for part in parts:
        if isinstance(part, Prompt):
            prompts.append((silence_s, part))
            silence_s = 0.0
        else:
            silence_s += part
    return prompts, silence_s


def _silence(seconds: float) -> Iterator[bytes]:
    left = 2 * round(seconds * SAMPLE_RATE_HZ)
    while left > 0:
        yield bytes(min(left, SILENCE_BYTES))
        left -= SILENCE_BYTES


async def _faded(stream: PartStream) -> AsyncGenerator[bytes]:
    """The stream with its first and last 5 ms faded; the end of what has come is held back."""
    ramp = np.linspace(0, 1, FADE_BYTES // 2, endpoint=False)
    held, is_first = b"", True
    async for pcm in stream:
        held += pcm
        if is_first and len(held) > 2 * FADE_BYTES:
            held, is_first = _scaled(held[:FADE_BYTES], ramp) + held[FADE_BYTES:], False
        if not is_first:
            yield held[:-FADE_BYTES]
            held = held[-FADE_BYTES:]
    yield _scaled(held, ramp[::-1][: len(held) // 2])


def _scaled(pcm: bytes, factors: np.ndarray) -> bytes:
    scaled: bytes = (np.frombuffer(pcm, "<i2") * factors).astype("<i2").tobytes()
    return scaled
