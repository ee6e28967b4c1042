"""WebSockets for text that is spoken while it comes, one route for each dialect."""

from collections.abc import Callable
from functools import partial
from typing import Any

from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect

from qtts_openai.errors import ApiError, retry_headers
from qtts_openai.http.auth import OPEN
from qtts_openai.http.callers import caller_of, source_of
from qtts_openai.live.deepgram import DeepgramSession
from qtts_openai.live.dialect import Dialect, Visit
from qtts_openai.live.native import NativeSession
from qtts_openai.live.socket import LiveSocket, accept, check_key, refuse
from qtts_openai.live.voice import OpenTexts
from qtts_openai.state import AppState

Make = Callable[[Visit], Dialect]
Socket = WebSocket[Any, Any, Any]


# Open for the guard, which notes the caller: a refusal here has a status that clients show.
@websocket("/v1/audio/speech/stream", opt=OPEN)
async def stream_speech(socket: Socket) -> None:
    await _serve(socket, NativeSession)


@websocket("/v1/speak", opt=OPEN)
async def deepgram_v1(socket: Socket) -> None:
    await _serve(socket, partial(DeepgramSession, query=_query(socket), version=1))


@websocket("/v2/speak", opt=OPEN)
async def deepgram_v2(socket: Socket) -> None:
    await _serve(socket, partial(DeepgramSession, query=_query(socket), version=2))


def _query(socket: Socket) -> dict[str, str]:
    return {name: str(value) for name, value in socket.query_params.items()}


async def _serve(socket: Socket, make: Make) -> None:
    try:
        service = _service(socket)
        check_key(socket, socket.app.state.key_ring)
        dialect = await _dialect(socket, service, make)
    except ApiError as error:
        await refuse(socket, error)
        return
    open_now = service.metrics.live_sessions.labels(dialect.name)
    service.num_live += 1
    open_now.inc()
    try:
        await accept(socket)
        await dialect.run()
    except WebSocketDisconnect:
        return
    finally:
        dialect.lease.release()
        service.num_live -= 1
        open_now.dec()


async def _dialect(socket: Socket, service: AppState, make: Make) -> Dialect:
    if service.num_live >= service.settings.live.max_sessions:
        message = f"{service.num_live} live sessions are open, and no more may be."
        raise ApiError(503, message, code="too_many_sessions", headers=retry_headers(5))
    bounded = LiveSocket(socket, service.settings.live)
    open_texts: OpenTexts | None = socket.app.state.get("open_texts")
    if open_texts is None:
        open_texts = socket.app.state.open_texts = OpenTexts(lambda: service.engine.num_places)
    who = source_of(socket)
    lease = await service.limiter.acquire(who, 0)
    return make(Visit(bounded, service, open_texts, caller_of(socket), who, lease))


def _service(socket: Socket) -> AppState:
    state = socket.app.state
    service: AppState | None = state.get("service")
    if service is None or state.draining:
        status = "shutting down" if state.draining else state.engine.status
        message = f"The engine is {status}."
        raise ApiError(503, message, code="engine_unavailable", headers=retry_headers(5))
    return service


handlers = [stream_speech, deepgram_v1, deepgram_v2]
