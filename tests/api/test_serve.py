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
from contextlib import ExitStack, contextmanager

import httpx
import pytest

BODY = {"model": "tts-1", "voice": "alloy", "input": "word " * 60, "response_format": "pcm"}

CODE = """
    import sys
    from engine import CheckpointError
    from qtts_openai import cli as commands
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
    with running:
        try:
            yield running
        finally:
            running.kill()


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def post(port: str) -> httpx.Response:
    headers = {"authorization": "Bearer secret-key"}
    return httpx.post(f"http://127.0.0.1:{port}/v1/audio/speech", json=BODY, headers=headers)


def streaming(port: str):
    """An answer that has begun."""
    headers = {"authorization": "Bearer secret-key"}
    url = f"http://127.0.0.1:{port}/v1/audio/speech"
    return httpx.stream("POST", url, json=BODY, headers=headers, timeout=20)


def wait_ready(port: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                return
        except httpx.ConnectError:
            pass
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


def without_news(log: str) -> str:
    """What is left of a log without its INFO lines, such as the one that counts the keys."""
    return "".join(line for line in log.splitlines(keepends=True) if " INFO " not in line)


def test_a_checkpoint_that_cannot_be_loaded_is_one_line(tokenizer_dir, tmp_path):
    behaviour = "engine.start_error = CheckpointError('/x/config.json is missing')"
    with process(tokenizer_dir, tmp_path, free_port(), behaviour) as running:
        log = running.communicate(timeout=20)[1]
        assert running.returncode == 1
    assert without_news(log) == "qtts: /x/config.json is missing\n"


def test_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path):
    with process(tmp_path, tmp_path, free_port()) as running:
        log = running.communicate(timeout=20)[1]
        assert running.returncode == 1
    log = without_news(log)
    assert log.startswith("qtts: ") and "vocab.json is missing" in log and log.count("\n") == 1


def test_a_reload_signal_reads_the_keys_again_and_ends_nothing(tokenizer_dir, tmp_path):
    port, keys = free_port(), tmp_path / "keys"
    keys.write_text("mine: from-file\n")
    config = tmp_path / "config.yaml"
    config.write_text("auth: {keys_file: keys}\n")
    with process(tokenizer_dir, tmp_path, port) as running:
        wait_ready(port)
        keys.write_text("other: another\n")
        config.write_text("auth: {keys_file: keys}\nvoices: {aliases: {wink: ryan, alloy: ryan}}\n")
        running.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        answer = post(port)
        assert answer.status_code == 200, answer.text  # the variable's key stays
        old = httpx.get(
            f"http://127.0.0.1:{port}/v1/models", headers={"authorization": "Bearer from-file"}
        )
        assert old.status_code == 401
        running.send_signal(signal.SIGTERM)
        log = running.communicate(timeout=10)[1]
        assert running.returncode == 0
    assert "auth.keys_file was read: 2 keys, 1 new, 1 gone" in log
    assert "the voices of the settings were read again" in log
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


def test_of_two_servers_on_a_port_one_ends_at_once(tokenizer_dir, tmp_path):
    """Also while neither is ready: the one that listens is the one that lives."""
    port, slow = free_port(), "import asyncio; engine.start = lambda: asyncio.sleep(3600)"
    with (
        process(tokenizer_dir, tmp_path, port, slow) as first,
        process(tokenizer_dir, tmp_path, port, slow) as second,
    ):
        deadline = time.monotonic() + 30
        while first.poll() is None and second.poll() is None:
            assert time.monotonic() < deadline, "both live"
            time.sleep(0.05)
        loser, winner = (second, first) if first.poll() is None else (first, second)
        assert loser.wait() == 1
        log = loser.stderr.read()
        assert log.count("\n") == 1 and "Address already in use" in log
        assert httpx.get(f"http://127.0.0.1:{port}/live").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 503
        winner.send_signal(signal.SIGTERM)
        assert winner.wait(10) == 0
        assert "ready:" not in winner.stderr.read()


@pytest.mark.parametrize("signals", [1, 2])
def test_sigint_cuts_off_without_tracebacks(tokenizer_dir, tmp_path, signals):
    """The first drains, the second does not wait; hung answers are cut at the end of either."""
    (tmp_path / "config.yaml").write_text(f"server: {{drain_s: {1 if signals == 1 else 60}}}")
    port = free_port()
    with process(tokenizer_dir, tmp_path, port, "engine.hang_after = 2") as running:
        wait_ready(port)
        with ExitStack() as stack:
            answers = [stack.enter_context(streaming(port)) for _ in range(3)]
            for _ in range(signals):
                running.send_signal(signal.SIGINT)
                time.sleep(0.3)
            for answer in answers:
                with pytest.raises(httpx.TransportError):
                    answer.read()
        assert running.wait(10) == 130
        log = running.stderr.read()
    assert "Traceback" not in log and "3 answers are cut off" in log


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:"), ("::", "http://[::1]:")],
)
def test_the_printed_url_can_be_used(host, url):
    from qtts_openai.http.server import base_url, listen
    from qtts_openai.settings import ServerSettings

    with listen(ServerSettings(host=host, port=0)) as listener:
        assert base_url(listener).startswith(url)
        with socket.create_connection(
            (httpx.URL(base_url(listener)).host, listener.getsockname()[1])
        ):
            pass


def test_a_port_in_use_is_told_before_loading(tokenizer_dir, tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        process(tokenizer_dir, tmp_path, str(taken.getsockname()[1])) as running,
    ):
        log = running.communicate(timeout=20)[1]
        assert running.returncode == 1
    assert "server: cannot listen on 127.0.0.1" in log and "Traceback" not in log
