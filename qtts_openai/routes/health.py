"""GET /health and /metrics, open to monitors."""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST

from qtts_openai.auth import OPEN
from qtts_openai.service import Service


@get("/health", operation_id="health", opt=OPEN)
async def health(service: NamedDependency[Service]) -> Response[dict[str, Any]]:
    status = service.engine.status
    body = {"status": status, "models": list(service.catalog.models)}
    return Response(body, status_code=200 if status == "ready" else 503)


@get("/metrics", operation_id="metrics", opt=OPEN)
async def metrics(service: NamedDependency[Service]) -> Response[bytes]:
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)


handlers = [health, metrics]
