"""uvicorn's protocol for WebSockets, which never keeps a closed connection for ever and lets an
application refuse the upgrade without a warning in the log.
"""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# What was written last may take so long to be read; then the connection is no more.
LINGER_S = 10.0


class SocketProtocol(WebSocketsSansIOProtocol):
    async def run_asgi(self) -> None:
        """A client that reads nothing would keep a connection that is closed for ever."""
        await super().run_asgi()
        self.loop.call_later(LINGER_S, self.transport.abort)

    async def send(self, message: Any) -> None:
        await super().send(message)
        is_refused = message["type"] == "websocket.http.response.body"
        if is_refused and not message.get("more_body"):
            # Otherwise a refusal with a status would be logged as the application's failure.
            self.handshake_complete = True
