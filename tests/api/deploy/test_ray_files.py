"""What can be said of the Ray Serve deployment without Ray; tests/ray runs it."""

import asyncio
import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
import yaml

from tests.api.conftest import CUSTOM
from tests.api.fake_engine import FakeEngine, model_info

ROOT = Path(__file__).resolve().parents[3]


class Gauge:
    """Ray's, as far as it is used: what was told, by name and tags."""

    told: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.keys)
        self.told[self.name, *tags.values()] = value


@pytest.fixture
def module(monkeypatch):
    """qtts_openai.ray_serve on a Ray that only has the names it needs."""
    ray = ModuleType("ray")
    ray.serve = SimpleNamespace(  # type: ignore[attr-defined]
        Application=object,
        metrics=SimpleNamespace(Gauge=Gauge),
        ingress=lambda: lambda kind: kind,
        deployment=lambda kind, name: SimpleNamespace(
            bind=lambda *arguments: (name, kind, arguments)
        ),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delitem(sys.modules, "qtts_openai.ray_serve", raising=False)
    yield importlib.import_module("qtts_openai.ray_serve")
    sys.modules.pop("qtts_openai.ray_serve")


def test_both_files_deploy_the_same_and_name_what_there_is(module):
    plain = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text())
    service = yaml.safe_load((ROOT / "deploy/ray/rayservice.yaml").read_text())
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == plain
    (application,) = plain["applications"]
    assert application["import_path"] == "qtts_openai.ray_serve:build"
    (deployment,) = application["deployments"]
    name, kind, arguments = module.build(application["args"])
    assert (name, kind) == (deployment["name"], module.Speech)
    assert arguments == ("/etc/qtts/config.yaml",)
    assert deployment["graceful_shutdown_timeout_s"] > 30, "server.drain_s"


async def test_a_replica_is_healthy_once_it_has_loaded(module, tokenizer_dir, tmp_path):
    engine = FakeEngine([model_info(CUSTOM.id, tokenizer_dir)])

    class Humming(module.Speech):
        def engine(self, settings):
            return engine

    (tmp_path / "config.yaml").write_text(
        f"models: [{{id: {CUSTOM.id}, checkpoint: unused}}]\nvoices: {{directory: {tmp_path}}}\n"
    )
    replica = Humming(str(tmp_path / "config.yaml"))
    app = replica.__serve_build_asgi_app__()
    messages: asyncio.Queue = asyncio.Queue()
    told: asyncio.Queue = asyncio.Queue()
    loading = asyncio.Event()
    begin = engine.start

    async def start() -> None:
        await loading.wait()
        await begin()

    engine.start = start
    lifespan = asyncio.create_task(app({"type": "lifespan"}, messages.get, told.put))
    await messages.put({"type": "lifespan.startup"})
    assert (await told.get())["type"] == "lifespan.startup.complete"
    health = asyncio.create_task(replica.check_health())
    await asyncio.sleep(0.05)
    assert not health.done(), "nothing is sent to a replica that still loads"
    loading.set()
    await health
    assert Gauge.told["qtts_engine_ready",] == 1
    assert Gauge.told["qtts_ttfa_seconds_bucket", "+Inf"] == 0
    assert not [name for name, *_ in Gauge.told if ":" in name or "created" in name]
    answer: list[dict] = []

    async def send(message: dict) -> None:
        answer.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/v1/models", "raw_path": b"/v1/models",
        "query_string": b"", "root_path": "", "headers": [(b"host", b"127.0.0.1")],
        "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await app(scope, lambda: asyncio.sleep(0, {"type": "http.request"}), send)
    assert answer[0]["status"] == 200
    assert b"x-request-id" not in dict(answer[0]["headers"]), "the proxy writes it"
    engine.status = "dead"
    with pytest.raises(RuntimeError, match="dead"):
        await replica.check_health()
    await messages.put({"type": "lifespan.shutdown"})
    assert (await told.get())["type"] == "lifespan.shutdown.complete"
    await lifespan
    assert engine.drained and engine.closed


async def test_a_replica_that_cannot_load_is_not_healthy(module, tokenizer_dir, tmp_path):
    engine = FakeEngine([])
    engine.start_error = RuntimeError("no such checkpoint")

    class Broken(module.Speech):
        def engine(self, settings):
            return engine

    (tmp_path / "config.yaml").write_text(f"voices: {{directory: {tmp_path}}}\n")
    replica = Broken(str(tmp_path / "config.yaml"))
    app = replica.__serve_build_asgi_app__()
    messages: asyncio.Queue = asyncio.Queue()
    told: asyncio.Queue = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan"}, messages.get, told.put))
    await messages.put({"type": "lifespan.startup"})
    await told.get()
    with pytest.raises(RuntimeError, match="no such checkpoint"):
        await replica.check_health()
    await messages.put({"type": "lifespan.shutdown"})
    await lifespan
