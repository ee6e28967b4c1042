"""What the dialects have in common: one reader, one session, and one who tells what it says."""

import asyncio
import contextlib
from typing import Any, ClassVar, NamedTuple

from qtts_openai.errors import ApiError, invalid
from qtts_openai.http.callers import Caller
from qtts_openai.http.rate_limit import Lease
from qtts_openai.live import session as s
from qtts_openai.live.socket import NORMAL, POLICY, Closing, LiveSocket, together
from qtts_openai.live.voice import LiveVoice, OpenTexts
from qtts_openai.schemas import SpeechRequest, read_speech
from qtts_openai.state import AppState

# Idle timeouts that a client may take to go on with an utterance that it began.
MAX_SILENT = 10


class Visit(NamedTuple):
    """A connection as it was let in: `who` is the source that limits count, and `lease` its place,
    which the route gives back.
    """

    socket: LiveSocket
    service: AppState
    open_texts: OpenTexts
    caller: Caller
    who: str
    lease: Lease


class Dialect:
    """One connection, as one kind of client speaks."""

    name: ClassVar[str]

    def __init__(self, visit: Visit) -> None:
        self.socket, self.service, self.open_texts = visit[:3]
        self.caller, self.who, self.lease = visit[3:]
        self.settings = self.service.settings.live
        self.session: s.LiveSession | None = None
        self._num_chars = 0

    # What a dialect is made of.

    async def begin(self) -> None:
        """Make `session`. ApiError ends the connection, once it has been told."""
        raise NotImplementedError

    async def take(self, message: dict[str, Any]) -> None:
        raise NotImplementedError

    async def tell(self, event: s.Event) -> None:
        raise NotImplementedError

    def error(self, error: ApiError) -> dict[str, Any]:
        raise NotImplementedError

    async def beat(self) -> None:
        """Every second, for dialects whose clients must hear something."""

    # What all do alike.

    async def run(self) -> None:
        try:
            await self._begin()
            assert self.session is not None
            pump = asyncio.create_task(self._pump(self.session))
            reader = asyncio.create_task(self._read_on(self.session))
            tasks = {pump, reader, asyncio.create_task(self._beat_on())}
            async with together(*tasks):
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        except Closing as closing:
            if closing.code != NORMAL and closing.reason:
                # A client that is gone or does not read has the close code only.
                with contextlib.suppress(Exception):
                    await self.socket.send(self.error(invalid(closing.reason, None, "closing")))
            await self.socket.close(closing.code, closing.reason)
        finally:
            if self.session is not None:
                await self.session.close()
            self.lease.release()

    async def _begin(self) -> None:
        try:
            await self.begin()
        except ApiError as error:
            await self.socket.send(self.error(error))
            raise Closing(POLICY) from error

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(1)
            await self.beat()

    async def _pump(self, session: s.LiveSession) -> None:
        async for event in session.events():
            if isinstance(event, s.Cancelled) and event.index is not None:
                self.service.metrics.live_cancels.labels(self.name).inc()
                self.service.metrics.live_heard.labels(self.name).inc(event.played_s)
            await self.tell(event)

    async def _read_on(self, session: s.LiveSession) -> None:
        num_silent = 0
        while True:
            try:
                most = self.service.settings.server.max_message_bytes
                message = await self.socket.receive(self.settings.idle_timeout_s, most)
                num_silent = 0
                await self.take(message)
            except TimeoutError:
                num_silent += session.waits_for_text
                if session.is_idle or num_silent >= MAX_SILENT:
                    raise Closing(POLICY, "Idle timeout") from None
            except ApiError as error:
                await self.socket.send(self.error(error))

    async def charge(self, text: str) -> None:
        """A 429 where the caller has no characters left."""
        await self.lease.settle(self._num_chars + len(text))
        self._num_chars += len(text)

    def request(self, fields: dict[str, Any]) -> SpeechRequest:
        """Unknown fields are ignored, as clients of other servers send their own."""
        settings = self.service.settings
        body = {n: v for n, v in fields.items() if n not in ("input", "stream", "stream_format")}
        body["input"] = ""
        body["model"] = body.get("model") or settings.defaults.model or settings.models[0].id
        sounds = ("voice", "speaker", "ref_audio", "references", "speaker_embedding", "task_type")
        if not any(body.get(name) for name in sounds):
            body["voice"] = "default"
        return read_speech(body)[0]

    async def voice(self, request: SpeechRequest) -> LiveVoice:
        return await LiveVoice.of(self.service, request, self.caller, self.who)
