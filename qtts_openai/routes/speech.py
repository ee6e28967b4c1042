"""POST /v1/audio/speech and its batch form.

In: a JSON body. Out: encoded audio, server-sent events with audio in base64, or for a batch one
JSON object. A request is read (schemas), counted against its key's limits, planned (speech.planner)
and submitted (state); the answer's body is speech.response. What fails on the way gives back what
was counted.
"""

import time
from typing import Any

from litestar import MediaType, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath
from litestar.response import Stream

from qtts_openai import schemas as s
from qtts_openai.answers import BatchAnswer
from qtts_openai.decoding.turns import current_caller
from qtts_openai.http import tracing
from qtts_openai.http.asgi import Request
from qtts_openai.http.callers import caller_of, source_of
from qtts_openai.http.request_id import current as current_request_id
from qtts_openai.live.body import CONTENT_TYPE as LINES
from qtts_openai.routes.batch import Batch, read_items
from qtts_openai.routes.live import speak_body
from qtts_openai.routes.openapi import BINARY, errors, json_body, operation
from qtts_openai.speech.encoders import CONTENT_TYPES
from qtts_openai.speech.response import SpeechResponse, closing, respond, while_connected
from qtts_openai.state import AppState

_EXAMPLE = {"model": "tts-1", "voice": "alloy", "input": "Hello there."}
_AUDIO = {
    **{kind: OpenAPIMediaType(schema=BINARY) for kind in CONTENT_TYPES.values()},
    "text/event-stream": OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING)),
}


@post(
    "/v1/audio/speech",
    status_code=200,
    operation_id="createSpeech",
    summary="Speak a text",
    operation_class=operation(json_body(s.SpeechRequest, **_EXAMPLE), _AUDIO),
    responses=errors(404, 429, 500, 503),
)
async def create_speech(request: Request, service: NamedDependency[AppState]) -> Response[Any]:
    """Audio in `response_format`, as it is made or whole; or server-sent events. A body of
    application/x-ndjson is spoken while it comes.
    """
    if request.content_type[0] == LINES:
        return await speak_body(request, service)
    body = await request.body()
    tracing.current.get().mark("read")
    started = time.perf_counter()
    wanted, ignored = s.read_speech(_parsed(service, body))
    who = source_of(request)
    current_caller.set(who)
    lease = await service.limiter.acquire(who, len(wanted.input))
    try:
        planning = service.planner.plan(wanted, caller_of(request))
        utterance = await while_connected(request, planning)
        await lease.settle(utterance.num_chars)
        caller, id_ = caller_of(request), current_request_id.get()
        marked = await service.provenance(wanted, utterance, caller, id_)
        stream = service.submit(utterance, who)
        speech = SpeechResponse(
            wanted,
            stream,
            service.metrics,
            lease,
            started,
            marked,
            utterance.texts,
            service.aligner,
        )
    except BaseException:
        lease.refund()
        raise
    names = [*ignored, *utterance.ignored]
    headers = {"x-ignored-fields": s.header_list(names)} if names else {}
    if utterance.unspoken:
        headers["x-unspoken-scripts"] = s.header_list([*utterance.unspoken])
    return await respond(request, speech, headers, service.settings.defaults)


@post(
    "/v1/audio/speech/batch",
    status_code=200,
    operation_id="createSpeechBatch",
    summary="Speak several texts",
    operation_class=operation(
        json_body(s.BatchRequest, model="tts-1", voice="alloy", items=[{"input": "Hello there."}])
    ),
    responses=errors(404, 429, 500, 503)
    | {200: ResponseSpec(BatchAnswer, generate_examples=False, description="In order")},
)
async def create_speech_batch(
    request: Request, service: NamedDependency[AppState]
) -> Response[Any]:
    """The fields beside `items` are defaults for each item; one that fails fails alone."""
    body = _parsed(service, await request.body())
    items = read_items(body, service.settings.limits.max_batch_items)
    who = source_of(request)
    current_caller.set(who)
    service.queue.check_room(who)
    num_chars = sum(items.num_chars(index) for index in range(len(items.items)))
    lease = await service.limiter.acquire(who, num_chars)
    batch = Batch(service, caller_of(request), who, items, lease)
    try:
        await while_connected(request, batch.begin())
    except BaseException:
        batch.close()
        raise

    return Stream(
        batch.written(),
        status_code=200,
        media_type=MediaType.JSON,
        headers={**batch.lease.headers, "cache-control": "no-cache"},
        background=closing(batch.close),
    )


def _parsed(service: AppState, body: bytes) -> dict[str, Any]:
    return s.parse_json(body, service.settings.text.max_long_chars)


_STATEMENT = {"application/jose+json": OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))}


@get(
    "/v1/audio/speech/{request_id:str}/manifest",
    operation_id="retrieveSpeechManifest",
    summary="What was signed of an answer",
    operation_class=operation(None, _STATEMENT),
    responses=errors(404, 503),
)
async def retrieve_manifest(
    request_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> Response[Any]:
    """The signed statement of what went out under that x-request-id."""
    found = service.signing.statement(caller_of(request).id, request_id)
    return Response(found, media_type="application/jose+json")


handlers = [create_speech, create_speech_batch, retrieve_manifest]
