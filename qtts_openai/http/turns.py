"""An utterance from its submission to its end: it waits in the FairQueue, then runs in the engine.

In: a function that begins the utterance. Out: a stream of PCM (bytes of 16-bit mono at 24 kHz) that
may be read from the start; its first chunk comes when the turn has come and the engine has spoken.
"""

import asyncio
from collections.abc import Callable

from engine import Finished, GenerationFailedError, QueueFullError, SpeechStream
from qtts_openai.http.fair_queue import FairQueue


class Turn:
    """`begin_stream` is called when the turn has come. `ended` is set when the utterance is made,
    though its PCM may be unread, or when it failed; errors come in place of the next chunk.
    """

    def __init__(
        self, queue: FairQueue, who: str, begin_stream: Callable[[], SpeechStream], is_firm: bool
    ) -> None:
        self.who = who
        self.is_firm = is_firm
        self.ended = asyncio.Event()
        self._queue = queue
        self._begin_stream = begin_stream
        self._begun = asyncio.Event()
        self._stream: SpeechStream | None = None
        self._error: Exception | None = None
        self._watch: asyncio.Task[None] | None = None
        self._has_left = False

    def enter(self, ahead: bool = False) -> "Turn":
        """The engine's error at once where it could not begin without waiting."""
        self._queue.enter(self, ahead)
        if self._error is not None:
            raise self._error
        return self

    @property
    def finished(self) -> Finished | None:
        return self._stream.finished if self._stream is not None else None

    def __aiter__(self) -> "Turn":
        return self

    async def __anext__(self) -> bytes:
        await self._begun.wait()
        if self._stream is None:
            assert self._error is not None
            raise self._error
        return await anext(self._stream)

    def begin(self) -> bool:
        try:
            self._stream = self._begin_stream()
        except QueueFullError:
            raise
        except Exception as error:
            # For this turn's reader, not for the one whose end freed the place.
            self._fail(error)
            return False
        self._watch = asyncio.create_task(self._leave_at_end(self._stream))
        self._begun.set()
        return True

    def refuse(self, error: QueueFullError) -> None:
        self._fail(error)

    def abort(self) -> None:
        """Idempotent, and safe at any time."""
        if self._stream is not None:
            self._stream.abort()
        self._leave()

    async def _leave_at_end(self, stream: SpeechStream) -> None:
        await stream.ended.wait()
        self._leave()

    def _leave(self) -> None:
        if not self._has_left:
            self._has_left = True
            self.ended.set()
            if not self._begun.is_set():
                self._error = GenerationFailedError("the utterance was aborted")
                self._begun.set()
            self._queue.leave(self)

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._has_left = True
        self._begun.set()
        self.ended.set()
