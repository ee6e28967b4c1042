"""WebSockets for text that is spoken while it comes, one route for each dialect."""

from collections.abc import Callable
from functools import partial
from typing import Any

from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath

from qtts_openai.errors import ApiError, retry_headers
from qtts_openai.http.asgi import Request
from qtts_openai.http.auth import OPEN, offered_protocols
from qtts_openai.http.callers import caller_of, source_of
from qtts_openai.live.body import BodyResponse, BodySpeech
from qtts_openai.live.dashscope import DashScopeSession
from qtts_openai.live.deepgram import DeepgramSession
from qtts_openai.live.dialect import Dialect, Visit
from qtts_openai.live.elevenlabs import ElevenLabsSession
from qtts_openai.live.nari import PROTOCOL_NAME, NariSession
from qtts_openai.live.native import NativeSession
from qtts_openai.live.socket import LiveSocket, accept, check_key, refuse
from qtts_openai.live.together import TogetherSession
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


@websocket("/v1/text-to-speech/{voice_id:str}/multi-stream-input", opt=OPEN)
async def elevenlabs_multi(socket: Socket, voice_id: FromPath[str]) -> None:
    await _serve(socket, _elevenlabs(socket, voice_id, multi=True))


@websocket("/v1/text-to-speech/{voice_id:str}/stream-input", opt=OPEN)
async def elevenlabs_single(socket: Socket, voice_id: FromPath[str]) -> None:
    await _serve(socket, _elevenlabs(socket, voice_id, multi=False))


def _elevenlabs(socket: Socket, voice_id: str, multi: bool) -> Make:
    return partial(ElevenLabsSession, voice_id=voice_id, query=_query(socket), multi=multi)


@websocket("/api-ws/v1/realtime", opt=OPEN)
async def dashscope(socket: Socket) -> None:
    await _serve(socket, partial(DashScopeSession, query=_query(socket)))


@websocket("/v1/audio/speech/websocket", opt=OPEN)
async def together(socket: Socket) -> None:
    await _serve(socket, partial(TogetherSession, query=_query(socket)))


@websocket("/v1/audio/speech/ws", opt=OPEN)
async def nari(socket: Socket) -> None:
    is_offered = PROTOCOL_NAME in offered_protocols(socket)
    await _serve(socket, partial(NariSession, is_offered=is_offered))


def _query(socket: Socket) -> dict[str, str]:
    return {name: str(value) for name, value in socket.query_params.items()}


async def speak_body(http: Request, service: AppState) -> BodyResponse:
    """Of POST /v1/audio/speech, whose text comes line by line."""
    open_texts = open_texts_of(http.app.state, service)
    who = source_of(http)
    speech = BodySpeech(service, http.receive, await service.limiter.acquire(who, 0))
    open_now = service.metrics.live_sessions.labels(speech.name)
    service.live.add(speech)
    open_now.inc()

    def release() -> None:
        service.live.discard(speech)
        open_now.dec()

    try:
        await speech.begin(http, open_texts)
    except BaseException:
        await speech.close()
        release()
        raise
    return BodyResponse(speech, release)


async def _serve(socket: Socket, make: Make) -> None:
    try:
        service = _service(socket)
        check_key(socket, socket.app.state.key_ring)
        dialect = await _dialect(socket, service, make)
    except ApiError as error:
        await refuse(socket, error)
        return
    open_now = service.metrics.live_sessions.labels(dialect.name)
    service.live.add(dialect)
    open_now.inc()
    try:
        await accept(socket)
        await dialect.run()
    except WebSocketDisconnect:
        return
    finally:
        dialect.lease.release()
        service.live.discard(dialect)
        open_now.dec()


async def _dialect(socket: Socket, service: AppState, make: Make) -> Dialect:
    open_texts = open_texts_of(socket.app.state, service)
    bounded = LiveSocket(socket, service.settings.live)
    who = source_of(socket)

    def drains() -> bool:
        return bool(socket.app.state.draining)

    lease = await service.limiter.acquire(who, 0)
    return make(Visit(bounded, service, open_texts, caller_of(socket), who, lease, drains))


def open_texts_of(state: Any, service: AppState) -> OpenTexts:
    """One for all sessions. A 503 where there are as many as may be."""
    if len(service.live) >= service.settings.live.max_sessions:
        message = f"{len(service.live)} live sessions are open, and no more may be."
        raise ApiError(503, message, code="too_many_sessions", headers=retry_headers(5))
    known: OpenTexts | None = state.get("open_texts")
    if known is None:
        known = state.open_texts = OpenTexts(lambda: service.engine.num_places)
    return known


def _service(socket: Socket) -> AppState:
    state = socket.app.state
    service: AppState | None = state.get("service")
    if service is None or state.draining:
        status = "shutting down" if state.draining else state.engine.status
        message = f"The engine is {status}."
        raise ApiError(503, message, code="engine_unavailable", headers=retry_headers(5))
    return service


handlers = [
    stream_speech,
    deepgram_v1,
    deepgram_v2,
    elevenlabs_multi,
    elevenlabs_single,
    dashscope,
    together,
    nari,
]
