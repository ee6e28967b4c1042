"""Everything that can go wrong in a request, as OpenAI's error envelope.

ApiError                     the status, type, param and code it was made with
engine.InvalidPromptError    400 invalid_request_error, names the field
engine.QueueFullError        429 rate_limit_error queue_full, Retry-After
engine.GenerationFailedError 500 server_error generation_failed
engine.EngineDeadError       503 server_error engine_unavailable, Retry-After
Litestar's HTTPException     404, 405 (with Allow), 413, ...
anything else                500 server_error, traceback in the log only
"""

import logging
import math
from typing import Any

from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, ValidationException

from engine import EngineDeadError, GenerationFailedError, InvalidPromptError, QueueFullError
from qtts_openai.answers import ErrorAnswer, ErrorDetail, ErrorType

logger = logging.getLogger(__name__)

MAX_MESSAGE = 4000

# Litestar's word for a body that ends before its end, an exception like any other.
_GONE = "client disconnected prematurely"

# Where clients want to go; the longer ones first.
_ROUTES = (
    "/v1/audio/speech/batch",
    "/v1/audio/voice_consents",
    "/v1/audio/speech",
    "/v1/audio/voices",
    "/v1/audio/models",
    "/v1/audio/verify",
    "/v1/models",
)


class ApiError(Exception):
    """A failure with its place in the envelope. `type` follows from the status unless given."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: ErrorType | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        # What a client sent may be in it, and that may be long.
        message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.type = type or _type_of(status)
        self.headers = headers or {}

    @property
    def detail(self) -> ErrorDetail:
        return ErrorDetail(message=self.message, type=self.type, param=self.param, code=self.code)

    def envelope(self) -> ErrorAnswer:
        return ErrorAnswer(error=self.detail)


def invalid(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)


def _type_of(status: int) -> ErrorType:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def retry_headers(seconds: float) -> dict[str, str]:
    return {
        "retry-after": str(max(1, math.ceil(seconds))),
        "retry-after-ms": str(math.ceil(seconds * 1000)),
    }


def as_api_error(exc: BaseException) -> ApiError:
    """The envelope of a failure, wherever it shows: an answer, an event or an item of a batch."""
    match exc:
        case ApiError():
            return exc
        case InvalidPromptError():
            return invalid(str(exc), exc.param)
        case QueueFullError():
            headers = retry_headers(exc.retry_after_s)
            return ApiError(429, str(exc), code="queue_full", headers=headers)
        case GenerationFailedError():
            return ApiError(500, str(exc), code="generation_failed")
        case EngineDeadError():
            headers = retry_headers(exc.retry_after_s)
            return ApiError(503, str(exc), code="engine_unavailable", headers=headers)
    return ApiError(500, "The server failed to answer this request.", code="internal_error")


def _from_litestar(request: Request[Any, Any, Any], exc: HTTPException) -> ApiError:
    url = f"{request.method} {request.url.path}"
    headers = dict(exc.headers or {})
    if exc.status_code == 404:
        return ApiError(404, f"Invalid URL ({url}){_hint(request.url.path)}", code="unknown_url")
    if exc.status_code == 405:
        allowed = headers.get("allow", "")
        message = f"Not allowed to {url}; use {allowed}."
        return ApiError(405, message, code="method_not_allowed", headers=headers)
    if exc.status_code == 413:
        return ApiError(
            413, "The request body is larger than limits.max_body_bytes.", code="body_too_large"
        )
    if isinstance(exc, ValidationException) and isinstance(exc.extra, list) and exc.extra:
        wrong = exc.extra[0]
        return invalid(f"{wrong['key']}: {wrong['message']}.", wrong["key"])
    if exc.status_code == 500 and exc.detail == _GONE:
        return ApiError(499, "The client closed the connection.", code="client_closed")
    return ApiError(exc.status_code, exc.detail, headers=headers)


def _hint(path: str) -> str:
    """The route that a base URL with too much or too little in it was meant to lead to."""
    for route in _ROUTES:
        tail = route.removeprefix("/v1")
        if path.rstrip("/").endswith(tail):
            return f"; use {route}, so the base URL ends in /v1"
    return "; GET /docs lists what is here"


def handle_exception(request: Request[Any, Any, Any], exc: Exception) -> Response[Any]:
    error = _from_litestar(request, exc) if isinstance(exc, HTTPException) else as_api_error(exc)
    service = request.app.state.get("service")
    if service is not None:
        reason = error.code or ("no_key" if error.status == 401 else str(error.status))
        service.metrics.refused.labels(reason).inc()
    if error.code == "internal_error":
        logger.error("%s %s failed", request.method, request.url.path, exc_info=exc)
    return Response(
        error.envelope(), status_code=error.status, headers=error.headers, media_type=MediaType.JSON
    )
