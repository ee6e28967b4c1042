"""What every request passes before its route: id, host and origin, size, HEAD; and the count of
answers on the way back.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from qtts_openai.errors import ApiError, retry_headers
from qtts_openai.http import request_id, tracing
from qtts_openai.http.asgi import ASGIApp, Message, Receive, Scope, Send
from qtts_openai.http.bounds import FORM_PATHS, BodyBounds, plain_path
from qtts_openai.http.origins import OriginPolicy
from qtts_openai.http.tracing import Tracer

Headers = dict[bytes, bytes]


class Front:
    """`clones`: whether requests may bring reference audio; `is_draining`: whether new work is
    refused; `count(route, method, status, code)` is called for each answer, with the code of a
    refusal that is made here.
    """

    def __init__(
        self,
        inner: ASGIApp,
        origins: OriginPolicy,
        bodies: BodyBounds,
        *,
        clones: Callable[[], bool],
        is_draining: Callable[[], bool],
        count: Callable[[str, str, int, str | None], None],
        tracer: Tracer,
    ) -> None:
        self._inner = inner
        self._origins, self._bodies = origins, bodies
        self._clones, self._is_draining, self._count = clones, is_draining, count
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope.get("headers", ()))
        if scope["type"] == "http":
            await self._http(dict(scope), headers, receive, send)
        elif not self._may_connect(headers):
            await send({"type": "websocket.close", "code": 1008})
        else:
            timeline = self._tracer.begin(scope["path"], "WebSocket", headers)
            tracing.current.set(timeline)
            try:
                await self._inner(scope, receive, send)
            finally:
                self._tracer.end(timeline, f"WebSocket {plain_path(scope['path'])}")

    def _may_connect(self, headers: Headers) -> bool:
        """A WebSocket is open to every page unless the server looks at its origin."""
        try:
            self._check_origin("POST", headers)
        except ApiError:
            return False
        return True

    async def _http(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        id_ = request_id.choose(headers.get(b"x-request-id"))
        request_id.current.set(id_)
        method = scope["method"]
        if method == "HEAD":
            scope["method"] = "GET"  # the protocol drops the body
        _take_absolute_form(scope)

        timeline = self._tracer.begin(scope["path"], method, headers)
        tracing.current.set(timeline)
        route, status, code = "unknown", 0, None

        async def send_counted(message: Message) -> None:
            nonlocal route, status
            if message["type"] == "http.response.start":
                self._finish_head(message, id_)
                route, status = str(scope.get("path_template", route)), message["status"]
                self._count(route, method, status, code)
            await send(message)

        try:
            self._check_origin(method, headers)
            limit = self._check_body(method, plain_path(scope["path"]), headers)
        except ApiError as error:
            code = error.code
            await _refuse(error, send_counted)
        else:
            await self._inner(scope, _limited(receive, limit), send_counted)
        finally:
            self._tracer.end(
                timeline,
                f"{method} {route}",
                http__request__method=method,
                http__route=route,
                http__response__status_code=status,
                request__id=id_,
            )

    def _finish_head(self, message: Message, id_: str) -> None:
        extra = [(b"x-request-id", id_.encode())]
        if self._is_draining():
            extra.append((b"connection", b"close"))
        message["headers"] = [*message.get("headers", ()), *extra]

    def _check_origin(self, method: str, headers: Headers) -> None:
        host, origin = headers.get(b"host"), headers.get(b"origin")
        self._origins.check(
            method,
            host.decode("latin-1") if host else None,
            origin.decode("latin-1") if origin else None,
        )

    def _check_body(self, method: str, path: str, headers: Headers) -> int:
        """The most bytes that may come."""
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        is_form = kind == b"multipart/form-data"
        limit = self._bodies.of(path, is_form, self._clones())
        if method != "POST":
            return limit
        if self._is_draining():
            message = "The server is shutting down."
            raise ApiError(503, message, code="draining", headers=retry_headers(5))
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            raise ApiError(415, "Send the body without Content-Encoding.", code="content_encoding")
        if kind.startswith(b"multipart/") and not (is_form and path in FORM_PATHS):
            raise ApiError(415, "Send the body as application/json.", code="content_type")
        if int(headers.get(b"content-length", b"0")) > limit:
            raise too_large(limit)
        return limit


def too_large(limit: int) -> ApiError:
    message = f"The body of the request is larger than {limit} bytes, the most for this route."
    return ApiError(413, message, code="body_too_large")


def _limited(receive: Receive, limit: int) -> Receive:
    """Raises a 413 where the body goes on beyond `limit`."""
    num_bytes = 0

    async def receive_limited() -> Any:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            raise too_large(limit)
        return message

    return receive_limited


def _take_absolute_form(scope: Scope) -> None:
    """`GET http://host/path`, as clients behind a badly set proxy send it."""
    if scope["path"].startswith(("http://", "https://")):
        path = scope["path"].split("/", 3)
        scope["path"] = f"/{path[3]}" if len(path) > 3 else "/"
        scope["raw_path"] = b"/" + b"".join(scope["raw_path"].split(b"/", 3)[3:])


async def _refuse(error: ApiError, send: Send) -> None:
    body = msgspec.json.encode(error.envelope())
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    pairs = [(k.encode(), v.encode()) for k, v in {**headers, **error.headers}.items()]
    start = {"type": "http.response.start", "status": error.status, "headers": pairs}
    await send(start)
    await send({"type": "http.response.body", "body": body})
