"""What monitors ask, without a key.

/live     the process answers; 200 whatever the engine does: restart it where this fails
/ready    200 while new work is taken: send requests here or not
/health   as /ready, with the engine's state and the models
/metrics  for Prometheus
"""

from litestar import MediaType, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec

from qtts_openai.answers import Alive, EngineStatus, Health, Readiness
from qtts_openai.http.asgi import Request
from qtts_openai.http.auth import OPEN
from qtts_openai.routes.openapi import errors
from qtts_openai.state import AppState


def _status(state: State) -> EngineStatus:
    """The engine's, but not ready before the routes are nor while they end."""
    if state.draining:
        return "draining"
    status = state.engine.status
    return "starting" if status == "ready" and state.get("service") is None else status


@get("/live", operation_id="live", opt=OPEN, summary="Alive", responses=errors())
async def live() -> Alive:
    return Alive()


def _unready(answer: type[Readiness] | type[Health]) -> dict[int, ResponseSpec]:
    said = ResponseSpec(answer, generate_examples=False, description="No work is taken now")
    return errors() | {503: said}


@get("/ready", operation_id="ready", opt=OPEN, summary="Ready", responses=_unready(Readiness))
async def ready(state: State) -> Response[Readiness]:
    """503 while no new work is taken."""
    status = _status(state)
    return Response(Readiness(status=status), status_code=200 if status == "ready" else 503)


@get("/health", operation_id="health", opt=OPEN, summary="Health", responses=_unready(Health))
async def health(state: State) -> Response[Health]:
    """As /ready, with the models."""
    status = _status(state)
    body = Health(status=status, models=list(state.engine.models))
    return Response(body, status_code=200 if status == "ready" else 503)


@get(
    "/metrics",
    operation_id="metrics",
    opt=OPEN,
    summary="Metrics",
    media_type=MediaType.TEXT,
    responses=errors(503),
)
async def metrics(request: Request, service: NamedDependency[AppState]) -> Response[bytes]:
    """For Prometheus; with exemplars for who asks for OpenMetrics."""
    text, kind = service.metrics.render(request.headers.get("accept", ""))
    return Response(text, media_type=kind.removesuffix("; charset=utf-8"))


handlers = [live, ready, health, metrics]
