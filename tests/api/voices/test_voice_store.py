"""Voices that users make: over HTTP and the openai client, and on disk across crashes."""

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from engine import FinishReason
from qtts_openai.settings import RefAudioSettings, VoiceSettings
from tests.api.conftest import BASE, CUSTOM, DESIGN
from tests.api.speech.test_streaming import wait_until
from tests.api.test_speech import assert_envelope
from tests.api.voices.test_routing import clip, used

CLIP = base64.b64decode(clip())
CONSENT = "I am the speaker and allow this."


@pytest.fixture
def own(start, tmp_path):
    """All three families with a store of its own."""
    return start(
        models=(CUSTOM, DESIGN, BASE), voices=VoiceSettings(directory=str(tmp_path), max_voices=5)
    )


def upload(server, name="mine", **fields):
    files = {"audio_sample": ("a.wav", CLIP, "audio/wav")}
    data = {"name": name, "consent": CONSENT, **fields}
    return server.http.post("/audio/voices", data=data, files=files)


def test_a_voice_from_a_sample_through_the_sdk(own):
    import openai  # takes seconds, which others who import this file need not spend

    with own.openai() as client:
        voice = client.audio.voices.create(
            name="My voice", consent=CONSENT, audio_sample=("a.wav", CLIP, "audio/wav")
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


def test_a_described_voice_may_bring_its_seed(own):
    fields = {"name": "Bright", "prompt": "A bright young male voice.", "type": "prompt"}
    for seed in (5, "5"):
        form = (
            {"json": {**fields, "seed": seed}} if seed == 5 else {"data": {**fields, "seed": seed}}
        )
        voice = own.http.post("/audio/voices", **form).json()
        own.speak(model="design", voice=voice["id"])
        assert own.engine.submitted[-1][2].seed == 5
    refused = own.http.post("/audio/voices", json={**fields, "seed": -1})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "seed"


def test_8_first_requests_at_once_design_once(own):
    fields = {"name": "Bright", "prompt": "A bright young male voice.", "script_hint": "Hello."}
    voice = own.http.post("/audio/voices", json=fields).json()
    own.engine.chunk_delay_s = 0.01
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: own.speak(voice=voice["id"]).status_code, range(8))
        assert list(answers) == [200] * 8
    assert [model for model, *_ in own.engine.submitted].count("design") == 1


def test_a_design_waits_for_its_callers_turn(own):
    own.engine.num_rows = own.engine.max_live = 1  # one more at once would be refused
    own.engine.chunk_delay_s = 0.02
    voice = own.http.post("/audio/voices", json={"name": "Bright", "prompt": "A voice."}).json()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(own.speak, response_format="pcm") for _ in range(2)]
        answers.append(pool.submit(own.speak, voice=voice["id"]))
        assert [answer.result().status_code for answer in answers] == [200] * 3


def test_the_log_says_who_speaks_with_a_stored_voice(start, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("QTTS_API_KEYS", "ann: a, bob: b")
    server = start(models=(CUSTOM, DESIGN, BASE), voices=VoiceSettings(directory=str(tmp_path)))
    server.http.headers["authorization"] = "Bearer a"
    voice = server.http.post("/audio/voices", json={"name": "Bright", "prompt": "A voice."}).json()
    item = {"model": "design", "voice": voice["id"], "input": "Hi."}
    with caplog.at_level("INFO"):
        server.speak(voice=voice["id"], model="design")
        server.http.post("/audio/speech/batch", json={"items": [item]})
        server.speak()
    lines = [record.message for record in caplog.records if "is spoken by" in record.message]
    assert lines == [f"voice {voice['id']} is spoken by ann on design"] * 2


def test_a_design_that_never_ends_is_a_clean_error(own):
    fields = {"name": "Bright", "prompt": "A bright young male voice."}
    voice = own.http.post("/audio/voices", json=fields).json()
    own.engine.end_reason = FinishReason.LENGTH
    assert_envelope(own.speak(voice=voice["id"]), 500, None, "generation_failed")


def test_a_description_that_the_model_cannot_read_is_not_kept(start, tmp_path):
    short = msgspec.structs.replace(DESIGN, instructions_chars=20)
    server = start(models=(CUSTOM, short), voices=VoiceSettings(directory=str(tmp_path)))
    fields = {"name": "Bright", "prompt": "A bright young male voice."}
    answer = server.http.post("/audio/voices", json=fields)
    assert_envelope(answer, 400, "prompt", "string_above_max_length")
    assert server.http.get("/audio/voices").json()["uploaded_voices"] == []


@pytest.mark.parametrize("family", ["VoiceDesign", "Base"])
def test_a_voice_of_a_family_that_is_not_loaded_cannot_be_made(server, family):
    fields = {"name": "Lonely", "prompt": "A bright young male voice."}
    as_prompt = family == "VoiceDesign"
    answer = server.http.post("/audio/voices", json=fields) if as_prompt else upload(server)
    param = "prompt" if as_prompt else "audio_sample"
    error = assert_envelope(answer, 400, param, "unsupported_by_model")
    assert f"{family} model" in error["message"]


def test_a_voice_whose_family_was_unloaded_says_so(start, tmp_path):
    voices = VoiceSettings(directory=str(tmp_path))
    fields = {"name": "Lonely", "prompt": "A bright young male voice."}
    design = start(models=(CUSTOM, DESIGN), voices=voices)
    voice = design.http.post("/audio/voices", json=fields).json()
    server = start(voices=voices)
    shown = server.http.get(f"/audio/voices/{voice['id']}").json()
    assert not shown["available"] and shown["needs"] == ["VoiceDesign"]
    error = assert_envelope(server.speak(voice=voice["id"]), 400, "voice", "unsupported_by_model")
    assert "VoiceDesign" in error["message"]
    assert server.http.get("/audio/voices").json()["uploaded_voices"] == []
    listing = server.http.get("/audio/voices", params={"available": "all"}).json()
    assert [voice["name"] for voice in listing["uploaded_voices"]] == ["Lonely"]


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
        ({"name": "\u202eyolla"}, "name"),
        ({"name": "a\u2028b"}, "name"),
        ({"name": "a\x9bb"}, "name"),
        ({"name": "\uff41\uff4c\uff4c\uff4f\uff59"}, "name"),
        ({"name": "vivi\u0430n"}, "name"),
        ({"name": "aIloy"}, "name"),
        ({"name": "a", "speaker_embedding": "[1, 2]"}, "speaker_embedding"),
        ({"name": "a", "type": "song"}, "type"),
        ({"name": "a", "type": "prompt"}, "prompt"),
        ({"name": "a", "type": "prompt", "prompt": " "}, "prompt"),
        ({"name": "a", "type": "prompt", "prompt": " \u200b"}, "prompt"),
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
def test_bad_samples(own, sample):
    files = {"audio_sample": ("a.wav", sample, "audio/wav")}
    answer = own.http.post("/audio/voices", data={"name": "a", "consent": CONSENT}, files=files)
    assert_envelope(answer, 400, "audio_sample")


@pytest.mark.parametrize("consent", ["", "no", "x" * 9, "x" * 2001, "cons_1", "cons_"])
def test_consents_that_say_nothing(own, consent):
    assert_envelope(upload(own, consent=consent), 400, "consent")


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
    import openai  # takes seconds, which others who import this file need not spend

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


def test_names_never_become_paths(own, tmp_path):
    made = upload(own, "../../../etc/passwd").json()
    files = {path.name for path in (tmp_path / "voices").iterdir()}
    assert files == {"records.db", "records.db-journal", f"{made['id']}.bin"}
    assert not Path(tmp_path.parent / "etc").exists()
    assert made["name"] == "../../../etc/passwd"
    for path in ("..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "voice_x%00"):
        assert own.http.delete(f"/audio/voices/{path}").status_code in (400, 404)


def test_what_was_uploaded_is_given_back(own):
    sent = {"ref_text": "What I said.", "speaker_description": "A calm man"}
    made = upload(own, **sent).json()
    listed = own.http.get("/audio/voices").json()["uploaded_voices"][0]
    shown = own.http.get(f"/audio/voices/{made['id']}").json()
    for answer in (made, made["voice"], listed, shown):
        assert answer | sent == answer
        assert (answer["consent"], answer["mime_type"]) == (CONSENT, "audio/wav")
        assert answer["file_size"] == len(CLIP) and answer["duration"] == pytest.approx(
            1.5, abs=0.01
        )
        assert answer["created_at"] == made["created_at"] > 0
    assert shown["description"] == "A calm man"


def test_one_name_is_one_voice(own):
    ids = [upload(own, "Anna\u2019s cafe\u0301").json()["id"] for _ in range(3)]
    listed = own.http.get("/audio/voices").json()["uploaded_voices"]
    assert [voice["id"] for voice in listed] == ids[-1:]
    assert own.speak(voice="ANNA'S caf\u00e9").status_code == 200
    error = assert_envelope(upload(own, "anna's caf\u00e9", overwrite="false"), 409, "name")
    assert "overwrite" in error["message"]
    assert own.http.delete("/audio/voices/Anna's caf\u00e9").json()["id"] == ids[-1]
    assert own.http.get("/audio/voices").json()["uploaded_voices"] == []
    assert_envelope(own.speak(voice=ids[-1]), 400, "voice")


def test_replacing_needs_no_room(own):
    for i in range(5):
        assert upload(own, f"voice {i}").status_code == 200
    assert upload(own, "voice 3").status_code == 200


@pytest.mark.parametrize(("damage", "said"), [("cut", "damaged"), ("gone", "missing")])
def test_a_damaged_sample_is_an_error_of_its_own(own, tmp_path, caplog, damage, said):
    voice = upload(own).json()["id"]
    sample = tmp_path / "voices" / f"{voice}.bin"
    if damage == "cut":
        sample.write_bytes(sample.read_bytes()[:-1])
    else:
        sample.unlink()
    error = assert_envelope(own.speak(voice=voice), 500, "voice", "voice_damaged")
    assert said in error["message"] and str(tmp_path) not in error["message"]
    assert voice in caplog.text
    assert own.engine.submitted == []
    assert own.speak().status_code == 200


def make_consent(server) -> str:
    data = {"name": "Anna", "language": "en-US"}
    recording = {"recording": ("r.wav", CLIP, "audio/wav")}
    return server.http.post("/audio/voice_consents", data=data, files=recording).json()["id"]


def test_a_consent_in_use_takes_its_voices_with_it(own):
    consent = make_consent(own)
    voice = upload(own, consent=consent).json()["id"]
    path = f"/audio/voice_consents/{consent}"
    error = assert_envelope(own.http.delete(path), 409, "consent_id", "consent_in_use")
    assert "cascade=true" in error["message"]
    assert own.speak(voice=voice).status_code == 200
    gone = own.http.delete(path, params={"cascade": "true"}).json()
    assert gone["deleted"] and gone["disabled_voices"] == [voice]
    assert_envelope(own.speak(voice=voice), 403, "voice", "voice_disabled")
    assert_envelope(own.speak(voice="mine"), 403, "voice", "voice_disabled")
    assert own.http.get("/audio/voices").json()["uploaded_voices"] == []
    shown = own.http.get(f"/audio/voices/{voice}").json()
    assert shown["disabled"] and not shown["available"]
    assert_envelope(upload(own, consent=consent), 400, "consent", "consent_not_found")
    assert upload(own).status_code == 200, "uploading again with another consent"
    assert own.speak(voice="mine").status_code == 200


def test_a_consent_that_nothing_rests_on_just_goes(own):
    consent = make_consent(own)
    voice = upload(own, consent=consent).json()["id"]
    own.http.delete(f"/audio/voices/{voice}")
    assert own.http.delete(f"/audio/voice_consents/{consent}").json()["deleted"] is True


def test_a_voice_deleted_while_it_is_designed_stays_deleted(own):
    fields = {"name": "Bright", "prompt": "A bright young male voice."}
    voice = own.http.post("/audio/voices", json=fields).json()["id"]
    own.engine.chunk_delay_s = 0.1
    with ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(own.speak, voice=voice)
        wait_until(lambda: own.engine.live)
        assert own.http.delete(f"/audio/voices/{voice}").status_code == 200
        assert_envelope(speaking.result(), 400, "voice")
    assert own.http.get("/audio/voices").json()["uploaded_voices"] == []
    assert_envelope(own.http.get(f"/audio/voices/{voice}"), 404)


def test_a_file_without_a_name_is_told_what_it_lacks(server):
    body = (
        b'--x\r\nContent-Disposition: form-data; name="audio_sample"\r\n\r\n\xff\xc0\r\n--x--\r\n'
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    error = assert_envelope(server.http.post("/audio/voices", content=body, headers=headers), 400)
    assert "audio_sample" in error["message"] and "filename" in error["message"]


def test_a_name_of_spaces_is_told_what_a_name_is(server):
    fields = {"name": "  ", "prompt": "A man."}
    form = {name: (None, value) for name, value in fields.items()}
    for sent in ({"json": fields}, {"json": fields | {"name": ""}}, {"files": form}):
        error = assert_envelope(
            server.http.post("/audio/voices", **sent), 400, "name", "invalid_value"
        )
        assert "some text on one line" in error["message"], sent
