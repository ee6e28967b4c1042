"""Voices that get another name, and voices as files, over HTTP."""

import io
import json
import zipfile

from qtts_openai.http.callers import ANONYMOUS
from qtts_openai.settings import VoiceSettings
from qtts_openai.voices.archive import read_archive
from qtts_openai.voices.store import VoiceStore
from tests.api.conftest import BASE, CUSTOM, DESIGN
from tests.api.test_speech import assert_envelope
from tests.api.voices.test_owners import keyed, stored
from tests.api.voices.test_routing import used
from tests.api.voices.test_voice_store import make_consent, own, upload

__all__ = ["keyed", "own"]


def rename(view, voice: str, name: object):
    return view.http.post(f"/audio/voices/{voice}", json={"name": name})


def export(view, voice: str):
    return view.http.get(f"/audio/voice_archives/{voice}")


def test_a_voice_under_another_name_is_the_same(own):
    voice = upload(own, "Old name", ref_text="what I said").json()
    own.speak(voice="old name")
    before = used(own)
    renamed = rename(own, "Old%20name", "  New   name ")
    assert renamed.status_code == 200
    assert renamed.json() == {**voice["voice"], "name": "New name"}
    assert own.speak(voice="new NAME").status_code == 200
    assert used(own)[2] == before[2] and own.speak(voice=voice["id"]).status_code == 200
    assert_envelope(own.speak(voice="Old name"), 400, "voice")
    assert_envelope(rename(own, "Old%20name", "x"), 404, "voice_id", "voice_not_found")
    assert upload(own, "Old name").status_code == 200, "the old name is free"
    assert rename(own, voice["id"], "NEW name").json()["name"] == "NEW name"


BAD_NAMES = [
    ("other", 409, "name_taken"),
    ("OTHER", 409, "name_taken"),
    ("alloy", 400, "name_taken"),
    ("all\u043ey", 400, "name_taken"),  # a Cyrillic o
    ("a\nb", 400, "invalid_value"),
    ("  ", 400, "invalid_value"),
    ("", 400, "invalid_value"),
    ("x" * 101, 400, "invalid_value"),
    (5, 400, "invalid_type"),
    (None, 400, "missing_required_parameter"),
]


def test_a_name_that_cannot_be_is_refused_and_nothing_changes(own):
    upload(own, "mine")
    upload(own, "other")
    before = own.http.get("/audio/voices").json()
    for name, status, code in BAD_NAMES:
        assert_envelope(rename(own, "mine", name), status, "name", code)
    assert own.http.get("/audio/voices").json() == before


def test_presets_are_neither_renamed_nor_exported(own):
    assert_envelope(rename(own, "alloy", "mine"), 404, "voice_id", "voice_not_found")
    assert_envelope(export(own, "alloy"), 404, "voice_id", "voice_not_found")


def test_an_export_is_what_another_server_takes_in(own, tmp_path):
    consent = make_consent(own)
    voice = upload(own, "a/b", consent=consent, ref_text="what I said").json()
    upload(own, "other")
    for path in (voice["id"], "a/b"):
        answer = export(own, path)
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip"
        assert f'filename="{voice["id"]}.zip"' in answer.headers["content-disposition"]
    (tmp_path / "a.zip").write_bytes(answer.content)
    there = VoiceStore(tmp_path / "there", 10)
    read_archive(there, tmp_path / "a.zip", [])
    here = VoiceStore(tmp_path, 10)
    (copy,) = there.visible(ANONYMOUS)
    assert copy == here.find("a/b", ANONYMOUS) and there.reference(copy) == here.reference(copy)
    (kept,) = there.visible_consents(ANONYMOUS)
    assert kept.id == consent and there.consents.data(kept) == here.consents.data(kept)


def test_a_described_voice_is_exported_before_it_has_spoken(own):
    fields = {"name": "Bright", "prompt": "A bright young male voice."}
    voice = own.http.post("/audio/voices", json=fields).json()["id"]
    with zipfile.ZipFile(io.BytesIO(export(own, voice).content)) as archive:
        assert archive.namelist() == ["records.json"]
        assert json.loads(archive.read("records.json"))["voices"][0]["record"]["id"] == voice


def test_a_voice_whose_sample_is_lost_is_not_half_exported(own, tmp_path):
    voice = upload(own).json()["id"]
    (tmp_path / "voices" / f"{voice}.bin").unlink()
    assert_envelope(export(own, voice), 500, "voice", "voice_damaged")


def test_a_voice_whose_consents_recording_is_lost_is_not_half_exported(own, tmp_path):
    consent = make_consent(own)
    voice = upload(own, consent=consent).json()["id"]
    (tmp_path / "consents" / f"{consent}.bin").unlink()
    assert_envelope(export(own, voice), 500, None, "voice_damaged")


def test_only_the_owner_or_an_admin_renames_and_exports(keyed):
    voice = upload(keyed.anna, "mine", consent=make_consent(keyed.anna)).json()["id"]
    ours = upload(keyed.root, "ours", shared="true").json()["id"]
    for path in (voice, "mine"):
        assert_envelope(rename(keyed.otto, path, "stolen"), 404, "voice_id")
        assert_envelope(export(keyed.otto, path), 404, "voice_id")
    for path in (voice, ours):
        assert_envelope(rename(keyed.nobody, path, "stolen"), 401)
        assert_envelope(export(keyed.nobody, path), 401)
    for path in (ours, "ours"):
        assert_envelope(rename(keyed.anna, path, "stolen"), 403, None, "not_the_owner")
        assert_envelope(export(keyed.anna, path), 403, None, "not_the_owner")
    assert stored(keyed.root) == ["mine", "ours"]
    for view in (keyed.anna, keyed.root):
        assert export(view, voice).status_code == 200
    assert rename(keyed.root, voice, "hers").json()["name"] == "hers"
    assert rename(keyed.root, ours, "everybody's").status_code == 200
    assert stored(keyed.anna) == ["hers", "everybody's"]


def test_a_consent_of_everybody_does_not_leave_with_a_voice_of_one(
    start, tmp_path, monkeypatch, keyed
):
    """Made while the server was open; whoever may use it cannot hear it."""
    consent = VoiceStore(tmp_path / "data", 10).add_consent("Ada", "en", b"recording", None).id
    voice = upload(keyed.anna, "mine", consent=consent).json()["id"]
    assert_envelope(export(keyed.anna, voice), 403, None, "not_the_owner")
    assert export(keyed.root, voice).status_code == 200


def test_two_servers_on_one_directory_see_a_new_name_at_once(start, tmp_path):
    settings = {"models": (CUSTOM, DESIGN, BASE), "voices": VoiceSettings(directory=str(tmp_path))}
    one, other = start(**settings), start(**settings)
    voice = upload(one, "mine").json()["id"]
    assert other.speak(voice="mine").status_code == 200
    assert rename(one, "mine", "hers").status_code == 200
    assert_envelope(other.speak(voice="mine"), 400, "voice")
    assert other.speak(voice="hers").status_code == 200
    assert other.http.get("/audio/voices/hers").json()["id"] == voice
