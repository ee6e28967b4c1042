"""A real server, as `qtts serve` starts it, and a witness beside it.

`victim` is one process with the embedded voice and a model of each family for all attacks of a run
(all but one are random and tiny); `attacked` hands it out
and holds after each test that the same process still answers. `victims(settings...)` starts others.
While a test attacks, `victim.watched()` asks /live every 50 ms and reads memory:

    with attacked.watched() as seen:
        ...
    assert seen.longest_wait_s < 1 and seen.rss_growth_mb < 50
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from engine.dummy.checkpoint import write_random_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PROBE_S = 0.05
START_S = 120.0
# Resource limits are set in the child.
LIMITED = "import resource as r, runpy; r.setrlimit(r.RLIMIT_NOFILE, ({n}, {n})); "
SERVE = "runpy.run_module('qtts_openai', run_name='__main__')"


class Seen:
    """What the witness saw."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []
        self.failures = 0
        self.rss_growth_mb = 0.0

    @property
    def longest_wait_s(self) -> float:
        assert self.waits_s, "the server answered none of the probes"
        return max(self.waits_s)


class Victim:
    def __init__(self, process: subprocess.Popen, port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        self.url = f"http://127.0.0.1:{port}"

    def connect(self, timeout_s: float = 30.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)

    def speak(self, **fields: object) -> httpx.Response:
        body = {"model": "tts-1", "voice": "alloy", "input": "Hi.", **fields}
        return httpx.post(f"{self.url}/v1/audio/speech", json=body, timeout=60)

    def upload(self, data: bytes, name: str = "n", key: str = "", **fields: str) -> httpx.Response:
        """A voice made from a sample."""
        fields = {"name": name, "consent": "I am the speaker and I agree.", **fields}
        return httpx.post(
            f"{self.url}/v1/audio/voices",
            data=fields,
            files={"audio_sample": ("a.wav", data, "audio/wav")},
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=60,
        )

    def send(self, data: bytes, timeout_s: float = 30.0) -> bytes:
        """What is answered to raw bytes, until the server closes or says no more for a second."""
        with self.connect(timeout_s) as client:
            with contextlib.suppress(OSError):
                client.sendall(data)
            answer = b""
            with contextlib.suppress(OSError):
                while piece := client.recv(1 << 16):
                    answer += piece
                    client.settimeout(1)
            return answer

    def worker(self) -> int:
        """The engine's process."""
        for child in map(
            int,
            Path(f"/proc/{self.process.pid}/task")
            .joinpath(str(self.process.pid), "children")
            .read_text()
            .split(),
        ):
            if b"engine.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        raise AssertionError("there is no worker")

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def num_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def probe_s(self) -> float:
        """How long GET /live takes on a new connection."""
        started = time.perf_counter()
        with self.connect() as probe:
            probe.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert probe.recv(12) == b"HTTP/1.1 200"
        return time.perf_counter() - started

    @contextmanager
    def watched(self) -> Iterator[Seen]:
        seen, stop, before = Seen(), threading.Event(), self.rss_mb()

        def watch() -> None:
            while True:  # once at least, however short the attack
                try:
                    seen.waits_s.append(self.probe_s())
                except (OSError, AssertionError):
                    seen.failures += 1
                seen.rss_growth_mb = max(seen.rss_growth_mb, self.rss_mb() - before)
                if stop.wait(PROBE_S):
                    return

        witness = threading.Thread(target=watch)
        witness.start()
        try:
            yield seen
        finally:
            stop.set()
            witness.join()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        pytest.fail(f"not ready: {self.log.read_text()}")


@contextmanager
def serving(directory: Path, max_files: int | None, settings: dict) -> Iterator[Victim]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config, log = directory / "config.yaml", directory / "log"
    voices = {"directory": str(directory / "data"), **settings.pop("voices", {})}
    server = {"port": port, **settings.pop("server", {})}
    engine = {"threads": 1, **settings.pop("engine", {})}  # measuring takes seconds
    sections = {"server": server, "voices": voices, "engine": engine, **settings}
    config.write_text(json.dumps(sections))  # JSON is YAML
    limit = LIMITED.format(n=max_files) if max_files else "import runpy; "
    code = f"import sys; sys.argv = ['qtts', 'serve', '--config', {str(config)!r}]; {limit}{SERVE}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QTTS_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=directory,
            env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=output,
        )
    try:
        victim = Victim(process, port, log)
        victim.wait_ready()
        yield victim
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Victim]]:
    """victims(max_files=64, server={...}, ...) -> Victim; the sections are those of config.yaml."""
    with ExitStack() as stack:

        def start(max_files: int | None = None, **settings: object) -> Victim:
            directory = tmp_path_factory.mktemp("victim")
            return stack.enter_context(serving(directory, max_files, dict(settings)))

        yield start


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """`models` of a server: the embedded voice, and one of each family."""
    directory = tmp_path_factory.mktemp("families")
    embedded = {"id": "qtts-embedded", "checkpoint": "embedded", "segment_chars": 150}
    models: list[dict] = [{**embedded, "aliases": ["tts-1"]}]
    for family in ("custom_voice", "voice_design", "base"):
        write_random_checkpoint(directory / family, model_type=family, shape="tiny-0b6", seed=1)
        models.append({"id": family, "checkpoint": str(directory / family)})
    return models


@pytest.fixture(scope="session")
def victim(victims: Callable[..., Victim], families: list[dict]) -> Victim:
    times = {"head_timeout_s": 2, "body_timeout_s": 2, "write_timeout_s": 2}
    return victims(server=times, models=families)


@pytest.fixture
def attacked(victim: Victim) -> Iterator[Victim]:
    before = len(victim.log.read_text())
    yield victim
    assert victim.process.poll() is None, victim.log.read_text()[before:]
    assert victim.speak(max_new_tokens=3).status_code == 200
    assert "Traceback" not in victim.log.read_text()[before:]
