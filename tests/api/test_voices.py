import pytest

from qtts_openai.errors import ApiError
from qtts_openai.voices import OPENAI_NAMES, VoiceEntry, VoiceTable
from tests.api.fake_engine import SPEAKERS, model_info


@pytest.fixture
def model(tmp_path):
    return model_info("m", tmp_path)


def table_for(*models, extra=()):
    return VoiceTable(OPENAI_NAMES, extra, models)


def test_at_least_49_voices_with_all_their_data(model):
    voices = table_for(model).voices.values()
    assert len(voices) >= 49
    assert all(voice.language and voice.character and voice.gender for voice in voices)
    assert set(SPEAKERS) | set(OPENAI_NAMES) <= {voice.name for voice in voices}


def test_openai_names_are_speakers_of_the_table(model):
    table = table_for(model)
    for name, speaker in OPENAI_NAMES.items():
        assert table.rows(table.get(name.upper()), model) == ((SPEAKERS[speaker], 1.0),)


def test_a_checkpoint_with_other_speakers_gets_stand_ins_of_the_same_gender(tmp_path):
    small = model_info("small", tmp_path, speakers={"female": 1, "male": 2})
    table = table_for(small)
    for name in OPENAI_NAMES:
        voice = table.get(name)
        assert table.rows(voice, small) == (({"female": 1, "male": 2}[voice.gender], 1.0),)
    assert table.rows(table.get("male"), small) == ((2, 1.0),)


def test_the_embedded_speakers_stand_in_for_all(tmp_path):
    small = model_info("small", tmp_path, speakers={"ava": 900, "max": 901})
    table = table_for(small)
    for voice in table.voices.values():
        if voice.speakers:
            assert table.rows(voice, small) == (({"female": 900, "male": 901}[voice.gender], 1.0),)


def test_stand_ins_know_speakers_that_the_settings_describe(tmp_path):
    small = model_info("small", tmp_path, speakers={"slt": 1, "rms": 2})
    extra = [
        VoiceEntry(name="slt", speaker="slt", gender="female"),
        VoiceEntry(name="rms", speaker="rms", gender="male"),
    ]
    table = table_for(small, extra=extra)
    assert table.rows(table.get("onyx"), small) == ((2, 1.0),)
    assert table.rows(table.get("shimmer"), small) == ((1, 1.0),)


def test_mixes_are_weights_over_speakers(model):
    table = table_for(model)
    rows = dict(table.rows(table.mix("Vivian(2) + ryan"), model))
    assert rows == {
        SPEAKERS["vivian"]: pytest.approx(2 / 3),
        SPEAKERS["ryan"]: pytest.approx(1 / 3),
    }
    both = table.mix("alloy+vivian")
    assert table.rows(both, model) == ((SPEAKERS["vivian"], 1.0),)


def test_described_voices_cannot_be_mixed(model):
    with pytest.raises(ApiError, match="cannot be mixed"):
        table_for(model).mix("wizard+ryan")


def test_listing_shapes(server):
    listing = server.http.get("/audio/voices").json()
    assert listing["object"] == "list" and listing["voices"] == listing["data"]
    by_name = {voice["name"]: voice for voice in listing["voices"]}
    assert by_name["alloy"]["available"] and by_name["alloy"]["models"] == ["Qwen/custom"]
    assert not by_name["wizard"]["available"] and by_name["wizard"]["needs"] == ["VoiceDesign"]
    for option in ("names_only", "legacy"):
        names = server.http.get("/audio/voices", params={option: "true"}).json()["voices"]
        assert "alloy" in names


def test_a_voice_of_a_missing_family_says_so(server):
    error = server.speak(voice="wizard").json()["error"]
    assert "VoiceDesign" in error["message"] and error["param"] == "voice"
