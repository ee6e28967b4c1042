"""GET /v1/models, /v1/models/{id} and the open /v1/audio/models."""

import asyncio
from typing import Any

from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from qtts_openai.http.auth import OPEN
from qtts_openai.http.callers import caller_of
from qtts_openai.state import AppState
from qtts_openai.text.prompt_builder import languages_of
from qtts_openai.voices.model_registry import FAMILIES, NamedModel


@get("/v1/models", operation_id="listModels")
async def list_models(request: Request, service: NamedDependency[AppState]) -> dict[str, Any]:
    stored = await asyncio.to_thread(service.stored, caller_of(request))
    models = [_model(service, named, stored) for named in service.catalog.all()]
    return {"object": "list", "data": models}


@get("/v1/models/{model_id:path}", operation_id="retrieveModel")
async def retrieve_model(
    model_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> dict[str, Any]:
    named = service.catalog.find(model_id.removeprefix("/"))
    return _model(service, named, await asyncio.to_thread(service.stored, caller_of(request)))


@get("/v1/audio/models", operation_id="listSpeechModels", opt=OPEN)
async def list_speech_models(service: NamedDependency[AppState]) -> dict[str, Any]:
    return {"models": [{"id": named.name, "name": named.name} for named in service.catalog.all()]}


def _model(service: AppState, named: NamedModel, stored: list[dict[str, Any]]) -> dict[str, Any]:
    info = named.info
    return {
        "id": named.name,
        "object": "model",
        "created": service.created,
        "owned_by": "qtts",
        "shutdown_date": None,
        "root": info.id,
        "task_type": FAMILIES[info.model_type],
        "languages": languages_of(info),
        "voices": service.voices_of(info, stored),
        "sample_rate": 24000,
        "random_weights": info.random_weights,
    }


handlers = [list_models, retrieve_model, list_speech_models]
