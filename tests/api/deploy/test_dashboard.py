"""The dashboard's and the alerts' queries, by a real Prometheus that scrapes a real server."""

import contextlib
import json
import math
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.attack.conftest import Victim, serving

ROOT = Path(__file__).resolve().parents[3]
PROMETHEUS = shutil.which("prometheus")
WAIT_S = 120

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus; apt-get install prometheus"),
]


@pytest.fixture(scope="module")
def victim(tmp_path_factory) -> Iterator[Victim]:
    model = {"id": "qtts-embedded", "checkpoint": "embedded", "aliases": ["tts-1"]}
    with serving(tmp_path_factory.mktemp("server"), None, {"models": [model]}) as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(victim, tmp_path_factory) -> Iterator[httpx.Client]:
    """Set up as deploy/monitoring does, but that it looks every second."""
    directory = tmp_path_factory.mktemp("prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy/helm/qtts/rules.yaml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{victim.port}"]}]
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    command = [str(PROMETHEUS), f"--config.file={directory}/config.yaml"]
    command += [f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}"]
    command += ["--enable-feature=exemplar-storage"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1", trust_env=False) as client:
            wait_ready(process, f"http://{address}/-/ready")
            yield client
    finally:
        process.kill()
        process.wait(10)


def wait_ready(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        assert process.poll() is None, "Prometheus ended"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("Prometheus is not ready")


def panels() -> dict[str, str]:
    dashboard = json.loads((ROOT / "deploy/monitoring/dashboard.json").read_text())
    return {
        f"{panel['title']}: {target.get('legendFormat')}": target["expr"]
        .replace("$instance", ".*")
        .replace("$__rate_interval", "1m")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def has_data(prometheus: httpx.Client, query: str) -> bool:
    """Numbers, and where something is counted that happens here, more than none."""
    answer = prometheus.get("/query", params={"query": query})
    assert answer.status_code == 200, answer.text
    values = [float(one["value"][1]) for one in answer.json()["data"]["result"]]
    least = 0.0 if "rate(" in query and "underruns" not in query else -1.0
    return any(math.isfinite(value) and value > least for value in values)


def test_every_panel_shows_what_happens(victim, prometheus):
    missing, until = panels(), time.monotonic() + WAIT_S
    assert len(missing) > 10
    while missing and time.monotonic() < until:
        assert victim.speak(max_new_tokens=3).status_code == 200
        assert victim.speak(voice="nobody").status_code == 400
        missing = {one: query for one, query in missing.items() if not has_data(prometheus, query)}
        time.sleep(0.3)
    assert not missing
    choices = prometheus.get("/label/instance/values", params={"match[]": "qtts_engine_ready"})
    assert choices.json()["data"] == [f"127.0.0.1:{victim.port}"]


def test_every_alert_can_be_evaluated(prometheus):
    until = time.monotonic() + WAIT_S
    while True:
        groups = prometheus.get("/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        if all(rule["health"] != "unknown" for rule in rules) or time.monotonic() > until:
            break
        time.sleep(0.3)
    assert len(rules) >= 5
    assert {rule["health"] for rule in rules} == {"ok"}, rules
