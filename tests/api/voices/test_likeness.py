"""Whose voice a sample is. FakeEngine hears which of eight bands a tone is in."""

import base64
import io

import numpy as np
import pytest
import soundfile

from engine import EngineDeadError
from qtts_openai.settings import AuditSettings, CloningSettings, SettingsError
from qtts_openai.voices.likeness import Likeness
from tests.api.conftest import BASE, CUSTOM
from tests.api.test_speech import assert_envelope


def voice_of(hertz: float, seconds: float = 1.0) -> bytes:
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)
    file = io.BytesIO()
    soundfile.write(file, wave, 16_000, format="WAV")
    return file.getvalue()


ADA, EVE = 100.0, 900.0


@pytest.fixture
def begin(start):
    def with_settings(**fields):
        others = {name: fields.pop(name) for name in ("audit",) if name in fields}
        return start(models=(CUSTOM, BASE), cloning=CloningSettings(**fields), **others)

    return with_settings


def consent_of(server, recording: bytes) -> str:
    data = {"name": "Ada", "language": "en-US"}
    files = {"recording": ("r.wav", recording, "audio/wav")}
    return server.http.post("/audio/voice_consents", data=data, files=files).json()["id"]


def made(server, sample: bytes, consent: str):
    files = {"audio_sample": ("a.wav", sample, "audio/wav")}
    data = {"name": "ada", "consent": consent}
    return server.http.post("/audio/voices", data=data, files=files)


def cloned(server, sample: bytes, **fields):
    ref_audio = base64.b64encode(sample).decode()
    return server.speak(ref_audio=ref_audio, voice=..., **fields)


def embedding(server, hertz: float) -> list[float]:
    data, _ = soundfile.read(io.BytesIO(voice_of(hertz)), dtype="float32")
    spectrum = np.abs(np.fft.rfft(data))
    bands = np.array_split(spectrum[: len(spectrum) * 24 // 16 // 8], 8)
    row = np.array([np.square(band).sum() for band in bands])
    return (row / np.linalg.norm(row)).tolist()


def test_a_sample_is_of_the_voice_of_its_consent(begin, tmp_path):
    log = tmp_path / "audit.jsonl"
    server = begin(consent_similarity=0.8, audit=AuditSettings(path=str(log)))
    consent = consent_of(server, voice_of(ADA, 2.0))
    shown = made(server, voice_of(ADA), consent).json()
    assert shown["consent_similarity"] > 0.95
    assert f'"consent_similarity":{shown["consent_similarity"]}' in log.read_text()
    assert_envelope(made(server, voice_of(EVE), consent), 400, "consent", "voice_mismatch")
    assert "consent_similarity" not in made(server, voice_of(EVE), "She said I may do so.").json()


def test_so_is_reference_audio_that_names_one(begin):
    server = begin(consent_similarity=0.8)
    consent = consent_of(server, voice_of(ADA))
    assert cloned(server, voice_of(ADA), consent=consent).status_code == 200
    wrong = cloned(server, voice_of(EVE), consent=consent)
    assert_envelope(wrong, 400, "consent", "voice_mismatch")
    assert cloned(server, voice_of(EVE)).status_code == 200
    sent = {"model": "base", "voice": ..., "consent": consent}
    for hertz, status in ((ADA, 200), (EVE, 400)):
        answer = server.speak(**sent, speaker_embedding=embedding(server, hertz))
        assert answer.status_code == status, answer.text


def test_a_mismatch_may_be_told_of_only(begin):
    server = begin(consent_similarity=0.8, on_mismatch="flag")
    consent = consent_of(server, voice_of(ADA))
    assert made(server, voice_of(EVE), consent).json()["consent_similarity"] < 0.8


def test_a_consent_that_cannot_be_heard_is_none(begin):
    server = begin(consent_similarity=0.8)
    consent = consent_of(server, b"no audio at all")
    assert_envelope(made(server, voice_of(ADA), consent), 400, "consent")
    assert made(begin(), voice_of(ADA), "She said I may do so.").status_code == 200


def test_protected_voices_are_not_cloned(begin, tmp_path):
    (tmp_path / ".hidden").write_bytes(b"not looked at")
    server = begin(protected_voices=str(tmp_path))
    words = "She said I may do so."
    assert cloned(server, voice_of(EVE)).status_code == 200
    (tmp_path / "eve.wav").write_bytes(voice_of(EVE, 2.0))  # from now on
    assert_envelope(cloned(server, voice_of(EVE)), 403, "ref_audio", "voice_protected")
    refused = made(server, voice_of(EVE), words)
    assert_envelope(refused, 403, "audio_sample", "voice_protected")
    sent = {"model": "base", "voice": ..., "speaker_embedding": embedding(server, EVE)}
    assert_envelope(server.speak(**sent), 403, "speaker_embedding", "voice_protected")
    assert cloned(server, voice_of(ADA)).status_code == 200
    assert made(server, voice_of(ADA), words).status_code == 200
    (tmp_path / "eve.wav").write_bytes(voice_of(ADA, 2.0))  # another recording under the name
    assert_envelope(cloned(server, voice_of(ADA)), 403, "ref_audio", "voice_protected")


def test_while_the_list_cannot_be_read_nothing_is_cloned(begin, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    server = begin(protected_voices=str(tmp_path))
    error = assert_envelope(cloned(server, voice_of(ADA)), 500, code="protected_voices_unreadable")
    assert "broken" not in error["message"]
    assert server.speak().status_code == 200


def test_without_an_engine_nothing_is_cloned(begin, tmp_path, monkeypatch):
    server = begin(protected_voices=str(tmp_path))
    (tmp_path / "eve.wav").write_bytes(voice_of(EVE))

    async def gone(model: str, samples: bytes) -> bytes:
        raise EngineDeadError("gone")

    monkeypatch.setattr(server.engine, "embed", gone)
    assert_envelope(cloned(server, voice_of(ADA)), 503, code="engine_unavailable")


def test_a_list_that_is_not_there_keeps_the_server_from_starting(tmp_path):
    settings = CloningSettings(protected_voices=str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="protected_voices"):
        Likeness(settings, None, None, None)
