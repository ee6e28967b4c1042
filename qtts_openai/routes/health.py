"""What monitors ask, without a key.

/live     the process answers; 200 whatever the engine does: restart it where this fails
/ready    200 while new work is taken: send requests here or not
/health   as /ready, with the engine's state and the models
/metrics  for Prometheus
"""

from typing import Any

from litestar import Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST

from qtts_openai.http.auth import OPEN
from qtts_openai.state import AppState

# The framework adds the charset to any text.
_METRICS = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")


def _status(state: State) -> str:
    """The engine's, but not ready before the routes are nor while they end."""
    if state.draining:
        return "draining"
    status = state.engine.status
    return "starting" if status == "ready" and state.get("service") is None else status


@get("/live", operation_id="live", opt=OPEN)
async def live() -> dict[str, str]:
    return {"status": "alive"}


@get("/ready", operation_id="ready", opt=OPEN)
async def ready(state: State) -> Response[dict[str, str]]:
    status = _status(state)
    return Response({"status": status}, status_code=200 if status == "ready" else 503)


@get("/health", operation_id="health", opt=OPEN)
async def health(state: State) -> Response[dict[str, Any]]:
    status = _status(state)
    body = {"status": status, "models": list(state.engine.models)}
    return Response(body, status_code=200 if status == "ready" else 503)


@get("/metrics", operation_id="metrics", opt=OPEN)
async def metrics(service: NamedDependency[AppState]) -> Response[bytes]:
    return Response(service.metrics.render(), media_type=_METRICS)


handlers = [live, ready, health, metrics]
