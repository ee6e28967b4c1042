"""Voices and consents on a server with keys: whose they are, who sees, speaks and deletes them."""

from copy import copy
from types import SimpleNamespace

import httpx
import pytest

from qtts_openai.settings import AuthSettings, VoiceSettings
from tests.api.conftest import BASE, CUSTOM, DESIGN
from tests.api.test_speech import assert_envelope
from tests.api.voices.test_routing import used
from tests.api.voices.test_voice_store import make_consent, upload


@pytest.fixture
def keyed(start, tmp_path, monkeypatch):
    """Servers as anna, otto, the admin root and somebody without a key see them."""
    monkeypatch.delenv("QTTS_API_KEYS", raising=False)
    (tmp_path / "keys").write_text("anna: key-a\notto: key-o\nroot: key-r\n")
    auth = AuthSettings(keys_file=str(tmp_path / "keys"), admin_keys=("root",))
    voices = VoiceSettings(directory=str(tmp_path / "data"))
    server = start(models=(CUSTOM, DESIGN, BASE), auth=auth, voices=voices)

    def seen_by(key: str | None):
        view = copy(server)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        view.http = httpx.Client(base_url=server.base_url, timeout=20, headers=headers)
        return view

    keys = {"anna": "key-a", "otto": "key-o", "root": "key-r", "nobody": None}
    views = {name: seen_by(key) for name, key in keys.items()}
    yield SimpleNamespace(**views)
    for view in views.values():
        view.http.close()


def stored(view) -> list[str]:
    return [voice["name"] for voice in view.http.get("/audio/voices").json()["uploaded_voices"]]


def test_a_voice_is_its_owners(keyed):
    voice = upload(keyed.anna, "mine", ref_text="secret words").json()["id"]
    assert keyed.anna.speak(voice=voice).status_code == 200
    for name in (voice, "mine"):
        assert_envelope(keyed.otto.speak(voice=name), 400, "voice")
        assert_envelope(keyed.otto.http.get(f"/audio/voices/{name}"), 404)
        assert_envelope(keyed.otto.http.delete(f"/audio/voices/{name}"), 404)
    assert "mine" not in str(keyed.otto.http.get("/models").json())
    assert "mine" in str(keyed.anna.http.get("/models").json())
    assert stored(keyed.anna) == stored(keyed.root) == ["mine"]
    assert stored(keyed.otto) == stored(keyed.nobody) == []
    assert keyed.root.http.delete(f"/audio/voices/{voice}").status_code == 200


def test_a_name_is_ones_own_voice(keyed):
    upload(keyed.anna, "Twin")
    fields = {"name": "twin", "prompt": "A bright young male voice."}
    assert keyed.otto.http.post("/audio/voices", json=fields).status_code == 200
    keyed.anna.speak(voice="twin")
    first = used(keyed.anna)[2]
    keyed.otto.speak(voice="twin")
    assert used(keyed.otto)[2] != first
    keyed.anna.speak(voice="twin")
    assert used(keyed.anna)[2] == first


def test_batches_speak_with_the_callers_voices(keyed):
    upload(keyed.anna, "mine")
    body = {"model": "tts-1", "voice": "mine", "items": [{"input": "Hi."}]}
    mine, others = (v.http.post("/audio/speech/batch", json=body) for v in (keyed.anna, keyed.otto))
    assert mine.json()["succeeded"] == 1
    assert_envelope(others, 400, "voice")


def test_an_admin_makes_voices_for_everybody(keyed):
    assert_envelope(upload(keyed.anna, "ours", shared="true"), 403, "shared")
    made = upload(keyed.root, "ours", shared="true").json()
    assert made["shared"] is True
    assert keyed.otto.speak(voice="ours").status_code == 200
    assert stored(keyed.otto) == ["ours"] and stored(keyed.nobody) == []
    assert_envelope(keyed.otto.http.delete("/audio/voices/ours"), 403, None, "not_the_owner")
    assert keyed.root.http.delete("/audio/voices/ours").status_code == 200


def test_a_list_without_a_key_holds_presets_only(keyed):
    upload(keyed.root, "ours", shared="true")
    keyed.anna.http.post("/audio/voices", json={"name": "b", "prompt": "A secret description."})
    for params in ({}, {"available": "all"}, {"names_only": "true"}, {"legacy": "true"}):
        answer = keyed.nobody.http.get("/audio/voices", params=params)
        assert "secret" not in answer.text and "voice_" not in answer.text
        assert answer.json()["uploaded_voices"] == [] and answer.json()["voices"]


def test_a_consent_is_its_owners(keyed):
    consent = make_consent(keyed.anna)
    path = f"/audio/voice_consents/{consent}"
    assert_envelope(upload(keyed.otto, consent=consent), 400, "consent", "consent_not_found")
    for answer in (
        keyed.otto.http.get(path),
        keyed.otto.http.delete(path, params={"cascade": "true"}),
        keyed.otto.http.post(path, json={"name": "Otto"}),
    ):
        assert_envelope(answer, 404, "consent_id", "consent_not_found")
    assert keyed.otto.http.get("/audio/voice_consents").json()["data"] == []
    assert upload(keyed.anna, consent=consent).status_code == 200
    assert keyed.root.http.delete(path, params={"cascade": "true"}).status_code == 200
