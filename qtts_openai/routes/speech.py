"""POST /v1/audio/speech and its batch form."""

import secrets
import time
from typing import Any

from litestar import MediaType, Request, Response, post
from litestar.di import NamedDependency

from qtts_openai import schemas as s
from qtts_openai.auth import caller
from qtts_openai.batch import read_items, speak_items, summary
from qtts_openai.limiter import Lease
from qtts_openai.service import Service
from qtts_openai.streaming import Speech, respond


@post("/v1/audio/speech", status_code=200, operation_id="createSpeech")
async def create_speech(request: Request, service: NamedDependency[Service]) -> Response:
    body = await request.body()
    started = time.perf_counter()
    wanted, ignored = s.read_speech(s.parse_json(body))
    lease = _lease(request, service, len(wanted.input))
    try:
        utterance = await service.planner.plan(wanted)
        stream = service.submit(utterance)
        speech = Speech(wanted, stream, service.metrics, lease, started)
    except BaseException:
        lease.refund()
        raise
    names = [*ignored, *utterance.ignored]
    headers = {"x-ignored-fields": s.header_list(names)} if names else {}
    return await respond(request, speech, headers, service.settings.defaults)


@post("/v1/audio/speech/batch", status_code=200, operation_id="createSpeechBatch")
async def create_speech_batch(request: Request, service: NamedDependency[Service]) -> Response:
    body = s.parse_json(await request.body())
    items = read_items(body, service.settings.limits.max_batch_items)
    lease = _lease(request, service, sum(_num_chars(item) for item in items))
    try:
        results = await speak_items(request, service, items)
    finally:
        lease.release()
    content = summary(f"batch_{secrets.token_hex(12)}", results)
    return Response(content, media_type=MediaType.JSON, headers=lease.headers)


def _lease(request: Request, service: Service, num_chars: int) -> Lease:
    return service.limiter.take(caller(request), num_chars)


def _num_chars(item: dict[str, Any]) -> int:
    text = item.get("input")
    return len(text) if isinstance(text, str) else 0


handlers = [create_speech, create_speech_batch]
