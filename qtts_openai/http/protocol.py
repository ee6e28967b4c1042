"""uvicorn's h11 protocol with bounds on heads, bodies, readers and idle connections.

h11 and not httptools: it reads the body behind an `Upgrade` that is not accepted, does not send
chunks to HTTP/1.0, and bounds heads. It costs 0.4 ms more a request and 6 us more a chunk.

A connection is always in one phase, and `Server` asks each one twice a second whether it is
overdue:

    IDLE    between requests                       closed after keep_alive_s
    HEAD    from the first byte, or from connecting, to the end of the head        408
    BODY    from there to the end of the body, a second more for each 64 KiB       408
    ANSWER  the request is read; only a reader that stops is an end of it          reset

Whatever the phase, what was written has to be read: without progress for write_s the connection is
reset, which ends the stream in the engine too.
"""

import asyncio
import logging
import re
import socket
import struct
import sys
from enum import Enum
from typing import Any, cast

import h11
import msgspec
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from engine import EngineError
from qtts_openai.errors import ApiError
from qtts_openai.http.asgi import ASGIApp, Receive, Scope, Send
from qtts_openai.http.bounds import ConnectionBounds

logger = logging.getLogger(__name__)

END_OF_HEAD = re.compile(rb"\n\r?\n")
MAX_HEADER_FIELDS = 128
LINGER_S = 2.0
# So many parts of a body may be smaller than this on average.
MAX_CRUMBS, CRUMB_BYTES = 1000, 16
BODY_BYTES_PER_S = 64 << 10
# What a reader must take off a full buffer within write_s.
READ_PROGRESS = 16 << 10


class Phase(Enum):
    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"


class Connection(h11.Connection):
    """h11 takes as long for a chunk of one byte as for a large one: bodies in crumbs are refused
    before they hold the loop.
    """

    _num_parts = _num_bytes = 0

    def next_event(self) -> Any:
        buffer = self._receive_buffer
        if self.their_state is h11.IDLE and buffer.is_next_line_obviously_invalid_request_line():
            # Line ends that some clients send after a body are no request (RFC 9112, 2.2).
            waiting = bytes(buffer)
            buffer.maybe_extract_at_most(len(waiting) - len(waiting.lstrip(b"\r\n")))
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._num_parts = self._num_bytes = 0
        elif isinstance(event, h11.Data):
            self._num_parts += 1
            self._num_bytes += len(event.data)
            if self._num_parts > MAX_CRUMBS and self._num_bytes < CRUMB_BYTES * self._num_parts:
                raise h11.RemoteProtocolError("its chunks are too small")
        return event


class GuardedProtocol(H11Protocol):
    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        bounds: ConnectionBounds,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.bounds = bounds
        self.conn = Connection(h11.SERVER, bounds.max_head_bytes)
        self.phase = Phase.HEAD
        self.since = self._heard_at = self.loop.time()
        self._inner = cast(ASGIApp, self.app)
        self.app = cast(Any, self._answer)
        self._num_received = 0  # bytes since the phase began
        self._unread, self._unread_since = 0, self.since
        self._followed: object = None  # the cycle of the phase
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.bounds.max_connections and not self._make_room():
            message = f"The server has {self.bounds.max_connections} connections open."
            self._refuse(ApiError(503, message, code="too_many_connections"))

    def _make_room(self) -> bool:
        """Close who has waited longest without having made a request."""
        others = [one for one in self.connections if isinstance(one, GuardedProtocol)]
        idle = (Phase.IDLE, Phase.HEAD)
        waiting = [one for one in others if one is not self and one.phase in idle]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one.since)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self.phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        self._num_received += len(data)
        self._heard_at = self.loop.time()
        super().data_received(data)
        self._follow()

    def handle_events(self) -> None:
        if self.conn.their_state is h11.IDLE and self._head_is_too_large():
            most, fields = self.bounds.max_head_bytes, MAX_HEADER_FIELDS
            message = f"The head of the request is larger than {most} bytes or {fields} fields."
            self._refuse(ApiError(431, message, code="head_too_large"))
        elif not self.transport.is_closing():
            super().handle_events()

    def _head_is_too_large(self) -> bool:
        """h11 looks at the size of incomplete heads only, and takes 10 us a field."""
        data = self.conn.trailing_data[0]
        end = END_OF_HEAD.search(data)
        size = end.start() if end else len(data)
        return size > self.bounds.max_head_bytes or data.count(b"\n", 0, size) > MAX_HEADER_FIELDS

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def _follow(self) -> None:
        """The phase by h11's state; a new request begins it anew."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            phase = Phase.BODY
        elif state is h11.IDLE:
            phase = Phase.HEAD if self.conn.trailing_data[0] else Phase.IDLE
        else:
            phase = Phase.ANSWER
        if phase is not self.phase or self._followed is not self.cycle:
            self._enter(phase)

    def _enter(self, phase: Phase) -> None:
        self.phase, self.since, self._followed = phase, self.loop.time(), self.cycle
        self._num_received = 0

    def check(self, now: float) -> None:
        """End what took too long."""
        # A text that comes while it is spoken may take its time, but not between two parts.
        is_live = self.phase is Phase.BODY and _has_lines(self.scope)
        waited = now - (self._heard_at if is_live else self.since)
        if self._is_unread(now):
            logger.warning("a client read nothing for %g s; its answer ends", self.bounds.write_s)
            self._reset()
        elif self.transport.is_closing():
            return
        elif self._is_refused:
            if waited > LINGER_S:
                self.transport.abort()
        elif self.phase is Phase.HEAD and waited > self.bounds.head_s:
            self._time_out("head", self.bounds.head_s)
        elif self.phase is Phase.BODY and waited > self._body_allowance():
            self._time_out("body", self.bounds.body_s)
        elif self.phase is Phase.IDLE and waited > self.bounds.idle_s + 1:
            self.transport.close()

    def _is_unread(self, now: float) -> bool:
        size = self.transport.get_write_buffer_size()
        if not size or size <= self._unread - READ_PROGRESS:
            self._unread, self._unread_since = size, now
        self._unread = max(self._unread, size)
        return now - self._unread_since > self.bounds.write_s

    def resume_writing(self) -> None:
        """The buffer was read nearly empty; that it is soon full again is no standstill."""
        super().resume_writing()
        self._unread, self._unread_since = 0, self.loop.time()

    def _body_allowance(self) -> float:
        """A body that is not needed any more, since its answer is out, gets little time."""
        if self.cycle.response_complete:
            return self.bounds.head_s
        return self.bounds.body_s + self._num_received / BODY_BYTES_PER_S

    def _time_out(self, part: str, seconds: float) -> None:
        if self.phase is Phase.HEAD and not self._num_received:
            self.transport.close()
            return
        message = f"The {part} of the request did not come within {seconds:g} s."
        self._refuse(ApiError(408, message, code="request_timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Answer where that is still possible, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = msgspec.json.encode(error.envelope())
            headers = {"content-type": "application/json", "connection": "close", **error.headers}
            headers["content-length"] = str(len(body))
            reason = STATUS_PHRASES[error.status]
            start = h11.Response(
                status_code=error.status, headers=list(headers.items()), reason=reason
            )
            events = (start, h11.Data(data=body), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self._drop_cycle()
        self._linger()

    def _linger(self) -> None:
        """Closing now would reset the connection under what is still being sent, and the client
        would not get to read why; a reset without reading costs nothing where there is no room.
        """
        self._is_refused, self.since = True, self.loop.time()
        if len(self.connections) > self.bounds.max_connections or self.transport.is_closing():
            self.transport.close()
        else:
            self.flow.resume_reading()
            self.transport.write_eof()

    def _drop_cycle(self) -> None:
        """The application sees that its client is gone, and uvicorn sends nothing more."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _reset(self) -> None:
        """So that even a client that reads to the end of the connection sees it is no good end."""
        self._drop_cycle()
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            linger = struct.pack("ii", 1, 0)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Called while h11's error is handled."""
        # h11 quotes what it was sent as Python would: `bytearray(b'zz')`.
        reason = str(sys.exception() or msg).partition(": bytearray(")[0]
        self._refuse(ApiError(400, f"This is not HTTP: {reason}.", code="bad_request"))

    def _should_upgrade(self) -> bool:
        """Any other Upgrade is ignored, as RFC 9110 (7.8) has it."""
        wanted = self.scope["method"] == "GET" and self._get_upgrade() == b"websocket"
        return wanted and self._should_upgrade_to_ws()

    def shutdown(self) -> None:
        if self.conn.our_state is h11.ERROR:
            self.transport.close()
        else:
            super().shutdown()

    def cut(self) -> None:
        """End the answer now, if there is one."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._reset()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application; a failure after the headers breaks the connection off, without the
        traceback of what speech/response.py has logged.
        """
        cycle = self.cycle
        try:
            await self._inner(scope, receive, send)
        except asyncio.CancelledError:
            self._break_off(cycle)
        except Exception as error:
            if not cycle.response_started:
                raise
            if not _was_logged(error):
                logger.error("an answer broke off", exc_info=error)
            self._break_off(cycle)

    def _break_off(self, cycle: object) -> None:
        """A body without a length ends with its connection: that end must not look regular."""
        if self.cycle is not cycle:
            return
        if self.scope["http_version"] == "1.0":
            self._reset()
        else:
            self._drop_cycle()
            self.transport.close()


def _has_lines(scope: Any) -> bool:
    kind = dict(scope["headers"]).get(b"content-type", b"")
    return bool(kind.startswith(b"application/x-ndjson"))


def _was_logged(error: Exception) -> bool:
    cause = error.__cause__
    return isinstance(error, EngineError) or (
        isinstance(cause, ExceptionGroup) and cause.subgroup(EngineError) is not None
    )
