"""The audit log: what is in it, that changes show, and that no crash breaks it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qtts_openai.__main__ import main
from qtts_openai.errors import ApiError
from qtts_openai.provenance.audit import AuditLog, BrokenChainError, rotated, verify
from qtts_openai.settings import AuditSettings
from tests.api.conftest import BASE, CUSTOM
from tests.api.live.test_native import session
from tests.api.test_speech import assert_envelope
from tests.api.voices.test_voice_store import make_consent, upload


def log_at(path: Path, **fields) -> AuditLog:
    return AuditLog(AuditSettings(path=str(path), **fields))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def written(tmp_path) -> Path:
    path = tmp_path / "audit.jsonl"
    log = log_at(path)
    for at in range(5):
        log.write("voice.created", voice=f"voice_{at}", consent=None)
    return path


def test_a_whole_log(written):
    first, head = verify(written)
    assert (first, head.number) == (1, 5)
    assert head.hash == lines(written)[-1]["hash"]
    assert "consent" not in lines(written)[0]
    assert written.stat().st_mode & 0o077 == 0


def change(at: int, **fields):
    def apply(rows: list[bytes]) -> list[bytes]:
        rows[at] = json.dumps({**json.loads(rows[at]), **fields}, separators=(",", ":")).encode()
        return rows

    return apply


@pytest.mark.parametrize(
    "tamper",
    [
        change(0, voice="voice_x"),
        change(2, time=1.0),
        change(2, hash="0" * 64),
        change(4, event="voice.deleted"),
        change(1, number=7),
        change(1, extra=1),
        lambda rows: rows[:2] + rows[3:],
        lambda rows: [rows[0], rows[0], *rows[1:]],
        lambda rows: [rows[0], rows[2], rows[1], *rows[3:]],
        lambda rows: [*rows, b"x"],
        lambda rows: [*rows, b"{}"],
        lambda rows: [*rows[:-1], rows[-1][:-5]],
        lambda rows: [*rows, b"", b"\xff"],
    ],
    ids=range(13),
)
def test_a_changed_log_is_broken(written, tamper):
    written.write_bytes(b"\n".join(tamper(written.read_bytes().splitlines())) + b"\n")
    with pytest.raises(BrokenChainError):
        verify(written)


def test_lines_cut_off_at_the_end_show_in_what_was_noted(written):
    noted = verify(written)[1]
    written.write_bytes(b"".join(written.read_bytes().splitlines(keepends=True)[:3]))
    assert verify(written)[1].number == 3 != noted.number


def test_the_log_goes_on_through_files_and_forgets_the_oldest(tmp_path):
    path = tmp_path / "a" / "audit.jsonl"
    log = log_at(path, max_bytes=1024, keep_files=2, fsync=False)
    for at in range(42):
        log.write("voice.created", voice=f"voice_{at}")
    first, head = verify(path)
    assert len(rotated(path)) == 2 and first > 1 and head.number == 42
    rotated(path)[1].unlink()
    with pytest.raises(BrokenChainError):
        verify(path)


def test_what_a_crash_left_of_a_line_is_cut_off(written):
    with written.open("ab") as file:
        file.write(b'{"number":6,"time":1')
    with pytest.raises(BrokenChainError):
        verify(written)
    log_at(written).write("voice.created")
    assert verify(written)[1].number == 6


def test_many_at_once_make_one_chain(tmp_path):
    path = tmp_path / "audit.jsonl"
    logs = [log_at(path, fsync=False) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: logs[at % 4].write("voice.created", at=at), range(80)))
    assert verify(path)[1].number == 80


WRITER = """
import sys
from qtts_openai.provenance.audit import AuditLog
from qtts_openai.settings import AuditSettings
log = AuditLog(AuditSettings(path=sys.argv[1], fsync=False, max_bytes=20000))
print(flush=True)
while True:
    log.write("voice.created", text="x" * 3000)
"""


def test_a_killed_writer_leaves_a_chain_that_goes_on(tmp_path):
    path, numbers = tmp_path / "audit.jsonl", []
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(path)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline()
        time.sleep(0.05)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait(10)
        writer.stdout.close()
        log_at(path).write("voice.deleted")
        numbers.append(verify(path)[1].number)
    assert numbers == sorted(set(numbers)) and numbers[-1] > 3


def test_where_it_cannot_be_written_nothing_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ApiError) as error:
        log_at(tmp_path / "file" / "audit.jsonl").write("voice.created")
    assert (error.value.status, error.value.code) == (507, "audit_failed")


def test_the_command(written, capsys, tmp_path):
    assert main(["audit", "verify", str(written)]) == 0
    assert "whole: lines 1 to 5" in capsys.readouterr().out
    written.write_bytes(written.read_bytes().replace(b"voice_3", b"voice_9"))
    with pytest.raises(SystemExit) as status:
        main(["audit", "verify", str(written)])
    assert status.value.code == 4 and "changed" in capsys.readouterr().out
    assert main(["audit", "verify", str(tmp_path / "none")]) == 1


# ---- on a server ----


@pytest.fixture
def audited(start, tmp_path):
    path = tmp_path / "log" / "audit.jsonl"
    server = start(models=(CUSTOM, BASE), audit=AuditSettings(path=str(path)))
    return server, path


def wait_for(path: Path, number: int) -> list[dict]:
    """The end of a streamed speech is written behind its last byte."""
    until = time.monotonic() + 10
    while len(lines(path)) < number and time.monotonic() < until:
        time.sleep(0.02)
    return lines(path)


def test_the_life_of_a_voice(audited):
    server, path = audited
    consent = make_consent(server)
    voice = upload(server, consent=consent).json()["id"]
    answer = server.speak(voice=voice, input="Some secret words.", response_format="pcm")
    wait_for(path, 4)
    server.http.post(f"/audio/voices/{voice}", json={"name": "Anna's"})
    server.http.get(f"/audio/voice_archives/{voice}")
    server.http.delete(f"/audio/voices/{voice}")
    server.http.delete(f"/audio/voice_consents/{consent}")
    told = lines(path)
    assert [line["event"] for line in told] == [
        "consent.created",
        "voice.created",
        "speech.begun",
        "speech.ended",
        "voice.renamed",
        "voice.exported",
        "voice.deleted",
        "consent.deleted",
    ]
    assert (told[5]["voices"], told[5]["consents"]) == ([voice], [consent])
    begun, ended = told[2:4]
    assert begun["speech"] == ended["speech"]
    assert (begun["voice"], begun["consent"], begun["model"]) == (voice, consent, "base")
    assert begun["key"] == "anonymous" and len(begun["text_sha256"]) == 64
    assert ended["seconds"] == pytest.approx(len(answer.content) / 48000, abs=0.01)
    assert ended["finish_reason"] == "stop"
    assert ended["audio_sha256"] == hashlib.sha256(answer.content).hexdigest()
    assert "secret" not in path.read_text()
    assert verify(path)[1].number == 8


def test_presets_are_not_in_it_and_whole_clones_are(audited):
    server, path = audited
    server.speak(stream=False)
    assert not path.exists()
    voice = upload(server).json()["id"]
    assert server.speak(voice=voice, stream=False).status_code == 200
    assert [line["event"] for line in lines(path)][1:] == ["speech.begun", "speech.ended"]


def test_a_clone_that_cannot_be_logged_is_not_spoken(audited):
    server, path = audited
    voice = upload(server).json()["id"]
    path.unlink()
    path.mkdir()
    server.engine.submitted.clear()
    assert_envelope(server.speak(voice=voice), 507, code="audit_failed")
    assert not server.engine.submitted
    assert server.speak().status_code == 200


# ---- live ----


def live_config(voice: str) -> dict:
    return {"model": "base", "voice": voice, "stream_audio": True, "response_format": "pcm"}


def test_live_text_with_a_cloned_voice_is_in_it(audited):
    server, path = audited
    voice = upload(server, consent=make_consent(server)).json()["id"]
    with session(server, live_config(voice)) as client:
        client.send("input.done")  # nothing is said
        client.until("session.done")
        for token in ("Some secret", " words", " of mine."):
            client.send("input.text", text=token)
        client.send("input.done")
        pcm = client.until("session.done")[1]
        wait_for(path, 4)
        server.engine.chunk_delay_s = 0.02
        client.send("input.text", text="One two three four five ")
        client.until("audio.start")
        client.send("input.cancel")
        client.until("audio.cancelled")
        told = wait_for(path, 6)[2:]
    events = [line["event"] for line in told]
    assert events == ["speech.begun", "speech.ended"] * 2
    begun, ended, _, cut = told
    assert begun["speech"] == ended["speech"] and "text_sha256" not in begun
    assert (ended["voice"], bool(ended["consent"]), ended["key"]) == (voice, True, "anonymous")
    assert ended["text_sha256"] == hashlib.sha256(b"Some secret words of mine.").hexdigest()
    assert ended["audio_sha256"] == hashlib.sha256(pcm).hexdigest()
    assert ended["seconds"] == pytest.approx(len(pcm) / 48000, abs=0.01)
    assert (ended["finish_reason"], cut["finish_reason"]) == ("stop", "cut off")
    assert "secret" not in path.read_text() and verify(path)[1].number == 6


def test_a_voice_that_is_deleted_falls_silent_in_live_sessions(audited):
    server, _ = audited
    voice = upload(server).json()["id"]
    with session(server, live_config(voice)) as client:
        client.send("input.text", text="Hello there.")
        client.send("input.done")
        assert client.until("session.done")[1]
        server.http.delete(f"/audio/voices/{voice}")
        spoken = len(server.engine.submitted)
        client.send("input.text", text="Hello again.")
        client.send("input.done")
        told, pcm = client.until("session.done")
    assert told[0]["type"] == "error" and pcm == b""
    assert len(server.engine.submitted) == spoken


def test_live_text_that_cannot_be_logged_is_not_spoken(audited):
    server, path = audited
    voice = upload(server).json()["id"]
    path.unlink()
    path.mkdir()
    spoken = len(server.engine.submitted)
    with session(server, live_config(voice)) as client:
        client.send("input.text", text="Hello there.")
        client.send("input.done")
        told, pcm = client.until("session.done")
    assert told[0]["code"] == "audit_failed" and pcm == b""
    assert len(server.engine.submitted) == spoken
