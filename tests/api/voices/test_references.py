"""References alone: where reference audio comes from, and what is refused. No server."""

import asyncio
import base64

import pytest

from engine import FinishReason, GenerationFailedError
from qtts_openai.decoding.client import DecodeError
from qtts_openai.errors import ApiError
from qtts_openai.settings import RefAudioSettings
from qtts_openai.voices.references import DESIGN_ATTEMPTS, FIRST_WORDS
from tests.api.parts import Parts

ALL = ("custom", "design", "base")


@pytest.fixture
def parts(tokenizer_dir, tmp_path):
    return Parts(tokenizer_dir, tmp_path, ALL)


async def refusal(work) -> ApiError:
    with pytest.raises(ApiError) as error:
        await work
    return error.value


async def test_a_stored_description_that_the_model_cannot_read_is_not_tried(
    tokenizer_dir, tmp_path
):
    parts = Parts(tokenizer_dir, tmp_path, ALL, instructions_chars=5)
    voice = parts.add_prompt("mine")
    error = await refusal(parts.references.of_voice(voice.id))
    assert (error.status, error.param) == (400, "voice")
    assert not parts.engine.submitted


async def test_base64_and_data_urls_are_the_same_audio(parts):
    text = base64.b64encode(b"sound").decode()
    plain = await parts.references.of_request(f"  {text} ")
    url = await parts.references.of_request(f"data:audio/wav;base64,{text}")
    assert plain.samples == b"sound" and plain.key == url.key


async def test_what_is_no_base64_names_its_field(parts):
    error = await refusal(parts.references.of_request("not base64!"))
    assert (error.status, error.param) == (400, "ref_audio")


@pytest.mark.parametrize("url", ["http://example.org/a.wav", "HTTPS://x/y", "file:///etc/passwd"])
async def test_urls_are_closed_unless_the_settings_open_them(parts, url):
    error = await refusal(parts.references.of_request(url))
    assert (error.status, error.param) == (400, "ref_audio") and "base64" in error.message


async def test_a_file_is_read_below_its_folder_only(tokenizer_dir, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(b"sound")
    (tmp_path / "out.wav").write_bytes(b"secret")
    settings = RefAudioSettings(files_directory=str(tmp_path / "in"))
    parts = Parts(tokenizer_dir, tmp_path / "store", ALL, ref_audio=settings)
    audio = await parts.references.of_request(f"file://{tmp_path}/in/a.wav")
    assert audio.samples == b"sound"
    error = await refusal(parts.references.of_request(f"file://{tmp_path}/in/../out.wav"))
    assert error.status == 400


async def test_more_bytes_than_the_limit_are_refused(tokenizer_dir, tmp_path):
    parts = Parts(tokenizer_dir, tmp_path, ALL, ref_audio=RefAudioSettings(max_bytes=1024))
    text = base64.b64encode(bytes(1025)).decode()
    error = await refusal(parts.references.of_request(text))
    assert (error.status, error.code) == (400, "file_too_large")


async def test_a_file_that_cannot_be_decoded_is_a_400(parts):
    parts.decoder.error = DecodeError("it is no audio")
    error = await refusal(parts.references.read(b"x", "audio_sample"))
    assert (error.status, error.param) == (400, "audio_sample") and "no audio" in error.message


@pytest.mark.parametrize("numbers", [[1.0] * 7, [float("nan")] * 8, [2000.0] * 8, [1e300] * 8])
def test_an_embedding_of_another_size_or_out_of_range_is_refused(parts, numbers):
    with pytest.raises(ApiError) as error:
        parts.references.of_embedding(numbers, 8)
    assert (error.value.status, error.value.param) == (400, "speaker_embedding")


def test_an_embedding_is_known_by_its_content(parts):
    first, second = (parts.references.of_embedding([0.5] * 8, 8) for _ in range(2))
    assert first.key == second.key != parts.references.of_embedding([0.25] * 8, 8).key


async def test_a_described_voice_speaks_once_and_stays_so(parts):
    stored = parts.add_prompt("Dry")
    audio, text = await parts.references.of_voice(stored.id)
    again, _ = await parts.references.of_voice(stored.id)
    assert text == FIRST_WORDS and audio.key == again.key
    assert len(parts.engine.submitted) == 1
    model, prompt, params, _ = parts.engine.submitted[0]
    assert (model, params.seed) == ("design", 5) and prompt.instruct


async def test_two_requests_at_once_make_one_utterance(parts):
    stored = parts.add_prompt("Dry")
    both = await asyncio.gather(*(parts.references.of_voice(stored.id) for _ in range(2)))
    assert both[0][0].key == both[1][0].key and len(parts.engine.submitted) == 1


async def test_a_voice_that_does_not_end_is_tried_with_other_seeds_and_given_up(parts):
    stored = parts.add_prompt("Dry")
    parts.engine.end_reason = FinishReason.LENGTH
    with pytest.raises(GenerationFailedError, match="describe it anew"):
        await parts.references.of_voice(stored.id)
    seeds = [params.seed for _, _, params, _ in parts.engine.submitted]
    assert seeds == [5 + attempt for attempt in range(DESIGN_ATTEMPTS)]
    assert not parts.engine.live


async def test_a_voice_that_is_gone_is_a_400(parts):
    error = await refusal(parts.references.of_voice("voice_gone"))
    assert (error.status, error.param) == (400, "voice")
