"""Cloning with and without consent, and what is left when one is withdrawn."""

import time

import pytest

from qtts_openai.errors import ApiError
from qtts_openai.http.callers import ANONYMOUS
from qtts_openai.settings import CacheSettings, CloningSettings
from qtts_openai.voices.store import VoiceStore
from tests.api.conftest import BASE, CUSTOM
from tests.api.test_speech import assert_envelope
from tests.api.voices.test_routing import clip
from tests.api.voices.test_voice_store import make_consent, upload


@pytest.fixture
def asking(start):
    def begin(policy: str, **fields):
        cloning = CloningSettings(require_consent=policy, **fields)
        cache = CacheSettings(max_bytes=1_000_000)
        return start(models=(CUSTOM, BASE), cloning=cloning, cache=cache)

    return begin


def store_of(server) -> VoiceStore:
    return server.uvicorn.config.app.state.service.store


def clone(server, **fields):
    return server.speak(ref_audio=clip(), voice=..., **fields)


def test_words_are_no_consent_where_one_must_be_stored(asking):
    server = asking("stored")
    assert_envelope(upload(server), 400, "consent", "consent_required")
    assert_envelope(upload(server, consent="cons_0"), 400, "consent", "consent_not_found")
    voice = upload(server, consent=make_consent(server)).json()["id"]
    assert server.speak(voice=voice).status_code == 200
    assert clone(server).status_code == 200
    assert server.speak().status_code == 200


def test_voices_from_before_the_policy_need_one_too(asking):
    server = asking("stored")
    store = store_of(server)
    fields = {"type": "audio_sample", "reference_key": "k", "consent": "words of long ago"}
    store.add(store.new_voice("old", None, **fields), b"1234")
    error = assert_envelope(server.speak(voice="old"), 403, "voice", "voice_disabled")
    assert "is not there" in error["message"]


@pytest.mark.parametrize("field", ["ref_audio", "speaker_embedding"])
def test_reference_audio_names_one_where_all_must(asking, field):
    server = asking("all")
    size = server.engine.models["base"].embedding_size
    sent = {"voice": ..., "model": "base", field: clip() if field == "ref_audio" else [0.1] * size}
    assert_envelope(server.speak(**sent), 400, "consent", "consent_required")
    for wrong in ("cons_0", "She said I may use it.", ""):
        assert_envelope(server.speak(**sent, consent=wrong), 400, "consent")
    assert not server.engine.submitted
    consent = make_consent(server)
    assert server.speak(**sent, consent=consent).status_code == 200
    server.http.delete(f"/audio/voice_consents/{consent}")
    assert_envelope(server.speak(**sent, consent=consent), 400, "consent", "consent_not_found")


def test_a_consent_beside_a_preset_has_no_use(asking):
    answer = asking("all").speak(consent="cons_1")
    assert answer.headers["x-ignored-fields"] == "consent"


@pytest.mark.parametrize("policy", ["off", "stored", "all"])
def test_an_old_consent_counts_no_more(asking, policy, monkeypatch):
    server = asking(policy, consent_days=1)
    consent = make_consent(server)
    voice = upload(server, consent=consent).json()["id"]
    assert server.speak(voice=voice).status_code == 200
    later = time.time() + 86_401
    monkeypatch.setattr("qtts_openai.voices.store.time.time", lambda: later)
    error = assert_envelope(server.speak(voice=voice), 403, "voice", "voice_disabled")
    assert "expired" in error["message"]
    assert_envelope(upload(server, consent=consent), 400, "consent", "consent_expired")


def test_nothing_is_left_of_a_voice_whose_consent_was_withdrawn(asking):
    server = asking("stored")
    store, consent = store_of(server), make_consent(server)
    voice = upload(server, consent=consent, ref_text="What she said.").json()["id"]
    assert server.speak(voice=voice, seed=1).headers["x-cache"] == "miss"
    key = store.voices.get(voice).reference_key
    sample, recording = store.voices.path(voice), store.consents.path(consent)
    assert sample.exists() and recording.exists()
    path = f"/audio/voice_consents/{consent}"
    server.http.delete(path, params={"cascade": "true"})
    assert_envelope(server.speak(voice=voice, seed=1), 403, "voice", "voice_disabled")
    assert not sample.exists() and not recording.exists()
    left = store.voices.get(voice)
    assert left.disabled and left.reference_key is None and left.ref_text is None
    assert server.engine.forgotten == [key]
    assert server.uvicorn.config.app.state.service.cache.num_bytes == 0


def test_nothing_is_left_of_a_deleted_voice(asking):
    server = asking("off")
    voice = upload(server).json()["id"]
    server.speak(voice=voice, seed=1)
    key = store_of(server).voices.get(voice).reference_key
    server.http.delete(f"/audio/voices/{voice}")
    assert server.engine.forgotten == [key]
    assert server.uvicorn.config.app.state.service.cache.num_bytes == 0


def test_a_store_without_settings_asks_for_words_only(tmp_path):
    store = VoiceStore(tmp_path, 10)
    store.check_consent("Anna allowed it for our tests.", ANONYMOUS)
    with pytest.raises(ApiError, match="10 to 2000 characters"):
        store.check_consent("yes", ANONYMOUS)
