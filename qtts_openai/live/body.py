"""Text in the body of an HTTP request, spoken while the body comes: for clients without WebSocket.

In: lines of JSON, the first with the fields of a speech request, the others {"text": ...}; a line
may also be an event, `data: {...}`. Out: the audio or the events that the fields ask for. The
answer begins with the first sound, whether the body has ended or not.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import msgspec
from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send

from qtts_openai.errors import ApiError, invalid
from qtts_openai.http.asgi import Request
from qtts_openai.http.callers import caller_of, source_of
from qtts_openai.http.rate_limit import Lease
from qtts_openai.http.request_id import current as current_request_id
from qtts_openai.live import events as s
from qtts_openai.live.session import LiveSession
from qtts_openai.live.voice import LiveVoice, OpenTexts
from qtts_openai.provenance.marks import Mark
from qtts_openai.schemas import SpeechRequest, read_speech
from qtts_openai.speech.encoders import CONTENT_TYPES
from qtts_openai.speech.response import server_sent
from qtts_openai.speech.words import words_event
from qtts_openai.state import AppState

CONTENT_TYPE = "application/x-ndjson"
MAX_LINE_BYTES = 128 << 10


class BodySpeech:
    """`receive` gives the messages of the request, of which nothing was read yet."""

    name = "ndjson"

    def __init__(self, service: AppState, receive: Receive, lease: Lease) -> None:
        self.service, self.lease = service, lease
        self.request: SpeechRequest
        self.mark: Mark | None = None
        self.session: LiveSession | None = None
        self._lines = _lines(receive)
        self._receive = receive
        self._num_chars = 0
        self._reading: asyncio.Task[None] | None = None
        self._first: s.Event | None = None
        self._failed: Exception | None = None
        self._events: AsyncIterator[s.Event]

    @property
    def is_speaking(self) -> bool:
        return self.session is not None and self.session.is_speaking

    async def begin(self, http: Request, open_texts: OpenTexts) -> None:
        """Until there is sound. ApiError or the engine's error where there will be none."""
        first = await anext(self._lines, None)
        if first is None:
            raise invalid("The first line must be an object with the fields of the request.")
        text = first.pop("input", first.pop("text", "")) or ""
        self.request = read_speech({**first, "input": ""})[0]
        caller, who, id_ = caller_of(http), source_of(http), current_request_id.get()
        voice = await LiveVoice.of(self.service, self.request, caller, who, id_)
        self.session = LiveSession(voice, open_texts, dialect=self.name)
        self.mark = self.service.mark(voice.plan.model.id)
        await self._append(text)
        self._reading = asyncio.create_task(self._read(self.session))
        self._events = self.session.events()
        self._first = await anext(self._events, None)
        if self._failed is not None:
            raise self._failed
        if isinstance(self._first, s.Failed):
            raise self._first.error
        if isinstance(self._first, s.Finished):
            raise invalid("input: there is no text to speak.", "input", "empty_string")

    async def _read(self, session: LiveSession) -> None:
        try:
            async for line in self._lines:
                await self._append(line.get("text", ""))
            session.flush()
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception as error:
            self._failed = error
        await session.close()

    async def _append(self, text: Any) -> None:
        assert self.session is not None
        if not isinstance(text, str):
            raise invalid("`text` must be a string.", "text", "invalid_type")
        await self.lease.settle(self._num_chars + len(text))
        self._num_chars += len(text)
        if text:
            self.session.append(text)

    async def _spoken(self) -> AsyncGenerator[s.Event]:
        """Raises where the speech, or the text, did not come to its end."""
        if self._first is not None:
            yield self._first
        async for event in self._events:
            yield event
            if isinstance(event, s.Finished):
                return
            if isinstance(event, s.Failed):
                raise event.error
        raise self._failed or ApiError(499, "The client closed the connection.")

    async def raw(self) -> AsyncIterator[bytes]:
        async for event in self._spoken():
            if isinstance(event, s.Audio) and event.data:
                yield event.data

    async def server_sent(self) -> AsyncIterator[bytes]:
        """As speech/response.py writes them."""
        try:
            mark, is_first = self.mark.event() if self.mark else {}, True
            async for event in self._spoken():
                for fields in self._told(event):
                    is_marked = is_first or fields["type"] == "speech.audio.done"
                    yield server_sent(**fields, **(mark if is_marked else {}))
                    is_first = False
        except ApiError as error:
            yield server_sent(type="error", error=error.detail)

    def _told(self, event: s.Event) -> list[dict[str, Any]]:
        match event:
            case s.Audio(data=data, words=words):
                audio = base64.b64encode(data).decode()
                delta = {"type": "speech.audio.delta", "audio": audio}
                is_timed = self.request.timestamps == "word" and words
                return [delta] * bool(data) + [words_event(words)] * bool(is_timed)
            case s.Finished(reason=reason):
                usage = event.usage()
                done = {"type": "speech.audio.done", "finish_reason": reason, "usage": usage}
                return [done]
        return []

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self.session is not None:
            await self.session.close()
        self.lease.release()


class BodyResponse(Response[None]):
    """Litestar's streaming response would read the rest of the body itself."""

    def __init__(self, speech: BodySpeech, release: Callable[[], None]) -> None:
        super().__init__(None)
        self._speech, self._release = speech, release

    def to_asgi_response(self, *args: Any, **options: Any) -> ASGIApp:  # type: ignore[override]
        speech = self._speech

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            is_sse = speech.request.stream_format == "sse"
            kind = "text/event-stream" if is_sse else CONTENT_TYPES[speech.request.response_format]
            headers = {"content-type": kind, "cache-control": "no-cache", "x-accel-buffering": "no"}
            headers |= speech.mark.headers() if speech.mark else {}
            pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
            try:
                await send({"type": "http.response.start", "status": 200, "headers": pairs})
                async for chunk in speech.server_sent() if is_sse else speech.raw():
                    await _send(send, chunk, more=True)
                await _send(send, b"", more=False)
            finally:
                await speech.close()
                self._release()

        return answer


async def _send(send: Send, body: bytes, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _lines(receive: Receive) -> AsyncGenerator[dict[str, Any]]:
    held = b""
    more = True
    while more:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(499, "The client closed the connection.", code="client_closed")
        more = message.get("more_body", False)
        *lines, held = (held + message.get("body", b"")).split(b"\n")
        if not more:
            lines, held = [*lines, held], b""
        if len(held) > MAX_LINE_BYTES:
            raise invalid(f"A line of the body may have {MAX_LINE_BYTES} bytes.")
        for line in lines:
            if line := line.strip().removeprefix(b"data:").strip():
                yield _object(line)


def _object(line: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"A line of the body is not valid JSON: {error}.", None, None) from error
    if not isinstance(fields, dict):
        raise invalid("Each line of the body must be a JSON object.", None, None)
    return fields
