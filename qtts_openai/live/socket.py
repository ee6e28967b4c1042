"""A WebSocket with bounds on messages and time.

It is refused with an HTTP status before the upgrade. Messages in are JSON objects; messages out are
JSON or binary, one at a time.
"""

import asyncio
import contextlib
from typing import Any, cast

import msgspec
from litestar.connection import WebSocket
from litestar.exceptions import WebSocketDisconnect

from qtts_openai.errors import ApiError, invalid
from qtts_openai.http.auth import KeyRing, chosen_protocol
from qtts_openai.http.callers import ANONYMOUS, caller_of
from qtts_openai.settings import LiveSettings

NORMAL, PROTOCOL, UNSUPPORTED, POLICY, TOO_BIG, FAILED = 1000, 1002, 1003, 1008, 1009, 1011
RESTART = 1012

Socket = WebSocket[Any, Any, Any]


class Closing(Exception):
    """The session ends; the client is told why by the code."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class LiveSocket:
    def __init__(self, socket: Socket, settings: LiveSettings) -> None:
        self.socket, self.settings = socket, settings
        self._lock = asyncio.Lock()

    async def send(self, message: dict[str, Any] | bytes) -> None:
        """Closing where the client takes nothing for so long: nobody else waits for it."""
        event: dict[str, Any] = {"type": "websocket.send", "bytes": None, "text": None}
        if isinstance(message, bytes):
            event["bytes"] = message
        else:
            event["text"] = msgspec.json.encode(message).decode()
        try:
            async with asyncio.timeout(self.settings.send_timeout_s), self._lock:
                await self.socket.send(cast(Any, event))
        except TimeoutError:
            raise Closing(FAILED, "the client does not read") from None

    async def receive(self, timeout_s: float, max_bytes: int) -> dict[str, Any]:
        """The next message, a JSON object. TimeoutError, Closing or, for one that cannot be read,
        ApiError.
        """
        async with asyncio.timeout(timeout_s):
            event = cast(dict[str, Any], await self.socket.receive())
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(detail="the client left", code=event.get("code", 1005))
        text = event.get("text")
        if text is None:
            raise Closing(UNSUPPORTED, "messages are JSON text")
        if len(text) > max_bytes or len(text.encode()) > max_bytes:
            raise Closing(TOO_BIG, f"a message may have {max_bytes} bytes")
        return _decoded(text)

    async def close(self, code: int, reason: str = "") -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1):
                await self.socket.close(code, reason[:100])


def _decoded(text: str) -> dict[str, Any]:
    try:
        message = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise invalid(f"The message is not valid JSON: {error}.", None, "invalid_json") from error
    if not isinstance(message, dict):
        raise invalid("A message is a JSON object.", None, "invalid_json")
    return message


async def refuse(socket: Socket, error: ApiError) -> None:
    """With a status, before the upgrade."""
    await socket.receive()
    headers = {"content-type": "application/json", **error.headers}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    start = {"type": "websocket.http.response.start", "status": error.status, "headers": pairs}
    await socket.send(cast(Any, start))
    body = msgspec.json.encode(error.envelope())
    await socket.send(cast(Any, {"type": "websocket.http.response.body", "body": body}))


def check_key(socket: Socket, ring: KeyRing) -> None:
    """A 401 where the server asks for a key and got none that it knows."""
    if not ring.is_open and caller_of(socket) is ANONYMOUS:
        message = "No API key that is known here was sent with the upgrade."
        raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


async def accept(socket: Socket) -> None:
    await socket.accept(subprotocols=chosen_protocol(socket))
