"""GET /v1/models, /v1/models/{id} and the open /v1/audio/models."""

import asyncio

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from engine import SAMPLE_RATE_HZ
from qtts_openai.answers import ModelAnswer, ModelList, SpeechModel, SpeechModelList, VoiceAnswer
from qtts_openai.http.asgi import Request
from qtts_openai.http.auth import OPEN
from qtts_openai.http.callers import caller_of
from qtts_openai.routes.openapi import errors
from qtts_openai.state import AppState
from qtts_openai.text.prompt_builder import languages_of
from qtts_openai.voices.model_registry import FAMILIES, NamedModel


@get("/v1/models", operation_id="listModels", summary="All models", responses=errors(503))
async def list_models(request: Request, service: NamedDependency[AppState]) -> ModelList:
    stored = await asyncio.to_thread(service.stored, caller_of(request))
    return ModelList(data=[_model(service, named, stored) for named in service.catalog.all()])


@get(
    "/v1/models/{model_id:path}",
    operation_id="retrieveModel",
    summary="One model",
    responses=errors(404, 503),
)
async def retrieve_model(
    model_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> ModelAnswer:
    named = service.catalog.find(model_id.removeprefix("/"))
    return _model(service, named, await asyncio.to_thread(service.stored, caller_of(request)))


@get(
    "/v1/audio/models",
    operation_id="listSpeechModels",
    summary="All models, in short",
    opt=OPEN,
    responses=errors(503),
)
async def list_speech_models(service: NamedDependency[AppState]) -> SpeechModelList:
    """As Open WebUI reads it."""
    names = [named.name for named in service.catalog.all()]
    return SpeechModelList(models=[SpeechModel(id=name, name=name) for name in names])


def _model(service: AppState, named: NamedModel, stored: list[VoiceAnswer]) -> ModelAnswer:
    info = named.info
    return ModelAnswer(
        id=named.name,
        created=service.created,
        root=info.id,
        task_type=FAMILIES[info.model_type],
        languages=languages_of(info),
        voices=service.voices_of(info, stored),
        sample_rate=SAMPLE_RATE_HZ,
        random_weights=info.random_weights,
    )


handlers = [list_models, retrieve_model, list_speech_models]
