"""GET /v1/models, /v1/models/{id} and the open /v1/audio/models."""

from typing import Any

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from qtts_openai.auth import OPEN
from qtts_openai.catalog import FAMILIES, NamedModel
from qtts_openai.prompting import languages_of
from qtts_openai.service import Service


@get("/v1/models", operation_id="listModels")
async def list_models(service: NamedDependency[Service]) -> dict[str, Any]:
    return {"object": "list", "data": [_model(service, named) for named in service.catalog.all()]}


@get("/v1/models/{model_id:path}", operation_id="retrieveModel")
async def retrieve_model(
    model_id: FromPath[str], service: NamedDependency[Service]
) -> dict[str, Any]:
    return _model(service, service.catalog.find(model_id.removeprefix("/")))


@get("/v1/audio/models", operation_id="listSpeechModels", opt=OPEN)
async def list_speech_models(service: NamedDependency[Service]) -> dict[str, Any]:
    return {"models": [{"id": named.name, "name": named.name} for named in service.catalog.all()]}


def _model(service: Service, named: NamedModel) -> dict[str, Any]:
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
        "voices": service.voices_of(info),
        "sample_rate": 24000,
        "random_weights": info.random_weights,
    }


handlers = [list_models, retrieve_model, list_speech_models]
