"""Planner alone: from a request to prompts, pauses and sampling. No server."""

import pytest

from engine import Prompt
from qtts_openai.errors import ApiError
from tests.api.parts import Parts

ALL = ("custom", "design", "base")
AUDIO = "AAAAAA=="


@pytest.fixture
def parts(tokenizer_dir, tmp_path):
    return Parts(tokenizer_dir, tmp_path, ALL)


async def test_a_short_text_is_one_prompt_of_one_speaker(parts):
    plan = await parts.plan()
    (prompt,) = plan.parts
    assert plan.model.id == "custom" and prompt.speakers == ((3065, 1.0),)
    assert plan.num_chars == len("Hello there.") and plan.ignored == ()


@pytest.mark.parametrize("text", ["", "  \n ", "\u200b"])
async def test_a_text_of_nothing_is_refused(parts, text):
    with pytest.raises(ApiError) as error:
        await parts.plan(input=text)
    assert (error.value.param, error.value.code) == ("input", "empty_string")


async def test_a_text_beyond_the_limit_is_refused_with_both_numbers(parts):
    with pytest.raises(ApiError) as error:
        await parts.plan(input="a" * 4097)
    assert error.value.code == "string_above_max_length"
    assert "4097" in error.value.message and "4096" in error.value.message


async def test_a_rate_that_the_format_cannot_have_is_refused(parts):
    with pytest.raises(ApiError) as error:
        await parts.plan(response_format="mp3", sample_rate=9000)
    assert error.value.param == "sample_rate"


async def test_pauses_are_seconds_between_prompts(parts):
    plan = await parts.plan(input="One. [pause:500ms] Two.", pause_tags=True)
    first, silence, second = plan.parts
    assert isinstance(first, Prompt) and isinstance(second, Prompt) and silence == 0.5
    assert first.speakers == second.speakers


async def test_without_the_field_a_pause_tag_is_text(parts):
    assert len((await parts.plan(input="One. [pause:500ms] Two.")).parts) == 1


async def test_a_style_is_counted_and_goes_into_the_prompt(parts):
    plan = await parts.plan(instructions="Whisper.")
    assert plan.parts[0].instruct and plan.num_chars == len("Hello there.") + len("Whisper.")


async def test_what_the_model_has_no_use_for_is_named(tokenizer_dir, tmp_path):
    parts = Parts(tokenizer_dir, tmp_path, supports_instruct=False)
    plan = await parts.plan(instructions="Whisper.", ref_text="Said.")
    assert set(plan.ignored) == {"instructions", "ref_text"} and not plan.parts[0].instruct


async def test_a_style_longer_than_the_model_reads_is_named_and_left_out(tokenizer_dir, tmp_path):
    parts = Parts(tokenizer_dir, tmp_path, instructions_chars=20)
    kept, left_out = [await parts.plan(instructions="Calm. " * count) for count in (3, 4)]
    assert kept.parts[0].instruct and kept.ignored == ()
    assert not left_out.parts[0].instruct and left_out.ignored == ("instructions",)
    assert left_out.num_chars == len("Hello there.")


@pytest.mark.parametrize(
    ("description", "code"),
    [("A calm voice. " * 2, "string_above_max_length"), (" \u200b", "missing_required_parameter")],
)
async def test_a_description_the_model_cannot_read_is_a_400(
    tokenizer_dir, tmp_path, description, code
):
    parts = Parts(tokenizer_dir, tmp_path, ("custom", "design"), instructions_chars=20)
    asked = {"task_type": "VoiceDesign", "voice": ...}
    assert (await parts.plan(instructions="A calm voice.", **asked)).parts[0].instruct
    for plan in (parts.plan, parts.plan_live):
        with pytest.raises(ApiError) as error:
            await plan(instructions=description, **asked)
        assert (error.value.param, error.value.code) == ("instructions", code)


async def test_a_description_without_its_task_is_told_of_it(parts):
    with pytest.raises(ApiError, match="task_type 'VoiceDesign'") as error:
        await parts.plan(instructions="An old man.", voice=...)
    assert error.value.param == "voice"


async def test_a_described_voice_keeps_its_seed_unless_the_request_has_one(parts):
    plan = await parts.plan(voice="narrator")
    assert plan.model.id == "design" and plan.params.seed == parts.table.get("narrator").seed
    assert (await parts.plan(voice="narrator", seed=7)).params.seed == 7
    assert (await parts.plan(seed=-1)).params.seed is None


async def test_no_top_k_is_zero(parts):
    assert (await parts.plan(top_k=-1)).params.top_k == 0
    assert (await parts.plan()).params.top_k is None


async def test_voice_design_needs_a_description(parts):
    with pytest.raises(ApiError) as error:
        await parts.plan(task_type="VoiceDesign", voice=...)
    assert (error.value.param, error.value.code) == ("instructions", "missing_required_parameter")


async def test_a_clone_streams_its_text_and_names_its_reference(parts):
    plan = await parts.plan(voice=..., ref_audio=AUDIO, ref_text="Said.")
    (prompt,) = plan.parts
    assert prompt.reference == plan.reference.key and prompt.reference_text
    assert prompt.streaming_text and prompt.speakers == ()
    whole = await parts.plan(voice=..., ref_audio=AUDIO, non_streaming_mode=True)
    assert not whole.parts[0].streaming_text


async def test_a_transcript_that_the_model_has_no_use_for_is_named(tokenizer_dir, tmp_path):
    parts = Parts(tokenizer_dir, tmp_path, ("base",), uses_ref_text=False)
    plan = await parts.plan(voice=..., ref_audio=AUDIO, ref_text="Said.")
    assert plan.parts[0].reference and not plan.parts[0].reference_text
    assert plan.ignored == ("ref_text",) and not plan.parts[0].streaming_text


async def test_a_language_is_refused_by_name_and_forgiven_as_a_code(parts):
    with pytest.raises(ApiError) as error:
        await parts.plan(language="Klingon")
    assert error.value.param == "language"
    assert (await parts.plan(lang_code="tlh")).parts[0].language_id is None
    assert (await parts.plan(language="de")).parts[0].language_id == 2053


async def test_long_texts_are_planned_off_the_event_loop(parts, watched_loop):
    plan = await parts.plan(input="This is a sentence. " * 200)
    assert plan.num_chars == len("This is a sentence. " * 200)
