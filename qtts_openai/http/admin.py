"""A second address, for operators: GET /admin/drain says whether the server is draining and how
many answers still run; POST makes it refuse new work (drain), DELETE makes it take work again.

The bearer key is $QTTS_ADMIN_KEY.
"""

import asyncio
import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import msgspec
import uvicorn

from qtts_openai.http.asgi import ASGIApp, Receive, Scope, Send
from qtts_openai.http.server import listen
from qtts_openai.settings import ServerSettings, SettingsError

VARIABLE = "QTTS_ADMIN_KEY"
PATH = "/admin/drain"


def read_key(settings: ServerSettings) -> str:
    key = os.environ.get(VARIABLE, "").strip()
    if len(key) < 16:
        message = f"needs ${VARIABLE}, a key of at least 16 characters that clients do not have"
        raise SettingsError(message, "server.admin_port")
    return key


def admin_app(state: Any, num_answers: Callable[[], int], key: str) -> ASGIApp:
    """`state.draining` is what the server's front looks at."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _send(send, *answer(scope))

    def answer(scope: Scope) -> tuple[int, dict[str, Any]]:
        if not _is_key(dict(scope["headers"]).get(b"authorization", b""), key):
            return 401, {"error": {"message": f"Send ${VARIABLE} as a bearer key."}}
        if scope["path"] != PATH:
            return 404, {"error": {"message": f"There is only {PATH}."}}
        if scope["method"] not in ("GET", "POST", "DELETE"):
            return 405, {"error": {"message": "Use GET, POST or DELETE."}}
        if scope["method"] != "GET":
            state.draining = scope["method"] == "POST"
        return 200, {"draining": state.draining, "answers": num_answers()}

    return app


def _is_key(header: bytes, key: str) -> bool:
    """In a time that says nothing about the key."""
    scheme, _, sent = header.partition(b" ")
    digests = [hashlib.sha256(one).digest() for one in (sent.strip(), key.encode())]
    return hmac.compare_digest(*digests) and scheme.lower() == b"bearer"


async def _send(send: Send, status: int, body: dict[str, Any]) -> None:
    data = msgspec.json.encode(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the main server's."""
        yield


@asynccontextmanager
async def administered(
    settings: ServerSettings, state: Any, num_answers: Callable[[], int]
) -> AsyncIterator[None]:
    if not settings.admin_port:
        yield
        return
    config = uvicorn.Config(
        cast(Any, admin_app(state, num_answers, read_key(settings))),
        log_config=None,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    host, port = settings.admin_host, settings.admin_port
    listener = listen(msgspec.structs.replace(settings, host=host, port=port))
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]), name="admin")
    try:
        yield
    finally:
        server.should_exit = True
        await serving
        listener.close()
