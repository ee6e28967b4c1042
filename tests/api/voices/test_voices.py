import msgspec
import numpy as np
import pytest

from qtts_openai.errors import ApiError
from qtts_openai.settings import OPENAI_NAMES, Defaults, Settings, VoiceEntry, VoiceSettings
from qtts_openai.state import spoken_language
from qtts_openai.voices.presets import Voice, VoiceTable
from tests.api.conftest import CUSTOM, DESIGN, serving, starter
from tests.api.fake_engine import SPEAKERS, FakeEngine, model_info
from tests.api.test_speech import assert_envelope


@pytest.fixture
def model(tmp_path):
    return model_info("m", tmp_path)


def table_for(*models, extra=()):
    return VoiceTable(OPENAI_NAMES, extra, models)


def test_at_least_49_voices_with_all_their_data(model):
    voices = table_for(model).voices.values()
    assert len(voices) >= 49
    assert all(voice.language and voice.description and voice.gender for voice in voices)
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
    assert "wizard" not in by_name, "nothing here can speak it"
    everything = server.http.get("/audio/voices", params={"available": "all"}).json()["voices"]
    by_name = {voice["name"]: voice for voice in everything}
    assert not by_name["wizard"]["available"] and by_name["wizard"]["needs"] == ["VoiceDesign"]
    for option in ("names_only", "legacy"):
        names = server.http.get("/audio/voices", params={option: "true"}).json()["voices"]
        assert "alloy" in names


def test_a_voice_of_a_missing_family_says_so(server):
    error = server.speak(voice="wizard").json()["error"]
    assert "VoiceDesign" in error["message"] and error["param"] == "voice"


def test_a_listed_language_is_one_that_the_model_speaks(tokenizer_dir):
    english = model_info("m", tokenizer_dir, languages={"english": 1})
    voice = Voice(id="v", name="v", language="Chinese")
    assert spoken_language(voice, [english]) == "English"
    several = model_info("m", tokenizer_dir, languages={"english": 1, "german": 2})
    assert spoken_language(voice, [several]) == "Auto"
    assert spoken_language(voice, [model_info("m", tokenizer_dir)]) == "Chinese"
    assert spoken_language(voice, []) == "Chinese"


def test_every_name_in_a_list_can_be_spoken(server):
    for name in server.http.get("/audio/voices", params={"names_only": "true"}).json()["voices"]:
        assert server.speak(voice=name).status_code == 200


def test_default_is_a_voice(server, trio):
    assert server.speak(voice="default").status_code == 200
    default = server.engine.submitted[-1][1]
    server.speak(voice="alloy")
    assert server.engine.submitted[-1][1] == default
    assert trio.speak(model="design", voice="Default").status_code == 200
    assert_envelope(trio.speak(model="base", voice="default"), 400, "ref_audio")


def test_default_is_the_voice_of_the_settings(start):
    server = start(defaults=Defaults(voice="ryan"))
    server.speak(voice="default")
    assert server.engine.submitted[-1][1].speakers == ((SPEAKERS["ryan"], 1.0),)


@pytest.fixture(scope="module")
def with_extra_voice(tokenizer_dir, tmp_path_factory):
    extra = (VoiceEntry(name="teller", speaker="serena"),)
    voices = VoiceSettings(directory=str(tmp_path_factory.mktemp("voices")), extra=extra)
    with starter(tokenizer_dir) as begin:
        yield begin(models=(CUSTOM, DESIGN), voices=voices)


@pytest.mark.parametrize("voice", ["default", "alloy", "vivian", "teller", "nobody", "vivian+ryan"])
def test_a_description_needs_no_voice_and_ignores_the_one_that_an_sdk_sends(
    with_extra_voice, voice
):
    server = with_extra_voice
    server.engine.behave()
    fields = {"task_type": "VoiceDesign", "instructions": "An old man.", "seed": 1}
    server.speak(**fields, voice=...)
    answer = server.speak(**fields, voice=voice)
    assert answer.status_code == 200 and answer.headers["x-ignored-fields"] == "voice"
    (model, without, *_), (same, beside, *_) = server.engine.submitted
    assert (model, without) == (same, beside) and model == "design"


def test_a_voice_that_is_a_description_is_told_how_to_speak(trio):
    trio.speak(model="design", voice="wizard", instructions="Tired.")
    both = trio.engine.submitted[-1][1].instruct
    trio.speak(model="design", voice=..., instructions="Tired.")
    assert len(both) > len(trio.engine.submitted[-1][1].instruct)


def test_gains_make_speakers_equally_loud_to_the_last_sample(tokenizer_dir, tmp_path):
    settings = Settings(models=(CUSTOM,), voices=VoiceSettings(directory=str(tmp_path)))
    info = model_info("Qwen/custom", tokenizer_dir)
    gains = {"vivian": -6.0, "ryan": 12.0}
    loud = msgspec.structs.replace(info, speaker_gains_db=gains)
    heard = {}
    for name, model in {"before": info, "after": loud}.items():
        with serving(settings, FakeEngine([model])) as server:
            for voice in ("vivian", "ryan", "aiden", "vivian+aiden"):
                for text in ("Hi.", "Red [pause:200ms] blue."):
                    fields = {"response_format": "pcm", "pause_tags": True}
                    pcm = server.speak(voice=voice, input=text, **fields).content
                    heard[name, voice, text] = np.frombuffer(pcm, "<i2").astype(float)
    for (name, voice, text), samples in heard.items():
        if name == "before":
            gain = {"vivian": -6.0, "ryan": 12.0, "aiden": 0.0, "vivian+aiden": -3.0}[voice]
            wanted = np.rint(samples * 10 ** (gain / 20)).clip(-32768, 32767)
            np.testing.assert_array_equal(heard["after", voice, text], wanted)
