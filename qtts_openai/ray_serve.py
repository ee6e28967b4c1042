"""The server as a Ray Serve deployment: `serve run deploy/ray/serve.yaml`, which names `build`.

One replica is one server with its own engine; Ray's proxy is in front. What servers share (voices,
limits) they share as several servers do: docs/scaling.md.
"""

import asyncio
from typing import Any

from ray import serve

from engine import EngineClient
from qtts_openai.app import App, create_app
from qtts_openai.http.asgi import ASGIApp, Message, Receive, Scope, Send
from qtts_openai.http.request_id import set_up_logging
from qtts_openai.settings import Settings
from qtts_openai.settings_file import load_settings


class Speech:
    """`config`: path of the settings on the replica's machine, which find it as the server does."""

    def __init__(self, config: str | None = None) -> None:
        self.settings = load_settings(config)
        self.server: App | None = None
        self._gauges: dict[str, Any] = {}

    def engine(self, settings: Settings) -> EngineClient:
        return EngineClient(settings.engine, settings.specs())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        server = self.settings.server
        set_up_logging(server.log_level, as_json=server.json_logs)
        self.server = create_app(self.settings, self.engine(self.settings))
        return _without_request_id(self.server)

    async def check_health(self) -> None:
        """Raises where Ray should replace this replica. The first one lasts as long as loading, so
        that nothing is sent to a replica that cannot speak yet.
        """
        assert self.server is not None
        await asyncio.shield(self.server.state.starting)
        if self.server.state.engine.status == "dead":
            raise RuntimeError("the engine is dead")
        self._report()

    def _report(self) -> None:
        """Our metrics to Ray's, which tell replicas apart; /metrics of the proxy is any one's."""
        assert self.server is not None
        families = self.server.state.service.metrics.registry.collect()
        for sample in (sample for family in families for sample in family.samples):
            if ":" in sample.name or sample.name.endswith("_created"):  # vLLM's names are not Ray's
                continue
            if sample.name not in self._gauges:
                gauge = serve.metrics.Gauge(sample.name, tag_keys=tuple(sample.labels))
                self._gauges[sample.name] = gauge
            self._gauges[sample.name].set(sample.value, dict(sample.labels))


def _without_request_id(app: ASGIApp) -> ASGIApp:
    """The proxy makes the id, which is ours then, and writes it into the answer itself."""

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                pairs = message["headers"]
                message["headers"] = [pair for pair in pairs if pair[0] != b"x-request-id"]
            await send(message)

        await app(scope, receive, tell)

    return inner


def build(arguments: dict[str, Any], kind: type[Speech] = Speech) -> serve.Application:
    """`arguments`: what serve.yaml has under `args`."""
    deployment = serve.deployment(serve.ingress()(kind), name="speech")
    return deployment.bind(arguments.get("config"))
