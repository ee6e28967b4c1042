"""Voices that users make: over HTTP and the openai client, and on disk across crashes."""

import base64
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from engine import FinishReason, ReferenceAudio
from qtts_openai.settings import RefAudioSettings, VoiceSettings
from qtts_openai.voice_store import VoiceStore
from tests.api.conftest import BASE, CUSTOM, DESIGN
from tests.api.test_routing import clip, used
from tests.api.test_speech import assert_envelope

CLIP = base64.b64decode(clip())


@pytest.fixture
def own(start, tmp_path):
    """All three families with a store of its own."""
    return start(
        models=(CUSTOM, DESIGN, BASE), voices=VoiceSettings(directory=str(tmp_path), max_voices=5)
    )


def upload(server, name="mine", **fields):
    files = {"audio_sample": ("a.wav", CLIP, "audio/wav")}
    data = {"name": name, "consent": "cons_1", **fields}
    return server.http.post("/audio/voices", data=data, files=files)


def test_a_voice_from_a_sample_through_the_sdk(own):
    with own.openai() as client:
        voice = client.audio.voices.create(
            name="My voice", consent="cons_1", audio_sample=("a.wav", CLIP, "audio/wav")
        )
        assert (voice.object, voice.type, voice.name) == ("audio.voice", "audio_sample", "My voice")
        client.audio.speech.create(model="tts-1", voice={"id": voice.id}, input="Hi.")
        model, prompt, reference = used(own)
        assert model == "base" and prompt.reference == reference.key and not prompt.reference_text
        client.audio.speech.create(model="tts-1", voice="my VOICE", input="Hi.")
        gone = client.audio.voices.delete(voice.id)
        assert gone.deleted and gone.object == "audio.voice.deleted" and gone.id == voice.id
        with pytest.raises(openai.NotFoundError):
            client.audio.voices.delete(voice.id)
        with pytest.raises(openai.BadRequestError):
            client.audio.speech.create(model="tts-1", voice={"id": voice.id}, input="Hi.")


def test_what_the_sample_says_makes_the_clone_follow_it(own):
    voice = upload(own, ref_text="what I said").json()
    own.speak(voice=voice["id"])
    assert used(own)[1].reference_text
    own.speak(voice=voice["id"], x_vector_only_mode=True)
    assert not used(own)[1].reference_text


@pytest.mark.parametrize("as_json", [True, False])
def test_a_described_voice_is_designed_once_and_then_cloned(own, as_json):
    fields = {"name": "Bright", "type": "prompt", "prompt": "A bright young male voice."}
    if as_json:
        voice = own.http.post("/audio/voices", json=fields).json()
    else:
        with own.openai() as client:
            voice = client.audio.voices.create(**fields).to_dict()
    assert (voice["type"], voice["prompt"]) == ("prompt", fields["prompt"])
    for _ in range(2):
        assert own.speak(voice={"id": voice["id"]}).status_code == 200
    models = [model for model, *_ in own.engine.submitted]
    assert models == ["design", "base", "base"]
    assert own.engine.submitted[1][3] == own.engine.submitted[2][3]
    assert own.engine.submitted[1][1].reference_text


def test_a_described_voice_on_a_design_model_keeps_its_seed(own):
    fields = {"name": "Bright", "type": "prompt", "prompt": "A bright young male voice."}
    voice = own.http.post("/audio/voices", json=fields).json()
    for _ in range(2):
        own.speak(model="design", voice=voice["id"])
    first, second = (params for _, _, params, _ in own.engine.submitted)
    assert first.seed == second.seed is not None
    own.speak(model="design", voice=voice["id"], seed=3)
    assert own.engine.submitted[-1][2].seed == 3


def test_8_first_requests_at_once_design_once(own):
    fields = {"name": "Bright", "prompt": "A bright young male voice.", "script_hint": "Hello."}
    voice = own.http.post("/audio/voices", json=fields).json()
    own.engine.chunk_delay_s = 0.01
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: own.speak(voice=voice["id"]).status_code, range(8))
        assert list(answers) == [200] * 8
    assert [model for model, *_ in own.engine.submitted].count("design") == 1


def test_a_design_that_never_ends_is_a_clean_error(own):
    fields = {"name": "Bright", "prompt": "A bright young male voice."}
    voice = own.http.post("/audio/voices", json=fields).json()
    own.engine.end_reason = FinishReason.LENGTH
    assert_envelope(own.speak(voice=voice["id"]), 500, None, "generation_failed")


def test_without_the_families_the_listing_and_the_400_say_so(server):
    fields = {"name": "Lonely", "prompt": "A bright young male voice."}
    voice = server.http.post("/audio/voices", json=fields).json()
    shown = server.http.get(f"/audio/voices/{voice['id']}").json()
    assert not shown["available"] and shown["needs"] == ["VoiceDesign"]
    error = assert_envelope(server.speak(voice=voice["id"]), 400, "voice", "unsupported_by_model")
    assert "VoiceDesign" in error["message"]
    server.http.delete(f"/audio/voices/{voice['id']}")


def test_listing_and_delete_by_name(own):
    made = upload(own, "Anna/Lena").json()
    assert made["success"] is True and made["voice"]["id"] == made["id"]
    listing = own.http.get("/audio/voices").json()
    assert [voice["name"] for voice in listing["uploaded_voices"]] == ["Anna/Lena"]
    assert made["id"] in [voice["id"] for voice in listing["voices"]]
    assert "Anna/Lena" in own.http.get("/audio/voices?legacy=true").json()["voices"]
    assert own.http.delete("/audio/voices/anna%2Flena").json()["deleted"] is True
    assert_envelope(own.http.delete("/audio/voices/anna%2Flena"), 404)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "   "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": " " * 60_000 + "\n"}, "name"),
        ({"name": "Alloy"}, "name"),
        ({"name": "a", "type": "song"}, "type"),
        ({"name": "a", "type": "prompt"}, "prompt"),
        ({"name": "a", "type": "prompt", "prompt": " "}, "prompt"),
        ({"name": "a", "type": "prompt", "prompt": "x" * 4097}, "prompt"),
        ({"name": "a"}, "audio_sample"),
        ({"name": "a", "audio_sample": "text"}, "audio_sample"),
        ({"prompt": "x"}, "name"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_bad_voices(server, fields, param, as_json):
    body = {"json": fields} if as_json else {"files": {k: (None, v) for k, v in fields.items()}}
    assert_envelope(server.http.post("/audio/voices", **body), 400, param)


@pytest.mark.parametrize(
    "sample", [b"", b"RIFF nonsense", base64.b64decode(clip(0.1)), base64.b64decode(clip(61))]
)
def test_bad_samples(server, sample):
    files = {"audio_sample": ("a.wav", sample, "audio/wav")}
    answer = server.http.post("/audio/voices", data={"name": "a", "consent": "c"}, files=files)
    assert_envelope(answer, 400, "audio_sample")


def test_a_sample_without_consent(server):
    files = {"audio_sample": ("a.wav", CLIP, "audio/wav")}
    answer = server.http.post("/audio/voices", data={"name": "a"}, files=files)
    assert_envelope(answer, 400, "consent")


def test_a_sample_that_is_too_large(start):
    server = start(ref_audio=RefAudioSettings(max_bytes=1000))
    assert_envelope(upload(server), 400, "audio_sample", "file_too_large")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x"),
        ("multipart/form-data; boundary=x", b"--y\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Dispo"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="name"\r\n'
            b"Content-Type: text/plain; charset=klingon\r\n\r\nA\r\n--x--\r\n",
        ),
        ("application/x-www-form-urlencoded", b"name=%ff&type=prompt"),
        ("application/json", b"{"),
        ("application/json", b"[]"),
    ],
)
def test_bodies_that_cannot_be_read(server, content_type, body):
    headers = {"content-type": content_type}
    assert_envelope(server.http.post("/audio/voices", content=body, headers=headers), 400)


def test_the_quota(own):
    for i in range(5):
        assert upload(own, f"voice {i}").status_code == 200
    assert_envelope(upload(own, "one more"), 400, None, "quota_exceeded")


def test_voices_survive_a_restart(start, tmp_path):
    voices = VoiceSettings(directory=str(tmp_path))
    made = upload(start(models=(CUSTOM, BASE), voices=voices)).json()
    again = start(models=(CUSTOM, BASE), voices=voices)
    assert again.speak(voice=made["id"]).status_code == 200


def test_consents_through_the_sdk(own):
    with own.openai() as client:
        consents = client.audio.voice_consents
        made = [
            consents.create(
                name=f"n{i}", language="en-US", recording=("r.mp3", b"\xff" * 100, "audio/mpeg")
            )
            for i in range(3)
        ]
        assert made[0].object == "audio.voice_consent" and made[0].id.startswith("cons_")
        assert [consent.id for consent in consents.list(limit=2)] == [c.id for c in made]
        page = own.http.get("/audio/voice_consents", params={"limit": 2}).json()
        assert page["has_more"] and page["last_id"] == made[1].id
        assert consents.update(made[0].id, name="other").name == "other"
        assert consents.retrieve(made[0].id).name == "other"
        assert consents.delete(made[0].id).deleted
        with pytest.raises(openai.NotFoundError):
            consents.retrieve(made[0].id)
    assert_envelope(own.http.get("/audio/voice_consents?limit=0"), 400, "limit")
    assert_envelope(own.http.get("/audio/voice_consents?limit=x"), 400)
    assert_envelope(own.http.get("/audio/voice_consents?after=nobody"), 404)


SAMPLE = ReferenceAudio("key", b"\0" * 400_000)


def test_files_that_a_crash_leaves_behind_are_cleared(tmp_path):
    store = VoiceStore(tmp_path, 10)
    voice = store.add_sample("a", SAMPLE)
    folder = tmp_path / "voices"
    (folder / "voice_0.json.part").write_text("{")
    (folder / "voice_1.bin").write_bytes(b"orphan")
    (folder / "voice_2.json").write_text("{not json")
    again = VoiceStore(tmp_path, 10)
    assert [known.id for known in again.voices] == [voice.id]
    assert again.reference(voice.id) == SAMPLE
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{voice.id}.json", f"{voice.id}.bin", "voice_2.json"}


@pytest.mark.parametrize("delay_s", [0.05, 0.13, 0.21, 0.34])
def test_kill_9_at_any_moment_leaves_whole_voices(tmp_path, delay_s):
    code = f"""
        import pathlib
        from engine import ReferenceAudio
        from qtts_openai.voice_store import VoiceStore
        store = VoiceStore(pathlib.Path({str(tmp_path)!r}), 10**6)
        print("ready", flush=True)
        while True:
            voice = store.add_sample("a", ReferenceAudio("key", b"\\0" * 400_000))
            store.keep_utterance(voice, ReferenceAudio("key", b"\\1" * 400_000), "text")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        os.kill(process.pid, signal.SIGKILL)
    store = VoiceStore(tmp_path, 10**6)
    folder = tmp_path / "voices"
    assert len(list(folder.glob("*.json"))) == len(list(store.voices))
    for voice in store.voices:
        reference = store.reference(voice.id)
        assert reference is not None and len(reference.samples) == 400_000
    assert not list(folder.glob("*.part"))


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(own, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qtts_openai.records.os.fsync", full)
    error = assert_envelope(upload(own), 507, None, "storage_failed")
    assert "No space left" in error["message"]
    monkeypatch.undo()
    assert own.http.get("/audio/voices").json()["uploaded_voices"] == []
    assert upload(own).status_code == 200


def test_names_never_become_paths(own, tmp_path):
    made = upload(own, "../../../etc/passwd").json()
    files = {path.name for path in (tmp_path / "voices").iterdir()}
    assert files == {f"{made['id']}.json", f"{made['id']}.bin"}
    assert not Path(tmp_path.parent / "etc").exists()
    record = json.loads((tmp_path / "voices" / f"{made['id']}.json").read_text())
    assert record["name"] == "../../../etc/passwd"
    for path in ("..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "voice_x%00"):
        assert own.http.delete(f"/audio/voices/{path}").status_code in (400, 404)
