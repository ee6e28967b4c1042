"""kill -9 at any moment of making and deleting voices, withdrawing consents and writing the log."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qtts_openai.provenance.audit import AuditLog, rotated, verify
from qtts_openai.settings import AuditSettings
from qtts_openai.voices.store import VoiceStore

WORKER = """
import hashlib, sys
from pathlib import Path
from qtts_openai.http.callers import ANONYMOUS
from qtts_openai.provenance.audit import AuditLog
from qtts_openai.settings import AuditSettings
from qtts_openai.voices.store import VoiceStore

folder, sample = Path(sys.argv[1]), b"\\0\\0\\0?" * 50_000
store = VoiceStore(folder / "store", 1000)
log = AuditLog(AuditSettings(path=str(folder / "audit.jsonl"), max_bytes=4096))
print(flush=True)
while True:
    consent = store.add_consent("Ada", "en", sample, None)
    log.write("consent.created", consent=consent.id)
    fields = {"type": "audio_sample", "reference_key": hashlib.sha256(sample).hexdigest()}
    for name in ("ada", "eve"):
        voice = store.new_voice(name, None, consent=consent.id, **fields)
        log.write("voice.created", voice=voice.id, consent=consent.id)
        store.add(voice, sample)
    store.delete_voice(voice.id, ANONYMOUS)
    log.write("voice.deleted", voice=voice.id)
    store.delete_consent(consent.id, ANONYMOUS, cascade=True)
    log.write("consent.deleted", consent=consent.id)
    for left in store.voices.all():
        store.delete_voice(left.id, ANONYMOUS)
"""


def check(folder: Path) -> None:
    """Every voice is whole or not there, no withdrawn one has its sample, and the chain holds."""
    store = VoiceStore(folder / "store", 1000)
    voices, consents = store.voices.all(), {consent.id for consent in store.consents.all()}
    for voice in voices:
        if voice.disabled:
            assert voice.reference_key is None and voice.consent not in consents
        else:
            assert voice.consent in consents
            assert store.reference(voice) is not None  # whole, by its hash
    for consent in store.consents.all():
        assert len(store.consents.data(consent) or b"") == 200_000
    # A start has removed what deletions left; of what was being made the rest goes after an hour.
    gone = {voice.id for voice in voices if voice.disabled} | logged_as_deleted(folder)
    left = {file.name.partition(".")[0] for file in (folder / "store").rglob("*.bin*")}
    assert not left & gone
    for file in (folder / "store").rglob("*.bin*"):
        os.utime(file, (1, 1))
    VoiceStore(folder / "store", 1000)
    left = {file.name.partition(".")[0] for file in (folder / "store").rglob("*.bin*")}
    assert left == consents | {voice.id for voice in voices if not voice.disabled}
    AuditLog(AuditSettings(path=str(folder / "audit.jsonl"))).write("checked")
    verify(folder / "audit.jsonl")


def logged_as_deleted(folder: Path) -> set[str]:
    files = [*rotated(folder / "audit.jsonl"), folder / "audit.jsonl"]
    lines = b"".join(file.read_bytes() for file in files if file.exists()).splitlines(keepends=True)
    told = [json.loads(line) for line in lines if line.endswith(b"\n")]
    events = [one for one in told if one["event"].endswith(".deleted")]
    return {one.get("voice") or one["consent"] for one in events}


def kill_again_and_again(folder: Path, times: int) -> None:
    for _ in range(times):
        command = [sys.executable, "-c", WORKER, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None and worker.stdout.readline()
            time.sleep(random.uniform(0.0, 0.3))
            os.kill(worker.pid, signal.SIGKILL)
        check(folder)


def test_a_kill_leaves_nothing_half_done(tmp_path):
    kill_again_and_again(tmp_path, 3)


@pytest.mark.provenance
@pytest.mark.timeout(900)
def test_fifty_kills_leave_nothing_half_done(tmp_path):
    kill_again_and_again(tmp_path, 50)
