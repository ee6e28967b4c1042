"""A server as a process of its own, on an engine that hums, with a Base model: what is fuzzed."""

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from engine.dummy.tokenizer import write_random_tokenizer
from tests.api.test_serve import free_port

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
models: [{id: tts-1, checkpoint: unused}, {id: base, checkpoint: unused}]
server: {log_level: error}
voices: {max_voices: 100000}
"""

CODE = """
    import sys
    from qtts_openai import cli as commands
    from qtts_openai.__main__ import main
    from tests.api.fake_engine import FakeEngine, model_info

    class Forgetful(list):  # so that memory which grows is the server's
        def append(self, one):
            pass

    def client(config, specs):
        names = {{"tts-1": "custom_voice", "base": "base"}}
        engine = FakeEngine([model_info(name, {tokenizer!r}, kind) for name, kind in names.items()])
        engine.chunk_delay_s = {chunk_delay_s!r}
        engine.submitted, engine.streams, engine.leads_s = Forgetful(), Forgetful(), Forgetful()
        return engine

    commands.EngineClient = client
    sys.exit(main(["serve", "--port", {port!r}]))
"""


class Failure(Exception):
    """What must not come."""


class Running:
    """`log`: what the server wrote; it is asked for errors only."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.log = process, log
        self.http = httpx.Client(base_url=url, timeout=30)

    def rss_mb(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def metric_lines(self, prefix: str) -> list[str]:
        lines = self.http.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith(prefix) and "_created" not in line]


@contextmanager
def serving(directory: Path, config: str = CONFIG, chunk_delay_s: float = 0.0) -> Iterator[Running]:
    tokenizer = directory / "tokenizer"
    tokenizer.mkdir()
    write_random_tokenizer(tokenizer)
    (directory / "config.yaml").write_text(config)
    port = free_port()
    code = textwrap.dedent(CODE).format(
        tokenizer=str(tokenizer), port=port, chunk_delay_s=chunk_delay_s
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    log = directory / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=directory, env=environment, stderr=errors
        )
    running = Running(process, f"http://127.0.0.1:{port}", log)
    try:
        _wait(running)
        yield running
    finally:
        running.http.close()
        process.terminate()
        process.wait(40)


def _wait(running: Running) -> None:
    for _ in range(600):
        assert running.process.poll() is None, "the server ended"
        try:
            running.http.get("/health").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("the server is not ready")
