"""create_app: routes, the engine's life, the error envelope and x-request-id around everything."""

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import MutableScopeHeaders
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.types import Message, Scope

from engine import EngineClient
from qtts_openai.auth import load_keys, require_key
from qtts_openai.errors import handle_exception
from qtts_openai.routes import consents, docs, health, models, speech, voices
from qtts_openai.service import Service
from qtts_openai.settings import Settings

logger = logging.getLogger(__name__)


def create_app(settings: Settings, engine: EngineClient | None = None) -> Litestar:
    """Starts `engine`, or one made from the settings, and closes it; who sets state.service first
    has started it.
    """
    client = engine or EngineClient(settings.engine, settings.specs())

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        if app.state.get("service") is None:
            app.state.service = await Service.begin(settings, client)
        _announce(app.state.service)
        app.state.service.warm_up()
        try:
            yield
        finally:
            await client.drain(settings.server.drain_s)
            app.state.service.close()
            await client.close()

    def service() -> Service:
        return app.state.service

    app = Litestar(
        route_handlers=[
            *speech.handlers,
            *voices.handlers,
            *consents.handlers,
            *models.handlers,
            *health.handlers,
            *docs.handlers,
        ],
        lifespan=[lifespan],
        dependencies={"service": Provide(service, sync_to_thread=False, use_cache=True)},
        guards=[require_key(load_keys(settings.auth.keys_file))],
        exception_handlers={HTTPException: handle_exception, Exception: handle_exception},
        before_send=[_before_send],
        request_max_body_size=settings.limits.max_body_bytes,
        openapi_config=None,
        cors_config=_cors(settings),
        logging_config=None,
    )
    return app


def _cors(settings: Settings) -> CORSConfig | None:
    origins = list(settings.server.cors_origins)
    return CORSConfig(allow_origins=origins, expose_headers=["*"]) if origins else None


async def _before_send(message: Message, scope: Scope) -> None:
    """x-request-id on every answer, routing errors included, and the count of answers."""
    if message["type"] != "http.response.start":
        return
    MutableScopeHeaders.from_message(message)["x-request-id"] = f"req_{uuid.uuid4().hex}"
    service: Service | None = scope["litestar_app"].state.get("service")
    if service is not None:
        route = scope.get("path_template", "unknown")
        service.metrics.requests.labels(route, scope.get("method"), message["status"]).inc()


def _announce(service: Service) -> None:
    for info in service.catalog.models.values():
        logger.info("model %s: %s from %s", info.id, info.model_type, info.path)
    for model in service.noisy_models():
        logger.warning("model %s has random weights: it makes noise, not speech", model)
