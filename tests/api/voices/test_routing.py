"""Which of several loaded checkpoints answers."""

import base64
import io

import numpy as np
import pytest
import soundfile

from tests.api.test_speech import assert_envelope

DESCRIPTION = "A warm, low female voice."


def clip(seconds: float = 1.5, rate: int = 16000, audio_format: str = "WAV") -> str:
    wave = 0.3 * np.sin(np.arange(int(seconds * rate)) * 0.05)
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=audio_format)
    return base64.b64encode(file.getvalue()).decode()


def used(server):
    model, prompt, _, reference = server.engine.submitted[-1]
    return model, prompt, reference


def test_aliases_go_to_the_family_that_can(trio):
    assert trio.speak(voice="wizard").status_code == 200
    assert used(trio)[0] == "design"
    assert trio.speak(ref_audio=clip()).status_code == 200
    assert used(trio)[0] == "base"
    fields = {"task_type": "VoiceDesign", "voice": ..., "instructions": DESCRIPTION}
    assert trio.speak(**fields).status_code == 200
    assert used(trio)[0] == "design"
    assert trio.speak().status_code == 200
    assert used(trio)[0] == "Qwen/custom"


@pytest.mark.parametrize(
    ("fields", "param", "hint"),
    [
        ({"model": "Qwen/custom", "voice": "wizard"}, "voice", "use model 'design'"),
        ({"model": "design", "ref_audio": "AAAA"}, "ref_audio", "use model 'base'"),
        ({"model": "base"}, "voice", "use model 'Qwen/custom'"),
        ({"model": "Qwen/custom", "task_type": "Base"}, "voice", "not with Base"),
    ],
)
def test_an_id_is_meant_literally_and_the_400_says_what_would_do(trio, fields, param, hint):
    error = assert_envelope(trio.speak(**fields), 400, param, "unsupported_by_model")
    assert hint in error["message"]


def test_voice_design_is_inferred_from_a_description_on_a_design_model(trio):
    answer = trio.speak(model="design", voice=..., instructions=DESCRIPTION)
    assert answer.status_code == 200
    model, prompt, _ = used(trio)
    assert model == "design" and prompt.instruct and not prompt.speakers
    assert not prompt.streaming_text
    answer = trio.speak(model="design", voice=..., task_type="VoiceDesign")
    assert_envelope(answer, 400, "instructions", "missing_required_parameter")


def test_the_agents_default_instruction_describes_no_voice(trio):
    fields = {"model": "design", "voice": ..., "task_type": "VoiceDesign"}
    sentence = (
        "You will receive partial sentences. Do not complete the sentence, just read out the text."
    )
    assert_envelope(trio.speak(**fields, instructions=sentence), 400, "instructions")


def test_named_voices_speak_on_a_design_model_by_their_description(trio):
    for voice in ("alloy", "wizard"):
        seeds = set()
        for _ in range(2):
            assert trio.speak(model="design", voice=voice).status_code == 200
            assert used(trio)[1].instruct
            seeds.add(trio.engine.submitted[-1][2].seed)
        assert len(seeds) == 1 and None not in seeds
    trio.speak(voice="alloy")
    assert trio.engine.submitted[-1][2].seed is None


def test_clones(trio):
    trio.speak(ref_audio=clip(), ref_text="what was said", voice=...)
    _, prompt, reference = used(trio)
    assert prompt.reference == reference.key and prompt.reference_text
    assert prompt.streaming_text
    samples = np.frombuffer(reference.samples, "<f4")
    assert len(samples) == pytest.approx(1.5 * 24000, abs=2)
    trio.speak(ref_audio=clip(), ref_text="what was said", x_vector_only_mode=True)
    assert not used(trio)[1].reference_text
    trio.speak(
        ref_audio="data:audio/flac;base64," + clip(audio_format="FLAC"), non_streaming_mode=True
    )
    _, prompt, reference = used(trio)
    assert not prompt.reference_text and not prompt.streaming_text
    trio.speak(references=[{"audio_path": clip(), "text": "said"}])
    assert used(trio)[1].reference_text


@pytest.mark.parametrize(
    "ref_audio",
    [
        "not base64!",
        base64.b64encode(b"RIFF nonsense").decode(),
        "https://example.org/a.wav",
        "file:///etc/passwd",
        clip(0.1),
        clip(61),
    ],
    ids=lambda text: text[:20],
)
def test_bad_reference_audio(trio, ref_audio):
    assert_envelope(trio.speak(ref_audio=ref_audio), 400, "ref_audio")


def test_instructions_that_a_model_has_no_use_for_are_reported(trio):
    answer = trio.speak(ref_audio=clip(), instructions="Cheerful.")
    assert answer.headers["x-ignored-fields"] == "instructions, voice"


def test_the_listing_names_the_family_of_each_model(trio):
    models = {model["id"]: model for model in trio.http.get("/models").json()["data"]}
    assert models["design"]["task_type"] == "VoiceDesign"
    assert models["tts-1"]["root"] == "Qwen/custom"
    assert {"name": "alloy", "language": "English"} in models["Qwen/custom"]["voices"]


@pytest.mark.parametrize("path", ["Qwen/custom", "Qwen%2Fcustom", "TTS-1"])
def test_ids_with_slashes(trio, path):
    answer = trio.http.get(f"/models/{path}")
    assert answer.status_code == 200
    assert answer.json()["root"] == "Qwen/custom"
    assert trio.speak(model="qwen/custom").status_code == 200


def test_a_speaker_embedding_stands_in_for_a_recording(trio):
    numbers = [0.5, -1, 2, 0, 0, 0, 0, 3.25]
    answer = trio.speak(speaker_embedding=numbers, ref_text="not needed")
    assert answer.headers["x-ignored-fields"] == "ref_text, voice"
    model, prompt, reference = used(trio)
    assert model == "base" and not prompt.reference_text and reference.samples == b""
    assert np.frombuffer(reference.embedding, "<f4").tolist() == numbers
    assert prompt.reference == reference.key
    assert trio.speak(model="base", voice=..., speaker_embedding=numbers).status_code == 200
    assert used(trio)[2] == reference


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"speaker_embedding": [0.0] * 7}, "invalid_value"),
        ({"speaker_embedding": []}, "invalid_value"),
        ({"speaker_embedding": [1e5] * 8}, "invalid_value"),
        ({"speaker_embedding": [1e300] * 8}, "invalid_value"),
        ({"speaker_embedding": ["a"] * 8}, "invalid_type"),
        ({"speaker_embedding": "0,0"}, "invalid_type"),
        ({"speaker_embedding": [0.0] * 8, "ref_audio": "AAAA"}, "invalid_value"),
        ({"speaker_embedding": [0.0] * 8, "model": "Qwen/custom"}, "unsupported_by_model"),
        ({"speaker_embedding": [0.0] * 8, "model": "design"}, "unsupported_by_model"),
        ({"speaker_embedding": [0.0] * 8, "task_type": "CustomVoice"}, "unsupported_by_model"),
    ],
)
def test_speaker_embeddings_that_cannot_be(trio, fields, code):
    error = assert_envelope(trio.speak(**fields), 400, code=code)
    assert error["param"].startswith("speaker_embedding")


def test_a_speaker_embedding_without_a_base_model(server):
    error = assert_envelope(
        server.speak(speaker_embedding=[0.0] * 8), 400, "speaker_embedding", "unsupported_by_model"
    )
    assert "Base checkpoint" in error["message"]
