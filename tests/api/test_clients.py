"""Third-party clients against a real socket. They live in .venv-clients (Python and Node packages),
since what they ask for must not decide what the server runs with. `make clients` sets that up.
"""

import json
import os
import shutil
import socket
import subprocess
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.clients

SCRIPTS = Path(__file__).parent / "clients"
HOME = Path(os.environ.get("QTTS_CLIENTS", Path(__file__).parents[2] / ".venv-clients"))


def run(command: list[str], **options: Any) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def python(script: str, url: str) -> dict[str, Any]:
    interpreter = HOME / "bin" / "python"
    if not interpreter.exists():
        pytest.skip(f"no {interpreter}")
    return run([str(interpreter), str(SCRIPTS / script), url])


def node(script: str, url: str, folder: Path) -> dict[str, Any]:
    """Node looks for packages beside the script, so it runs from a folder beside them."""
    packages = HOME / "node_modules"
    if shutil.which("node") is None or not packages.exists():
        pytest.skip(f"no node or no {packages}")
    (folder / "node_modules").symlink_to(packages)
    shutil.copy(SCRIPTS / script, folder)
    return run(["node", str(folder / script), url])


@pytest.fixture
def spoken_s(server) -> float:
    """How long the test's sentence is."""
    answer = server.speak(input="Hello there, this is a test.", response_format="pcm")
    return len(answer.content) / 2 / 24000


def test_livekit(server, spoken_s):
    found = python("livekit_client.py", server.base_url)
    assert found.pop("error") == 400
    for kind, seconds in found.items():
        assert seconds == pytest.approx(spoken_s, abs=0.2), kind
    assert len(found) == 8


def test_pipecat(server, spoken_s):
    found = python("pipecat_client.py", server.base_url)
    assert found == {voice: pytest.approx(spoken_s, abs=0.01) for voice in ("alloy", "marin")}


def test_openai_agents(server, spoken_s):
    found = python("agents_client.py", server.base_url)
    assert found["default"] == found["cleared"] == pytest.approx(spoken_s, abs=0.01)
    assert found["fast"] == pytest.approx(spoken_s / 2, rel=0.1)
    assert all(prompt.instruct == () for _, prompt, _, _ in server.engine.submitted)


def test_litellm(server):
    found = python("litellm_client.py", server.base_url)
    assert found["mp3"] > 5000 and found["wav"] > 30_000 and found["error"] == 404


def test_openai_for_node(trio, spoken_s, tmp_path):
    """It makes a voice from a description, too."""
    found = node("openai_client.mjs", trio.base_url, tmp_path)
    assert found["mp3"] > 5000 and found["pcm"] == round(spoken_s * 48000) and found["reads"] > 1
    assert found["done"] and found["deleted"] is True
    assert (found["status"], found["param"], found["id"]) == (400, "voice", True)
    assert "tts-1" in found["models"]


def test_vercel_ai_sdk(server, tmp_path):
    found = node("ai_sdk_client.mjs", server.base_url, tmp_path)
    types = {name: found[name]["type"] for name in ("mp3", "wav", "flac")}
    assert types == {"mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac"}
    assert (found["status"], found["retry"]) == (400, False)
    assert "nobody" in found["message"]


def test_what_opens_audio_files(server, spoken_s):
    """Streamed and whole: ffmpeg, pydub, soundfile, mutagen, wave."""
    found = python("audio_readers.py", server.base_url)
    assert len(found) == 42
    for what, seconds in found.items():
        # AAC and MP3 have frames of a fixed length and a delay.
        assert seconds == pytest.approx(spoken_s, abs=0.15), what


@pytest.mark.parametrize("version", ["HTTP_1_1", "HTTP_2"])
def test_the_jdks_own_client(server, spoken_s, version):
    """By default it asks for HTTP/2 with an Upgrade header in front of the body."""
    if shutil.which("java") is None:
        pytest.skip("no java")
    found = run(["java", str(SCRIPTS / "StockClient.java"), server.base_url, version])
    assert found == {"status": 200, "bytes": round(spoken_s * 48000)}


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_curl(server, spoken_s, version, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    out = tmp_path / "speech.pcm"
    body = {"model": "tts-1", "voice": "alloy", "response_format": "pcm"}
    body["input"] = "Hello there, this is a test."
    command = ["curl", "-sS", version, "-o", str(out), "-w", '{"status": %{http_code}}\n']
    command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    assert run([*command, f"{server.base_url}/audio/speech"]) == {"status": 200}
    assert out.stat().st_size == round(spoken_s * 48000)


FIELDS = {"model": "tts-1", "voice": "alloy", "response_format": "pcm"}
SENTENCE = json.dumps({**FIELDS, "input": "Hello there, this is a test."}).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SENTENCE), SENTENCE)
LENGTH = b"Content-Length: %d\r\n" % len(SENTENCE)
# Heads and bodies as these clients write them, and what of it comes in a packet of its own.
WIRE_SHAPES = {
    # HttpClient with JsonContent: chunked, the body after the head.
    ".net": (
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/json; charset=utf-8\r\n\r\n",
        CHUNKED,
    ),
    # HttpWebRequest, and HttpClient where it is told so: waits for 100 before the body.
    ".net expects": (
        b"POST /v1/audio/speech HTTP/1.1\r\nContent-Type: application/json\r\nHost: %b\r\n"
        + LENGTH
        + b"Expect: 100-continue\r\n\r\n",
        SENTENCE,
    ),
    "go": (
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: %b\r\nUser-Agent: Go-http-client/1.1\r\n"
        + LENGTH
        + b"Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
        + SENTENCE,
    ),
    "go, of a reader": (
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: %b\r\nUser-Agent: Go-http-client/1.1\r\n"
        b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n"
        b"Accept-Encoding: gzip\r\n\r\n",
        CHUNKED,
    ),
    # file_get_contents with a stream context, 1.0 before PHP 8.4 and 1.1 since.
    "php 1.0": (
        b"POST /v1/audio/speech HTTP/1.0\r\nHost: %b\r\nConnection: close\r\n"
        + LENGTH
        + b"Content-Type: application/json\r\n\r\n"
        + SENTENCE,
    ),
    "php 1.1": (
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n"
        b"Content-type: application/json\r\n" + LENGTH + b"\r\n",
        SENTENCE,
    ),
}


@pytest.mark.parametrize("client", WIRE_SHAPES)
def test_wire_shapes(server, spoken_s, client):
    host = server.url.removeprefix("http://")
    first, *later = WIRE_SHAPES[client]
    with socket.create_connection(host.split(":"), timeout=20) as connection:
        connection.sendall(first.replace(b"%b", host.encode(), 1))
        if b"Expect" in first:
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        for part in later:
            connection.sendall(part)
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200 and answer.getheader("content-encoding") is None
        assert len(answer.read()) == round(spoken_s * 48000)
