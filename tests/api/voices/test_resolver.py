"""VoiceResolver and Catalog alone: which model, which voice, which reference. No server."""

import pytest

from qtts_openai.errors import ApiError
from qtts_openai.http.callers import Caller
from qtts_openai.settings import Defaults
from tests.api.parts import Parts

ALL = ("custom", "design", "base")
AUDIO = "AAAAAA=="


@pytest.fixture
def parts(tokenizer_dir, tmp_path):
    return Parts(tokenizer_dir, tmp_path, ALL)


def refused(error: pytest.ExceptionInfo[ApiError], status: int, param: str, word: str) -> None:
    assert (error.value.status, error.value.param) == (status, param)
    assert word in error.value.message


async def test_a_speaker_speaks_with_its_checkpoint(parts):
    found = await parts.resolve(voice="vivian")
    assert found.model.id == "custom" and found.voice.speakers == (("vivian", 1.0),)
    assert found.reference is None


async def test_a_preset_description_moves_an_alias_to_voice_design(parts):
    found = await parts.resolve(voice="narrator")
    assert found.model.id == "design" and found.voice.prompt


async def test_an_id_is_meant_literally(parts):
    with pytest.raises(ApiError) as error:
        await parts.resolve(model="custom", voice="narrator")
    refused(error, 400, "voice", "use model 'design'")


async def test_without_the_family_the_error_says_what_to_load(tokenizer_dir, tmp_path):
    parts = Parts(tokenizer_dir, tmp_path)
    with pytest.raises(ApiError) as error:
        await parts.resolve(voice="narrator")
    refused(error, 400, "voice", "load a VoiceDesign checkpoint")


async def test_reference_audio_goes_to_base(parts):
    found = await parts.resolve(voice=..., ref_audio=AUDIO, ref_text="Said.")
    assert (found.model.id, found.voice, found.reference_text) == ("base", None, "Said.")
    assert found.reference.samples == b"\0\0\0\0"


async def test_the_timbre_alone_leaves_the_text_out(parts):
    fields = {"ref_audio": AUDIO, "ref_text": "Said.", "x_vector_only_mode": True}
    found = await parts.resolve(voice=..., **fields)
    assert found.reference is not None and found.reference_text is None


async def test_an_embedding_stands_in_place_of_audio(parts):
    found = await parts.resolve(voice=..., speaker_embedding=[0.5] * 8)
    assert found.model.id == "base" and len(found.reference.embedding) == 8 * 4
    with pytest.raises(ApiError) as error:
        await parts.resolve(voice=..., speaker_embedding=[0.5] * 8, ref_audio=AUDIO)
    refused(error, 400, "speaker_embedding", "one of them")


async def test_reference_audio_goes_with_no_other_task(parts):
    with pytest.raises(ApiError) as error:
        await parts.resolve(ref_audio=AUDIO, task_type="CustomVoice")
    refused(error, 400, "ref_audio", "CustomVoice")


async def test_a_task_names_the_family(parts):
    found = await parts.resolve(task_type="VoiceDesign", voice=..., instructions="A low voice.")
    assert found.model.id == "design" and found.voice is None
    with pytest.raises(ApiError) as error:
        await parts.resolve(task_type="Base", voice="vivian")
    refused(error, 400, "voice", "not with Base")


async def test_base_without_a_reference_asks_for_one(parts):
    with pytest.raises(ApiError) as error:
        await parts.resolve(task_type="Base", voice=...)
    refused(error, 400, "ref_audio", "ref_audio")


async def test_a_voice_that_is_missing_or_unknown_is_named(parts):
    with pytest.raises(ApiError) as error:
        await parts.resolve(voice=...)
    refused(error, 400, "voice", "voice")
    with pytest.raises(ApiError) as error:
        await parts.resolve(voice="nemo")
    refused(error, 400, "voice", "vivian")


async def test_a_missing_model_is_named_unless_there_is_a_default(parts, tokenizer_dir, tmp_path):
    with pytest.raises(ApiError) as error:
        await parts.resolve(model=...)
    refused(error, 400, "model", "model")
    parts = Parts(tokenizer_dir, tmp_path / "2", ALL, Defaults(model="custom", voice="ryan"))
    found = await parts.resolve(model=..., voice=...)
    assert (found.model.id, found.voice.id) == ("custom", "ryan")


async def test_default_is_always_a_voice(parts):
    found = await parts.resolve(voice="default")
    assert found.voice.id == "alloy"


async def test_a_mix_has_weights_that_sum_to_one(parts):
    found = await parts.resolve(voice="vivian(3)+ryan(1)")
    assert dict(found.voice.speakers) == {"vivian": 0.75, "ryan": 0.25}
    with pytest.raises(ApiError) as error:
        await parts.resolve(voice="vivian(0)+ryan(0)")
    refused(error, 400, "voice", "must not all be 0")


async def test_a_stored_sample_is_cloned_with_its_words(parts):
    stored = parts.add_sample("Ada")
    for name in ("ada", stored.id):
        found = await parts.resolve(voice=name)
        assert (found.model.id, found.voice.id) == ("base", stored.id)
        assert (found.reference.key, found.reference_text) == (
            stored.reference_key,
            "What it says.",
        )


async def test_a_preset_goes_before_a_stored_voice_of_the_name(parts):
    parts.add_sample("Vivian")
    assert (await parts.resolve(voice="vivian")).model.id == "custom"


async def test_a_stored_voice_is_its_owners(parts):
    parts.add_sample("Ada", owner="a")
    found = await parts.resolve(Caller("a", "a"), voice="ada")
    assert found.model.id == "base"
    with pytest.raises(ApiError) as error:
        await parts.resolve(Caller("b", "b"), voice="ada")
    refused(error, 400, "voice", "no voice")


async def test_a_disabled_voice_speaks_no_more(parts):
    consent = parts.store.add_consent("Ada", "en", b"recording", None)
    voice = parts.store.new_voice("Ada", None, type="audio_sample", consent=consent.id)
    parts.store.add(voice, b"\0\0\0\0")
    admin = Caller("x", "x", is_admin=True)
    parts.store.delete_consent(consent.id, admin, cascade=True)
    with pytest.raises(ApiError) as error:
        await parts.resolve(voice="ada")
    refused(error, 403, "voice", "withdrawn")


async def test_a_described_voice_is_cloned_where_it_can_be(parts, tokenizer_dir, tmp_path):
    parts.add_prompt("Dry")
    found = await parts.resolve(voice="dry")
    assert found.model.id == "base" and found.reference is not None
    alone = Parts(tokenizer_dir, tmp_path / "2", ("design",))
    alone.add_prompt("Dry")
    found = await alone.resolve(voice="dry")
    assert found.model.id == "design" and found.reference is None


# ---- the registry ----


def test_models_are_found_in_any_case_and_listed_before_aliases(parts):
    assert parts.catalog.find("TTS-1").info.id == parts.catalog.find("Custom").info.id == "custom"
    assert [named.name for named in parts.catalog.all()] == [*ALL, "tts-1"]
    with pytest.raises(ApiError) as error:
        parts.catalog.find("gpt-5")
    anyone = parts.catalog.find("default")
    assert anyone.is_alias and anyone.info.id == "custom"
    refused(error, 404, "model", "tts-1")


def test_an_alias_may_be_answered_by_another_family(parts):
    catalog = parts.catalog
    assert catalog.pick(catalog.find("tts-1"), "base", "ref_audio", "ref_audio").id == "base"
    with pytest.raises(ApiError) as error:
        catalog.pick(catalog.find("custom"), "base", "ref_audio", "ref_audio")
    refused(error, 400, "ref_audio", "ref_audio needs a Base model")


def test_what_is_needed_and_not_loaded_is_a_400(tokenizer_dir, tmp_path):
    parts = Parts(tokenizer_dir, tmp_path)
    parts.catalog.need("custom_voice", "This", "voice")
    with pytest.raises(ApiError) as error:
        parts.catalog.need("base", "A voice from a sample", "audio_sample")
    refused(error, 400, "audio_sample", "A voice from a sample needs a Base model")


# ---- the table ----


def test_a_checkpoint_without_the_speaker_has_a_stand_in_of_the_gender(parts):
    model = parts.model("custom")
    few = type(model)(
        **{name: getattr(model, name) for name in model.__struct_fields__}
        | {"speakers": {"ryan": 1, "serena": 2}}
    )
    assert parts.table.rows(parts.table.get("vivian"), few) == ((2, 1.0),)
    assert parts.table.rows(parts.table.get("vivian"), model) == ((3065, 1.0),)
