"""POST /v1/audio/speech and its batch form."""

import time

from litestar import MediaType, Request, Response, post
from litestar.background_tasks import BackgroundTask
from litestar.di import NamedDependency
from litestar.response import Stream

from qtts_openai import schemas as s
from qtts_openai.decoding.turns import current_caller
from qtts_openai.http.callers import caller_of, source_of
from qtts_openai.routes.batch import Batch, read_items
from qtts_openai.speech.response import SpeechResponse, respond, while_connected
from qtts_openai.state import AppState


@post("/v1/audio/speech", status_code=200, operation_id="createSpeech")
async def create_speech(request: Request, service: NamedDependency[AppState]) -> Response:
    body = await request.body()
    started = time.perf_counter()
    wanted, ignored = s.read_speech(s.parse_json(body))
    who = source_of(request)
    current_caller.set(who)
    lease = service.limiter.acquire(who, len(wanted.input))
    try:
        planning = service.planner.plan(wanted, caller_of(request))
        utterance = await while_connected(request, planning)
        lease.settle(utterance.num_chars)
        stream = service.submit(utterance, who)
        speech = SpeechResponse(wanted, stream, service.metrics, lease, started)
    except BaseException:
        lease.refund()
        raise
    names = [*ignored, *utterance.ignored]
    headers = {"x-ignored-fields": s.header_list(names)} if names else {}
    if utterance.unspoken:
        headers["x-unspoken-scripts"] = s.header_list([*utterance.unspoken])
    return await respond(request, speech, headers, service.settings.defaults)


@post("/v1/audio/speech/batch", status_code=200, operation_id="createSpeechBatch")
async def create_speech_batch(request: Request, service: NamedDependency[AppState]) -> Response:
    items = read_items(s.parse_json(await request.body()), service.settings.limits.max_batch_items)
    who = source_of(request)
    current_caller.set(who)
    service.queue.check_room(who)
    num_chars = sum(items.num_chars(index) for index in range(len(items.items)))
    lease = service.limiter.acquire(who, num_chars)
    batch = Batch(service, caller_of(request), who, items, lease)
    try:
        await while_connected(request, batch.begin())
    except BaseException:
        batch.close()
        raise

    async def close() -> None:
        """On the event loop: a plain function would be run in a thread."""
        batch.close()

    return Stream(
        batch.written(),
        status_code=200,
        media_type=MediaType.JSON,
        headers={**batch.lease.headers, "cache-control": "no-cache"},
        background=BackgroundTask(close),
    )


handlers = [create_speech, create_speech_batch]
