"""Where keys come from, what happens when there are none, and how one is taken back."""

import asyncio
import logging
import os
import subprocess
import time

import pytest

from qtts_openai.http import auth as module
from qtts_openai.http.auth import KeyRing, client_key, read_keys
from qtts_openai.http.callers import ANONYMOUS, Caller, source_of
from qtts_openai.settings import AuthSettings, SettingsError
from tests.api.speech.test_streaming import wait_until


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("QTTS_API_KEYS", raising=False)


@pytest.fixture
def keys_file(tmp_path):
    def write(content: str | bytes) -> AuthSettings:
        path = tmp_path / "keys"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return AuthSettings(keys_file=str(path))

    return write


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n", "\ufeff", " \t\n"])
def test_a_keys_file_without_a_key_does_not_open_the_server(keys_file, content, monkeypatch):
    with pytest.raises(SettingsError, match=r"auth\.keys_file: .*holds no key"):
        KeyRing(keys_file(content))
    monkeypatch.setenv("QTTS_API_KEYS", "one")
    with pytest.raises(SettingsError, match=r"auth\.keys_file: .*holds no key"):
        KeyRing(keys_file(content))


@pytest.mark.parametrize("value", ["", " ", ",", " , ,"])
def test_a_blank_variable_does_not_open_the_server(monkeypatch, keys_file, value):
    monkeypatch.setenv("QTTS_API_KEYS", value)
    with pytest.raises(SettingsError, match=r"QTTS_API_KEYS is set and holds no key"):
        KeyRing(AuthSettings())
    assert KeyRing(keys_file("one")).find(b"one")


def test_the_server_does_not_start_with_an_empty_file(start, keys_file):
    with pytest.raises(SettingsError, match="holds no key"):
        start(auth=keys_file(""))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00k", "café".encode("latin-1")])
def test_a_file_that_is_not_utf8_is_named(keys_file, content):
    with pytest.raises(SettingsError, match=r"auth\.keys_file: .*keys cannot be read: .*utf-8"):
        KeyRing(keys_file(content))


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(SettingsError, match=r"auth\.keys_file: .* cannot be read"):
            KeyRing(AuthSettings(keys_file=str(path)))


def test_lines_are_keys_or_names_and_keys(keys_file):
    ring = KeyRing(
        keys_file("\ufeff# who\r\nplain\r\nAnna Smith: a-key\r\nsk:with:colons\nadmin: boss")
    )
    named = {key: ring.find(key) for key in (b"plain", b"a-key", b"sk:with:colons", b"boss")}
    assert all(named.values()) and len({caller.id for caller in named.values()}) == 4
    assert named[b"a-key"].name == "Anna Smith" and named[b"plain"].name == named[b"plain"].id
    assert [caller.is_admin for caller in named.values()] == [False, False, False, True]
    assert ring.find(b"Anna Smith: a-key") is None and ring.find(b"nobody") is None


def test_an_id_is_the_same_after_a_restart_and_tells_no_key(keys_file):
    first, second = (KeyRing(keys_file(line)).find(b"secret") for line in ("secret", "a: secret"))
    assert first.id == second.id and len(first.id) == 16
    assert "secret" not in repr(vars(KeyRing(keys_file("secret"))))


def test_what_cannot_be_a_key_is_named_by_its_line(keys_file):
    with pytest.raises(SettingsError, match=r"keys, entry 3: write `key` or `name: key`") as error:
        KeyRing(keys_file("one\n\ntwo words\n"))
    assert "words" not in str(error.value)


def test_admin_keys_name_keys(keys_file):
    path = keys_file("ops: one\nother: two").keys_file
    ring = KeyRing(AuthSettings(keys_file=path, admin_keys=("ops",)))
    assert ring.find(b"one").is_admin and not ring.find(b"two").is_admin
    with pytest.raises(SettingsError, match=r"auth\.admin_keys: no key has the name 'opps'"):
        KeyRing(AuthSettings(keys_file=path, admin_keys=("opps",)))


def test_keys_beyond_ascii_come_in_utf8_or_latin1(start, keys_file):
    server = start(auth=keys_file("clé-été"))
    for encoding in ("utf-8", "latin-1"):
        headers = {"authorization": "Bearer clé-été".encode(encoding)}
        assert server.http.get("/models", headers=headers).status_code == 200
    wrong = {"authorization": "Bearer clé".encode()}
    assert server.http.get("/models", headers=wrong).status_code == 401


@pytest.mark.parametrize(
    ("host", "who"),
    [("127.0.0.1", "everybody on this machine"), ("::1", "everybody on this machine"),
     ("localhost", "everybody on this machine"), ("0.0.0.0", "everybody who reaches it"),
     ("::", "everybody who reaches it"), ("tts.example", "everybody who reaches it")],
)  # fmt: skip
def test_a_server_without_keys_says_once_who_can_use_it(caplog, host, who):
    KeyRing(AuthSettings()).announce(host)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert who in record.message and "QTTS_API_KEYS" in record.message


def test_a_keyless_start_warns_exactly_once(start, caplog):
    start()
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([record for record in warnings if "API key" in record.message]) == 1


def test_a_revoked_key_stops_and_a_new_one_works_without_a_restart(start, keys_file, monkeypatch):
    monkeypatch.setattr(module, "WATCH_S", 0.05)
    server = start(auth=keys_file("old\nstays\n"))

    def status(key: str) -> int:
        return server.http.get("/models", headers={"authorization": f"Bearer {key}"}).status_code

    assert [status(key) for key in ("old", "stays", "new")] == [200, 200, 401]
    keys_file("stays\nnew\n")
    wait_until(lambda: status("old") == 401)
    assert [status(key) for key in ("old", "stays", "new")] == [401, 200, 200]


def test_the_watch_is_quick_enough():
    assert module.WATCH_S <= 2


@pytest.mark.parametrize("content", ["", "# none\n", b"\xff", "two words"])
def test_an_emptied_or_spoilt_file_refuses_everybody_loudly(keys_file, caplog, content):
    ring = KeyRing(keys_file("one"))
    keys_file(content)
    ring.reload()
    assert ring.find(b"one") is None and not ring.is_open
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    keys_file("one")
    ring.reload()
    assert ring.find(b"one")


def test_a_removed_file_refuses_its_keys_and_keeps_those_of_the_variable(keys_file, monkeypatch):
    monkeypatch.setenv("QTTS_API_KEYS", "ops: fixed")
    settings = keys_file("one")
    ring = KeyRing(settings)
    os.unlink(settings.keys_file)
    ring.reload()
    assert ring.find(b"one") is None and ring.find(b"fixed").name == "ops"


def test_the_same_size_and_time_is_still_noticed(keys_file, monkeypatch):
    """A file may be replaced by one of the same size that was given the same date."""
    settings = keys_file("one")
    ring, date = KeyRing(settings), os.stat(settings.keys_file).st_mtime_ns
    keys_file("two")
    os.utime(settings.keys_file, ns=(date, date))

    async def watch() -> None:
        task = asyncio.create_task(ring.watch())
        deadline = time.monotonic() + 30
        while ring.find(b"one") and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        task.cancel()

    monkeypatch.setattr(module, "WATCH_S", 0.02)
    asyncio.run(watch())
    assert ring.find(b"two") and not ring.find(b"one")


def test_commands_send_the_first_key(monkeypatch):
    assert client_key() is None
    monkeypatch.setenv("QTTS_API_KEYS", " , me: first,second")
    assert client_key() == "first"


def test_sources():
    class Connection:
        def __init__(self, host, caller=ANONYMOUS):
            self.scope = {"state": {"caller": caller}}
            self.client = type("Client", (), {"host": host})

    assert source_of(Connection("192.0.2.1", Caller("abc", "a"))) == "abc"
    assert source_of(Connection("192.0.2.1")) == "192.0.2.1"
    assert source_of(Connection("::ffff:192.0.2.1")) == "192.0.2.1"
    one, same, other = "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"
    assert source_of(Connection(one)) == source_of(Connection(same))
    assert source_of(Connection(one)) != source_of(Connection(other))


def test_the_worker_has_no_keys_in_its_environment(monkeypatch):
    """They would be in /proc/PID/environ of the worker."""
    from engine import EngineClient, EngineConfig, EngineDeadError

    seen, popen = {}, subprocess.Popen

    def spawn(*arguments, env, pass_fds, start_new_session):
        seen.update(env)
        return popen("true")

    monkeypatch.setenv("QTTS_API_KEYS", "secret")
    monkeypatch.setattr(subprocess, "Popen", spawn)
    with pytest.raises(EngineDeadError):
        asyncio.run(EngineClient(EngineConfig(), []).start())
    assert "PATH" in seen and "secret" not in repr(seen)


def test_keys_of_entries_keep_their_order():
    assert [key.caller.name for key in read_keys(["b: 1", "a: 2"], "x", ())] == ["b", "a"]
