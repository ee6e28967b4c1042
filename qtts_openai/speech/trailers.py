"""A streamed answer that ends with trailers, where its client reads them."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from litestar.response import Stream
from litestar.types import ASGIApp, Receive, Scope, Send


class StreamWithTrailers(Stream):
    """With how the speech ended in trailers, where the client reads them and the HTTP server can
    send them (of uvicorn's, only that for HTTP/2 can).
    """

    def __init__(
        self, ending: Callable[[], dict[str, str]], content: AsyncIterator[bytes], **options: Any
    ) -> None:
        super().__init__(content, **options)
        self._ending = ending

    def to_asgi_response(self, *args: Any, **options: Any) -> ASGIApp:  # type: ignore[override]
        answer, ending = super().to_asgi_response(*args, **options), self._ending

        async def answer_with_trailers(scope: Scope, receive: Receive, send: Send) -> None:
            sends_trailers = _reads_trailers(scope)
            await answer(scope, receive, _with_trailers(send, ending) if sends_trailers else send)

        return answer_with_trailers


def _reads_trailers(scope: Scope) -> bool:
    accepted = (value for name, value in scope["headers"] if name.lower() == b"te")
    return "http.response.trailers" in (scope.get("extensions") or {}) and any(
        b"trailers" in value.lower() for value in accepted
    )


def _with_trailers(send: Send, ending: Callable[[], dict[str, str]]) -> Send:
    async def tell(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["trailers"] = True
        await send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            headers = [(name.encode(), value.encode()) for name, value in ending().items()]
            trailers: Any = {
                "type": "http.response.trailers",
                "headers": headers,
                "more_trailers": False,
            }
            await send(trailers)

    return tell
