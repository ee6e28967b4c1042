"""create_app: settings -> the ASGI application.

It registers the routes, starts the engine in the background and closes it at the end, turns every
failure into OpenAI's error envelope, and puts http.front (host, origin, body size) before it all.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException

from engine import EngineClient
from qtts_openai.errors import ApiError, handle_exception, retry_headers
from qtts_openai.http.asgi import ASGIApp, Receive, Scope, Send
from qtts_openai.http.auth import KeyRing, require_key
from qtts_openai.http.bounds import BodyBounds
from qtts_openai.http.front import Front
from qtts_openai.http.origins import OriginPolicy
from qtts_openai.http.tracing import Tracer
from qtts_openai.routes import consents, docs, health, live, models, page, speech, verify, voices
from qtts_openai.settings import Settings
from qtts_openai.state import AppState

logger = logging.getLogger(__name__)


class App(Litestar):
    """Litestar behind `Front`. Its `state` has engine, starting (the task that starts the engine),
    draining and, once the engine is ready, service.
    """

    front: ASGIApp

    async def __call__(  # type: ignore[override]
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        inner: ASGIApp = super().__call__ if scope["type"] == "lifespan" else self.front
        await inner(scope, receive, send)


def create_app(settings: Settings, engine: EngineClient | None = None) -> App:
    """Starts `engine`, or one made from the settings, in the background and closes it; until it is
    ready, what needs it is a 503.
    """
    keys = KeyRing(settings.auth)
    client = engine or EngineClient(settings.engine, settings.specs())
    tracer = Tracer(settings.server.traces)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        app.state.starting = asyncio.create_task(_start(app, settings, client))
        keys.announce(settings.server.host)
        watching = asyncio.create_task(keys.watch(), name="keys-file")
        try:
            yield
        finally:
            watching.cancel()
            app.state.starting.cancel()
            await asyncio.wait({app.state.starting})
            await client.drain(settings.server.drain_s)
            if app.state.get("service") is not None:
                await app.state.service.close()
            await client.close()
            await asyncio.to_thread(tracer.close)

    def service() -> AppState:
        if app.state.get("service") is None:
            message = f"The engine is {client.status}."
            headers = retry_headers(5)
            raise ApiError(503, message, code="engine_unavailable", headers=headers)
        made: AppState = app.state.service
        return made

    app = App(
        route_handlers=[
            *speech.handlers,
            *live.handlers,
            *voices.handlers,
            *consents.handlers,
            *verify.handlers,
            *models.handlers,
            *health.handlers,
            *docs.handlers,
            *(page.handlers if settings.server.page else ()),
        ],
        lifespan=[lifespan],
        dependencies={"service": Provide(service, sync_to_thread=False, use_cache=True)},
        guards=[require_key(keys)],
        exception_handlers={HTTPException: handle_exception, Exception: handle_exception},
        request_max_body_size=settings.limits.max_body_bytes,
        openapi_config=None,
        cors_config=_cors(settings),
        logging_config=None,
        state=State({"key_ring": keys}),
    )
    app.state.engine = client
    app.state.draining = False
    app.front = _front(app, settings, keys.is_open, tracer)
    return app


async def _start(app: Litestar, settings: Settings, client: EngineClient) -> None:
    app.state.service = await AppState.begin(settings, client)
    app.state.service.warm_up()
    _announce(app.state.service)


def _front(app: App, settings: Settings, is_keyless: bool, tracer: Tracer) -> Front:
    def clones() -> bool:
        return any(info.model_type == "base" for info in app.state.engine.models.values())

    def count(route: str, method: str, status: int, code: str | None) -> None:
        service: AppState | None = app.state.get("service")
        if service is not None:
            service.metrics.requests.labels(route, method, status).inc()
            if code is not None:
                service.metrics.refused.labels(code).inc()

    return Front(
        super(App, app).__call__,
        OriginPolicy(settings.server, is_keyless),
        BodyBounds(settings.limits, settings.ref_audio, settings.text.max_long_chars),
        clones=clones,
        is_draining=lambda: app.state.draining,
        count=count,
        tracer=tracer,
    )


def _cors(settings: Settings) -> CORSConfig | None:
    origins = list(settings.server.cors_origins)
    return CORSConfig(allow_origins=origins, expose_headers=["*"]) if origins else None


def _announce(service: AppState) -> None:
    for info in service.catalog.models.values():
        logger.info("model %s: %s from %s", info.id, info.model_type, info.path)
    for model in service.random_weight_models():
        logger.warning("model %s has random weights: it makes noise, not speech", model)
