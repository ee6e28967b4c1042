"""`qtts serve` as a process of its own: the port, signals, and what it says."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

BODY = {"model": "tts-1", "voice": "alloy", "input": "word " * 60, "response_format": "pcm"}

CODE = """
    import sys
    from engine import CheckpointError
    from qtts_openai import commands
    from qtts_openai.__main__ import main
    from tests.api.fake_engine import FakeEngine, model_info

    def client(config, specs):
        engine = FakeEngine([model_info("qtts-embedded", {tokenizer!r})])
        {behaviour}
        return engine

    commands.EngineClient = client
    sys.exit(main(["serve", "--port", {port!r}]))
"""


@contextmanager
def process(tokenizer, cwd, port, behaviour="pass") -> Iterator[subprocess.Popen[str]]:
    code = textwrap.dedent(CODE).format(tokenizer=str(tokenizer), port=port, behaviour=behaviour)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root, "QTTS_API_KEYS": "secret-key"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with running:
            yield running
    finally:
        running.kill()


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def post(port: str) -> httpx.Response:
    headers = {"authorization": "Bearer secret-key"}
    return httpx.post(f"http://127.0.0.1:{port}/v1/audio/speech", json=BODY, headers=headers)


def wait_ready(port: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            assert httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "ready"
            return
        except httpx.ConnectError:
            time.sleep(0.05)
    pytest.fail("not ready")


def test_sigterm_lets_answers_end_and_is_a_clean_exit(tokenizer_dir, tmp_path):
    port = free_port()
    with process(tokenizer_dir, tmp_path, port, "engine.chunk_delay_s = 0.1") as running:
        wait_ready(port)
        whole = len(post(port).content)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(post, port)
            time.sleep(0.3)
            running.send_signal(signal.SIGTERM)
            assert len(answer.result(10).content) == whole
        assert running.wait(10) == 0
        log = running.stderr.read()
    assert "ready: base_url" in log and f":{port}/v1" in log
    assert "Traceback" not in log and "secret-key" not in log


def test_a_broken_answer_is_one_line_in_the_log(tokenizer_dir, tmp_path):
    port = free_port()
    with process(tokenizer_dir, tmp_path, port, "engine.fail_after = 2") as running:
        wait_ready(port)
        with pytest.raises(httpx.RemoteProtocolError):
            post(port)
        running.send_signal(signal.SIGTERM)
        log = running.communicate(timeout=10)[1]
    assert "speech broke off after its start: EngineDeadError: the worker is gone" in log
    assert "Traceback" not in log


def test_a_checkpoint_that_cannot_be_loaded_is_one_line(tokenizer_dir, tmp_path):
    behaviour = "engine.start_error = CheckpointError('/x/config.json is missing')"
    with process(tokenizer_dir, tmp_path, free_port(), behaviour) as running:
        log = running.communicate(timeout=20)[1]
        assert running.returncode == 1
    assert log == "qtts: /x/config.json is missing\n"


def test_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path):
    with process(tmp_path, tmp_path, free_port()) as running:
        log = running.communicate(timeout=20)[1]
        assert running.returncode == 1
    assert log.startswith("qtts: ") and "vocab.json is missing" in log and log.count("\n") == 1


def test_a_reload_signal_reads_the_keys_again_and_ends_nothing(tokenizer_dir, tmp_path):
    port, keys = free_port(), tmp_path / "keys"
    keys.write_text("mine: from-file\n")
    (tmp_path / "config.yaml").write_text("auth: {keys_file: keys}\n")
    with process(tokenizer_dir, tmp_path, port) as running:
        wait_ready(port)
        keys.write_text("other: another\n")
        running.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert post(port).status_code == 200, "the variable's key stays"
        old = httpx.get(
            f"http://127.0.0.1:{port}/v1/models", headers={"authorization": "Bearer from-file"}
        )
        assert old.status_code == 401
        running.send_signal(signal.SIGTERM)
        log = running.communicate(timeout=10)[1]
        assert running.returncode == 0
    assert "auth.keys_file was read: 2 keys, 1 new, 1 gone" in log
    assert "from-file" not in log and "another" not in log


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("auth: {keys_file: keys}", "auth.keys_file: keys holds no key"),
        ("defaults: {voice: nosuch}", "config.yaml: defaults.voice: There is no voice 'nosuch'"),
    ],
)
def test_settings_that_cannot_work_are_one_line(tokenizer_dir, tmp_path, config, told):
    (tmp_path / "keys").write_text("# none\n")
    (tmp_path / "config.yaml").write_text(f"{config}\n")
    with process(tokenizer_dir, tmp_path, free_port()) as running:
        log = running.communicate(timeout=20)[1]
        assert running.returncode == 1
    assert f"qtts: {told}" in log and "Traceback" not in log


def test_a_port_in_use_is_told_before_loading(tokenizer_dir, tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        process(tokenizer_dir, tmp_path, str(taken.getsockname()[1])) as running,
    ):
        log = running.communicate(timeout=20)[1]
        assert running.returncode == 1
    assert "server: cannot listen on 127.0.0.1" in log and "Traceback" not in log
