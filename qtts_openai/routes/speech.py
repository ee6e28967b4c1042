"""POST /v1/audio/speech."""

from litestar import Request, Response, post
from litestar.di import NamedDependency

from qtts_openai import schemas as s
from qtts_openai.service import Service
from qtts_openai.streaming import Speech, respond


@post("/v1/audio/speech", status_code=200, operation_id="createSpeech")
async def create_speech(request: Request, service: NamedDependency[Service]) -> Response:
    speech, ignored = s.read_speech(s.parse_json(await request.body()))
    utterance = await service.planner.plan(speech)
    stream = service.submit(utterance)
    names = [*ignored, *utterance.ignored]
    headers = {"x-ignored-fields": s.header_list(names)} if names else {}
    return await respond(request, Speech(speech, stream, service.metrics), headers)


handlers = [create_speech]
