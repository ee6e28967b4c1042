"""What all dialects share: one task that reads messages, and for each live session one task that
sends its events.

A dialect translates its messages into a session's verbs, and a session's events into its messages.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ClassVar, NamedTuple

from qtts_openai.errors import ApiError, invalid
from qtts_openai.http.callers import Caller
from qtts_openai.http.rate_limit import Lease
from qtts_openai.live import events as s
from qtts_openai.live.session import LiveSession
from qtts_openai.live.socket import NORMAL, POLICY, RESTART, TOO_BIG, Closing, LiveSocket
from qtts_openai.live.voice import LiveVoice, OpenTexts
from qtts_openai.schemas import SpeechRequest, read_speech
from qtts_openai.state import AppState
from qtts_openai.voices.model_registry import ANY_MODEL

# Idle timeouts that a client may take to go on with an utterance that it began.
MAX_SILENT = 10

Tell = Callable[[s.Event], Awaitable[None]]


class Visit(NamedTuple):
    """A connection that was accepted. `who` is the key or address that limits are counted for;
    `lease` counts this connection among them, and the route releases it.
    """

    socket: LiveSocket
    service: AppState
    open_texts: OpenTexts
    caller: Caller
    who: str
    lease: Lease
    is_draining: Callable[[], bool]


class Dialect:
    """One connection, as one kind of client speaks."""

    name: ClassVar[str]

    def __init__(self, visit: Visit) -> None:
        self.socket, self.service, self.open_texts = visit[:3]
        self.caller, self.who, self.lease, self.is_draining = visit[3:]
        self.settings = self.service.settings.live
        self.idle_s = self.settings.idle_timeout_s
        self.max_message_bytes = self.service.settings.server.max_message_bytes
        self.session: LiveSession | None = None
        self._num_chars = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # What a dialect is made of.

    async def begin(self) -> None:
        """Exchange the first messages. An ApiError is sent and ends the connection."""
        raise NotImplementedError

    async def take(self, message: dict[str, Any]) -> None:
        """Do what a message of the client asks for."""
        raise NotImplementedError

    async def tell(self, event: s.Event) -> None:
        """Send an event of the session in the dialect's words."""
        raise NotImplementedError

    def error(self, error: ApiError) -> dict[str, Any]:
        """The dialect's message for an error."""
        raise NotImplementedError

    async def refuse(self, error: ApiError) -> None:
        """Answer a message that `take` refused; the session goes on unless this raises Closing."""
        await self.socket.send(self.error(error))

    async def beat(self) -> None:
        """Called every second, for dialects whose clients expect a sign of life."""

    @property
    def sessions(self) -> Iterable[LiveSession]:
        return (self.session,) if self.session is not None else ()

    # What all do alike.

    async def run(self) -> None:
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await self._begin()
            self._spawn(self._read_on())
            self._spawn(self._beat_on())
            await self._over
        except Closing as closing:
            await self._stop()  # a client that comes back at once finds its place free
            if closing.code != NORMAL and closing.reason:
                # A client that is gone or does not read has the close code only.
                with contextlib.suppress(Exception):
                    await self.socket.send(self.error(invalid(closing.reason, None, "closing")))
            await self.socket.close(closing.code, closing.reason)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        """Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in [*self.sessions]:
            await session.close()
        self.lease.release()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """The first that fails ends the connection."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._over.done():
            self._over.set_exception(error)

    async def _begin(self) -> None:
        try:
            await self.begin()
        except ApiError as error:
            await self.socket.send(self.error(error))
            raise Closing(POLICY) from error

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(1)
            if self.is_draining() and all(session.is_idle for session in self.sessions):
                raise Closing(RESTART, "the server is shutting down")
            await self.beat()

    async def _pump(self, session: LiveSession, tell: Tell) -> None:
        metrics = self.service.metrics
        async for event in session.events():
            if isinstance(event, s.Cancelled) and event.index is not None:
                metrics.live_cancels.labels(self.name).inc()
                metrics.live_heard.labels(self.name).inc(event.played_s)
            await tell(event)

    async def _read_on(self) -> None:
        num_silent = 0
        while True:
            try:
                message = await self.socket.receive(self.idle_s, self.max_message_bytes)
                num_silent = 0
                await self.take(message)
            except TimeoutError:
                num_silent += any(session.waits_for_text for session in self.sessions)
                if all(session.is_idle for session in self.sessions) or num_silent >= MAX_SILENT:
                    raise Closing(POLICY, "Idle timeout") from None
            except ApiError as error:
                await self.refuse(error)

    @property
    def is_speaking(self) -> bool:
        return any(session.is_speaking for session in self.sessions)

    def open(
        self,
        voice: LiveVoice,
        by_sentence: bool = False,
        tell: Tell | None = None,
        as_file: bool = False,
    ) -> LiveSession:
        """A session whose events go to `tell`."""
        session = LiveSession(voice, self.open_texts, by_sentence, self.name, as_file)
        self._spawn(self._pump(session, tell or self.tell))
        return session

    async def text_of(self, message: dict[str, Any]) -> str:
        """Its text, counted against the caller's limits."""
        text = message.get("text")
        if not isinstance(text, str):
            raise invalid("`text` must be a string.", "text")
        if len(text) > self.settings.max_text_message_bytes:
            raise Closing(TOO_BIG, "the text of a message is too long")
        await self.charge(text)
        return text

    async def charge(self, text: str) -> None:
        """A 429 where the caller has no characters left."""
        await self.lease.settle(self._num_chars + len(text))
        self._num_chars += len(text)

    def request(self, fields: dict[str, Any]) -> SpeechRequest:
        """Unknown fields are ignored, as clients of other servers send their own."""
        settings = self.service.settings
        ours = ("stream", "stream_format", "timestamps")
        body = {name: value for name, value in fields.items() if name not in ours} | {"input": ""}
        body["model"] = body.get("model") or settings.defaults.model or ANY_MODEL
        sounds = ("voice", "speaker", "ref_audio", "references", "speaker_embedding", "task_type")
        if not any(body.get(name) for name in sounds):
            body["voice"] = "default"
        return read_speech(body)[0]

    def voice_name(self, name: str | None) -> str | None:
        """By the table of the configuration; a name of ours is itself."""
        known = self.settings.voices.get(name, name) if name is not None else None
        if known and self.settings.unknown_voice == "default":
            try:
                self.service.resolver.preset(known)
            except ApiError:
                return None
        return known

    def model_name(self, name: Any) -> str | None:
        """A name of ours; what a vendor calls its own models is any of ours."""
        try:
            return name if name and self.service.catalog.find(str(name)) else None
        except ApiError:
            return None

    async def voice(self, request: SpeechRequest) -> LiveVoice:
        return await LiveVoice.of(self.service, request, self.caller, self.who)


def unknown_message(kind: object, code: str = "invalid_value") -> ApiError:
    return invalid(f"{str(kind)[:60]!r} is no message of this protocol.", "type", code)
