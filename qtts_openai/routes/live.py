"""WebSockets for text that is spoken while it comes."""

from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect

from qtts_openai.errors import ApiError, retry_headers
from qtts_openai.http.auth import OPEN
from qtts_openai.http.callers import caller_of, source_of
from qtts_openai.live.native import DIALECT, NativeSession
from qtts_openai.live.socket import LiveSocket, accept, check_key, refuse
from qtts_openai.live.voice import OpenTexts
from qtts_openai.state import Service


# Open for the guard, which notes the caller: a refusal here has a status that clients show.
@websocket("/v1/audio/speech/stream", opt=OPEN)
async def stream_speech(socket: WebSocket) -> None:
    state = socket.app.state
    try:
        service = _service(socket)
        check_key(socket, state.key_ring)
        session = _session(socket, service)
    except ApiError as error:
        await refuse(socket, error)
        return
    service.num_live += 1
    service.metrics.live_sessions.labels(DIALECT).inc()
    try:
        await accept(socket)
        await session.run()
    except WebSocketDisconnect:
        return
    finally:
        session.lease.release()
        service.num_live -= 1
        service.metrics.live_sessions.labels(DIALECT).dec()


def _session(socket: WebSocket, service: Service) -> NativeSession:
    if service.num_live >= service.settings.live.max_sessions:
        message = f"{service.num_live} live sessions are open, and no more may be."
        raise ApiError(503, message, code="too_many_sessions", headers=retry_headers(5))
    bounded = LiveSocket(socket, service.settings.live)
    open_texts: OpenTexts | None = socket.app.state.get("open_texts")
    if open_texts is None:
        open_texts = socket.app.state.open_texts = OpenTexts(lambda: service.engine.num_rows)
    return NativeSession(bounded, service, open_texts, caller_of(socket), source_of(socket))


def _service(socket: WebSocket) -> Service:
    state = socket.app.state
    service: Service | None = state.get("service")
    if service is None or state.draining:
        status = "shutting down" if state.draining else state.engine.status
        message = f"The engine is {status}."
        raise ApiError(503, message, code="engine_unavailable", headers=retry_headers(5))
    return service


handlers = [stream_speech]
