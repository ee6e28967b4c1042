"""The client's end of one utterance: PCM as it arrives, and what it can ask of its worker (more
text, pause, abort).
"""

import asyncio
import time
from typing import Protocol

from engine.config import EngineConfig
from engine.errors import EngineError, GenerationFailedError
from engine.protocol import (
    FRAMES_PER_TOKEN,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_FRAME,
    Abort,
    Append,
    Finished,
    Hold,
    Inbound,
    Prompt,
    Timing,
)


class Worker(Protocol):
    """What a stream needs of the worker that speaks it."""

    @property
    def config(self) -> EngineConfig: ...

    @property
    def streams(self) -> "dict[int, SpeechStream]": ...

    def send(self, message: Inbound) -> None: ...


class SpeechStream:
    """PCM of one utterance: `async for pcm in stream`, then `stream.finished` says why it ended.

    Chunks are int16 little-endian mono at 24 kHz and merge when the reader lags. Raises
    GenerationFailedError, InvalidPromptError or EngineDeadError in place of the next chunk.
    `abort()` is idempotent and safe at any time.
    """

    def __init__(self, id_: int, worker: "Worker", prompt: Prompt) -> None:
        self.id = id_
        self.text_open = prompt.text_open  # it may wait for its text as long as that takes
        self._text = list(prompt.text) if prompt.text_open else []
        self.heard_at = time.monotonic()  # its last audio; before that, its submission or last text
        self.finished: Finished | None = None
        self.timing: Timing | None = None  # with the first audio
        # An estimate of what it still has to be spoken.
        self.frames_left = prompt.expected_frames or FRAMES_PER_TOKEN * len(prompt.text)
        self.ended = asyncio.Event()  # finished or failed; PCM may still be unread
        self._worker = worker
        self._pcm = bytearray()
        self._max_unread = round(worker.config.max_unread_s * SAMPLE_RATE_HZ) * 2
        self._held = False
        self._error: EngineError | None = None
        self._news = asyncio.Event()

    def __aiter__(self) -> "SpeechStream":
        return self

    async def __anext__(self) -> bytes:
        while not self._pcm:
            if self._error is not None:
                raise self._error
            if self.finished is not None:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        pcm = bytes(self._pcm)
        self._pcm.clear()
        self._hold(False)
        return pcm

    def append(self, text: tuple[int, ...], final: bool = False) -> None:
        """More text for a prompt that was submitted with text_open; `final` ends it. Ids that the
        engine could not speak any more are in `unread_text` at the end.
        """
        self._text += text
        if self.is_open:
            self._worker.send(Append(self.id, text, final))
            self.text_open, self.heard_at = self.text_open and not final, time.monotonic()

    @property
    def unread_text(self) -> tuple[int, ...]:
        """Once finished: ids at the end of the text that were not spoken, because they came after
        the end or did not fit the frame budget.
        """
        return tuple(self._text[self.finished.num_text :]) if self.finished is not None else ()

    def abort(self, reason: str = "the utterance was aborted") -> None:
        """Stop generating and free everything; what was not read yet is dropped."""
        if self.is_open:
            self._worker.send(Abort(self.id))
            self._worker.streams.pop(self.id, None)
            self.fail(GenerationFailedError(reason))

    @property
    def is_open(self) -> bool:
        return self.finished is None and self._error is None

    def feed(self, pcm: bytes) -> None:
        self._pcm += pcm
        # Until it has ended at least one more frame is expected.
        self.frames_left = max(1.0, self.frames_left - len(pcm) / (2 * SAMPLES_PER_FRAME))
        self.heard_at = time.monotonic()
        self._hold(len(self._pcm) >= self._max_unread)
        self._news.set()

    def _hold(self, held: bool) -> None:
        if held is not self._held and self.is_open:
            self._held = held
            self._worker.send(Hold(self.id, held))

    def finish(self, finished: Finished) -> None:
        self.finished = finished
        self.ended.set()
        self._news.set()

    def fail(self, error: EngineError) -> None:
        self._error = error
        self._pcm.clear()
        self.ended.set()
        self._news.set()
