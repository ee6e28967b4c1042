"""uvicorn's server with our protocol.

It listens before the engine is loaded, closes connections that exceed their time limits, and lets
running answers end before it stops.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Protocol, cast

import uvicorn

from qtts_openai.http.bounds import ConnectionBounds
from qtts_openai.http.protocol import GuardedProtocol, Phase
from qtts_openai.http.websocket_protocol import SocketProtocol
from qtts_openai.settings import ServerSettings, SettingsError

logger = logging.getLogger(__name__)

TICK_S = 0.1  # uvicorn's
CHECK_EVERY = 5
# What is left after the drain has no client any more; it gets this long to notice.
CUT_S = 2
SEND_BUFFER_BYTES = 256 << 10


class Application(Protocol):
    """An ASGI application with Litestar's `state`."""

    state: Any


class Server(uvicorn.Server):
    """`app.state.starting` is the task that loads: once it is done `on_ready` is called, or the
    server ends where it failed. `app.state.draining` is set when a signal has come.
    """

    def __init__(
        self,
        app: Application,
        settings: ServerSettings,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.app, self.drain_s = app, settings.drain_s
        bounds = ConnectionBounds.of(settings)
        config = uvicorn.Config(
            cast(Any, app),
            log_config=None,
            http=cast(Any, partial(GuardedProtocol, bounds=bounds)),
            ws=SocketProtocol,
            ws_max_size=settings.max_message_bytes,
            ws_per_message_deflate=False,  # it costs memory and time, and audio does not shrink
            lifespan="on",
            timeout_keep_alive=cast(Any, settings.keep_alive_s),
            timeout_graceful_shutdown=CUT_S,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            server_header=False,
        )
        super().__init__(config)
        self._on_ready: Callable[[], None] | None = on_ready
        self._last_tick: float | None = None

    async def on_tick(self, counter: int) -> bool:
        self._measure_lag()
        self._watch_start()
        if counter % CHECK_EVERY == 0:
            self._check_connections()
        return await super().on_tick(counter)

    def _measure_lag(self) -> None:
        now = asyncio.get_running_loop().time()
        service = self.app.state.get("service")
        if service is not None and self._last_tick is not None:
            service.metrics.loop_lag.observe(max(0.0, now - self._last_tick - TICK_S))
        self._last_tick = now

    def _watch_start(self) -> None:
        starting: asyncio.Task[None] = self.app.state.starting
        if self._on_ready is None or not starting.done():
            return
        on_ready, self._on_ready = self._on_ready, None
        if starting.cancelled() or starting.exception():
            self.should_exit = True
        else:
            on_ready()

    @property
    def _guarded(self) -> list[GuardedProtocol]:
        """Connections that speak HTTP; a WebSocket's session has bounds of its own."""
        every = self.server_state.connections
        return [one for one in every if isinstance(one, GuardedProtocol)]

    def _check_connections(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in self._guarded:
            connection.check(now)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer monitors (503) while answers end, then stop listening; a second SIGINT or
        drain_s cuts the answers off.
        """
        self.app.state.draining = True
        until = asyncio.get_running_loop().time() + self.drain_s
        while self.num_answers() and not self.force_exit:
            if asyncio.get_running_loop().time() >= until:
                break
            self._check_connections()
            await asyncio.sleep(TICK_S)
        self._cut_answers()
        # uvicorn would leave out the lifespan's end, and with it the engine's.
        self.force_exit = False
        await super().shutdown(sockets)

    def num_answers(self) -> int:
        """Live sessions count while they speak."""
        service = self.app.state.get("service")
        num_live = sum(one.is_speaking for one in service.live) if service is not None else 0
        return num_live + sum(one.phase in (Phase.BODY, Phase.ANSWER) for one in self._guarded)

    def _cut_answers(self) -> None:
        if num := self.num_answers():
            logger.warning("%d answers are cut off", num)
        for connection in self._guarded:
            connection.cut()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Only the first signal is raised again at the end; each would be a KeyboardInterrupt."""
        if not self.should_exit:
            super().handle_exit(sig, frame)
        elif sig == signal.SIGINT:
            self.force_exit = True


def listen(server: ServerSettings) -> socket.socket:
    """A listening socket. Where two processes bind at once the second fails to listen, and says
    so.
    """
    listener = None
    try:
        family, kind, *_, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. The system would let megabytes pile up for who does not read.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        if listener is not None:
            listener.close()
        where = f"{server.host}:{server.port}"
        raise SettingsError(f"server: cannot listen on {where}: {error.strerror}") from error
    return listener


def base_url(listener: socket.socket) -> str:
    """As a client on this machine may use it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
