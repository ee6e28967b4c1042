"""deploy/proxy/nginx.conf in a real nginx in front of a server: nothing is held back."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from websockets.sync.client import connect

from tests.api.speech.test_streaming import LONG, wait_until

ROOT = Path(__file__).resolve().parents[3]
PROXY = ROOT / "deploy" / "proxy"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx; apt-get install nginx-light")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Nginx:
    def __init__(self, directory: Path, upstreams: list[str]) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        text = (PROXY / "nginx.conf").read_text()
        servers = "".join(f"server {one} max_fails=0;" for one in upstreams)
        line = "    server 127.0.0.1:8000 max_fails=2 fail_timeout=5s;"
        assert line in text and "listen 8080;" in text
        text = text.replace(line, servers).replace("listen 8080;", f"listen 127.0.0.1:{port};")
        paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{one}_temp_path {directory}/{one};" for one in paths)
        whole = f"daemon off; master_process off; pid {directory}/pid; error_log {directory}/log;"
        whole += f"events {{}} http {{ access_log off; {temporary}\n{text}\n}}"
        (directory / "nginx.conf").write_text(whole)
        command = [NGINX, "-c", str(directory / "nginx.conf"), "-e", str(directory / "log")]
        self.process = subprocess.Popen([*command, "-p", str(directory)])
        for _ in range(200):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    return
            assert self.process.poll() is None, (directory / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


def address(server) -> str:
    return server.url.removeprefix("http://")


@pytest.fixture
def proxied(server, tmp_path) -> Iterator[httpx.Client]:
    nginx = Nginx(tmp_path, [address(server)])
    try:
        with httpx.Client(base_url=nginx.url, timeout=20) as client:
            yield client
    finally:
        nginx.stop()


def body(**fields: object) -> dict[str, object]:
    return {"model": "tts-1", "voice": "alloy", "input": LONG, "response_format": "pcm", **fields}


@pytest.mark.parametrize("fields", [{}, {"stream_format": "sse"}], ids=["audio", "sse"])
def test_sound_passes_as_it_is_made(server, proxied, fields):
    server.engine.chunk_delay_s = 0.1
    with proxied.stream("POST", "/v1/audio/speech", json=body(**fields)) as answer:
        assert answer.status_code == 200
        times = [time.monotonic() for _ in answer.iter_raw()]
    server.engine.behave()
    assert len(times) >= 5, "in pieces"
    assert times[-1] - times[0] > 0.3, "not all at the end"


def test_the_engine_stops_when_the_listener_leaves(server, proxied):
    server.engine.chunk_delay_s = 0.1
    with proxied.stream("POST", "/v1/audio/speech", json=body(input=LONG * 10)) as answer:
        pieces = answer.iter_raw()  # kept: httpx hangs up when it is forgotten
        next(pieces)
        assert server.engine.live
    wait_until(lambda: not server.engine.live)


def test_a_broken_answer_stays_broken(server, proxied):
    server.engine.fail_after = 2
    with pytest.raises(httpx.RemoteProtocolError):
        proxied.post("/v1/audio/speech", json=body())


def test_request_ids_are_taken_or_made(server, proxied):
    given = proxied.get("/health", headers={"x-request-id": "mine-1"})
    assert given.headers.get_list("x-request-id") == ["mine-1"]
    assert len(proxied.get("/health").headers["x-request-id"]) == 32


def test_large_uploads_reach_the_servers_own_limit(server, proxied):
    answer = proxied.post("/v1/audio/speech", json=body(input="x" * 300_000))
    assert answer.status_code in (400, 413) and "error" in answer.json()


def test_a_server_that_drains_is_passed_over(start, tmp_path):
    one, other = start(), start()
    nginx = Nginx(tmp_path, [address(one), address(other)])
    try:
        one.uvicorn.app.state.draining = True
        with httpx.Client(base_url=nginx.url, timeout=20) as client:
            for _ in range(6):
                assert client.post("/v1/audio/speech", json=body(input="Hi.")).status_code == 200
        assert len(other.engine.submitted) == 6 and not one.engine.submitted
    finally:
        nginx.stop()


def test_live_text_passes_and_its_sound_comes_back(server, proxied):
    """Sound comes while the text is still open, so both directions pass at once."""
    url = str(proxied.base_url).replace("http", "ws").rstrip("/") + "/v1/audio/speech/stream"
    with connect(url, proxy=None) as client:
        config = {"voice": "alloy", "response_format": "pcm", "stream_audio": True}
        client.send(json.dumps({"type": "session.config", **config}))
        assert json.loads(client.recv(20))["type"] == "session.configured"
        client.send(json.dumps({"type": "input.text", "text": "Hello there, my friend. "}))
        while not isinstance(message := client.recv(20), bytes):
            assert json.loads(message)["type"] != "error", message
        client.send(json.dumps({"type": "input.done"}))
        while isinstance(message, bytes) or json.loads(message)["type"] != "session.done":
            message = client.recv(20)
    wait_until(lambda: not server.engine.live)


def test_envoys_file_names_what_there_is():
    tree = yaml.safe_load((PROXY / "envoy.yaml").read_text())
    text = json.dumps(tree)
    (cluster,) = tree["static_resources"]["clusters"]
    assert cluster["health_checks"][0]["http_health_check"]["path"] == "/ready"
    assert '"timeout": "0s"' in text and "filters.http.buffer" not in text
