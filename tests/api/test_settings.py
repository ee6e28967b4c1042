import asyncio
import pathlib

import msgspec
import pytest

from engine import EMBEDDED
from qtts_openai.settings import (
    Defaults,
    ModelSettings,
    Settings,
    SettingsError,
    VoiceEntry,
    VoiceSettings,
)
from qtts_openai.settings_file import in_file, load_settings, parse_settings
from qtts_openai.state import AppState
from tests.api.fake_engine import FakeEngine, model_info

ROOT = pathlib.Path(__file__).parents[2]


def test_config_yaml_says_what_the_defaults_are():
    assert parse_settings((ROOT / "config.yaml").read_text()) == Settings()


def test_nothing_is_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QTTS_CONFIG", raising=False)
    assert load_settings() == Settings() == parse_settings("")


def test_the_default_models_are_embedded_and_the_first_has_openai_names():
    models = Settings().models
    assert [model.checkpoint for model in models] == list(EMBEDDED)
    assert [model.id for model in models] == [f"qtts-{checkpoint}" for checkpoint in EMBEDDED]
    assert {"tts-1", "tts-1-hd", "gpt-4o-mini-tts"} <= set(models[0].aliases)
    assert (Settings().server.host, Settings().server.port) == ("127.0.0.1", 8000)


def test_path_and_environment_choose_the_file(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("server: {port: 1}")
    (tmp_path / "b.yaml").write_text("server: {port: 2}")
    (tmp_path / "config.yaml").write_text("server: {port: 3}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QTTS_CONFIG", raising=False)
    assert load_settings().server.port == 3
    monkeypatch.setenv("QTTS_CONFIG", "")
    assert load_settings().server.port == 3
    monkeypatch.setenv("QTTS_CONFIG", str(tmp_path / "b.yaml"))
    assert load_settings().server.port == 2
    assert load_settings(str(tmp_path / "a.yaml")).server.port == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {prt: 1}", r"server\.prt is not a known key; known here: host, port"),
        ("models: [{id: a, checkpoint: b, x: 1}]", r"models\[0\]\.x is not a known key"),
        ("engine: {device: gpu}", r"engine\.device: .*use one of 'auto', 'cpu', 'cuda'"),
        (
            "engine: {max_num_seqs: many}",
            r"engine\.max_num_seqs: .*'many'; use one of 'auto' or a wh",
        ),
        ("engine: {max_queued: many}", r"engine\.max_queued: Expected `int`, got `str`"),
        ("server: {port: 99999}", r"server\.port: Expected `int` <= 65535"),
        ("nonsense: 1", "nonsense is not a known key; known here: server, engine, models"),
        ("voices: {extra: [{name: a, sex: b}]}", r"voices\.extra\[0\]\.sex is not a known key"),
        ("models: []", "models: "),
        ("engine: {max_tokens: 9}", "engine.max_tokens is called engine.max_model_len now"),
        ("engine: {replicas: 2}", "engine.replicas is called engine.data_parallel_size now"),
        ("engine: {weights: int8}", "engine.weights is called engine.quantization now"),
        ("engine: {prefill_tokens: 64}", "is called engine.max_num_batched_tokens now"),
        ("engine: {max_num_batched_tokens: 0}", r"engine\.max_num_batched_tokens: .* >= 1"),
        ("engine: {kv_cache_memory: abc}", "engine: kv_cache_memory is .abc.: write auto"),
        ("engine: {chunk_ramp: [4, 2]}", "engine: chunk_ramp is .*may grow"),
        ("engine: {block_size: 24}", r"engine\.block_size: .*24.*use one of"),
        ("models: [{id: a}]", r"models\[0\]: .*checkpoint"),
        ("models: [{id: a, checkpoint: b, aliases: [A]}]", "'A' is used twice"),
        ("a: [", "not valid YAML"),
        ("[1]", "top level"),
    ],
)
def test_what_cannot_be_used_is_named(text, message):
    with pytest.raises(SettingsError, match=message) as error:
        parse_settings(text, "my.yaml")
    assert str(error.value).startswith("my.yaml: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {drain_s: .inf}", r"server\.drain_s: "),
        ("server: {drain_s: .nan}", r"server\.drain_s: "),
        ("server: {drain_s: -1}", r"server\.drain_s: "),
        ("server: {host: ''}", r"server\.host: "),
        ("server: {cors_origins: [example.com]}", r"server\.cors_origins\[.*\]: "),
        ("limits: {max_input_chars: 0}", r"limits\.max_input_chars: "),
        ("limits: {max_body_bytes: 99999999999}", r"limits\.max_body_bytes: "),
        ("limits: {chars_per_minute: -1}", r"limits\.chars_per_minute: "),
        ("limits: {chars_per_minute: 1.5}", r"limits\.chars_per_minute: "),
        ("models: [{id: '', checkpoint: b}]", r"models\[.*\]\.id: "),
        ("models: [{id: ' a', checkpoint: b}]", r"models\[.*\]\.id: "),
        ('models: [{id: "a\\nb", checkpoint: b}]', r"models\[.*\]\.id: "),
        ("models: [{id: a, checkpoint: ''}]", r"models\[.*\]\.checkpoint: "),
        ("models: [{id: a, checkpoint: b, aliases: ['']}]", r"models\[.*\]\.aliases\[.*\]: "),
        ("models: [{id: a, checkpoint: b, segment_chars: 9}]", r"models\[.*\]\.segment_chars: "),
        ("auth: {keys_file: ''}", r"auth\.keys_file: "),
        ("voices: {directory: ''}", r"voices\.directory: "),
        ("voices: {max_voices: 0}", r"voices\.max_voices: "),
        ("voices: {aliases: {alloy: ''}}", r"voices\.aliases\[.*\]: "),
        ("ref_audio: {http_timeout_s: 0}", r"ref_audio\.http_timeout_s: "),
        ("ref_audio: {min_s: 5, max_s: 5}", r"ref_audio\.max_s: must be more than min_s, 5"),
        ("text: {pronunciations: {'': x}}", r"text\.pronunciations: "),
        ("text: {max_pause_s: .inf}", r"text\.max_pause_s: "),
        ("defaults: {model: nosuch}", r"defaults\.model: there is no model 'nosuch'"),
        ("defaults: {voice: ''}", r"defaults\.voice: "),
    ],
)
def test_bounds(text, message):
    with pytest.raises(SettingsError, match=message) as error:
        parse_settings(text)
    assert "(line 1)" in str(error.value)


def test_the_line_of_a_key_is_told():
    text = (
        "server:\n  port: 1\nmodels:\n  - id: a\n    checkpoint: b\n  - id: c\n    checkpoint: ''\n"
    )
    with pytest.raises(SettingsError, match=r"models\[.*\]\.checkpoint: .*\(line [37]\)"):
        parse_settings(text)
    with pytest.raises(SettingsError, match=r"defaults\.model: .*\(line 5\)"):
        parse_settings("# a comment\n\nserver: {}\ndefaults:\n  model: x\n")
    with pytest.raises(SettingsError, match=r"server\.prt is not a known key.*\(line 3\)"):
        parse_settings("\n\nserver: {prt: 1}")


@pytest.mark.parametrize("name", ["tts-1", "TTS-1", "qtts-embedded"])
def test_a_default_model_may_be_an_id_or_an_alias(name):
    assert parse_settings(f"defaults: {{model: {name}}}").defaults.model == name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"defaults": Defaults(voice="nosuch")}, r"^defaults\.voice: There is no voice 'nosuch'"),
        ({"defaults": Defaults(voice="vivian(1)+nosuch")}, r"^defaults\.voice: "),
        (
            {"voices": VoiceSettings(aliases={"alloy": "nosuch"})},
            r"^voices\.aliases\.alloy: there is no speaker 'nosuch'; speakers: .*vivian",
        ),
        (
            {"voices": VoiceSettings(extra=(VoiceEntry(name="a", speaker="nosuch"),))},
            r"^voices\.extra\[0\]\.speaker: there is no speaker 'nosuch'",
        ),
        (
            {
                "voices": VoiceSettings(extra=(VoiceEntry(name="butler", prompt="old"),)),
                "defaults": Defaults(voice="butler"),
            },
            r"^defaults\.voice: no loaded model can speak with 'butler'",
        ),
    ],
)
def test_names_that_mean_nothing_do_not_start(tokenizer_dir, tmp_path, fields, message):
    engine = FakeEngine([model_info("m", tokenizer_dir)])
    voices = fields.get("voices", VoiceSettings())
    fields["voices"] = msgspec.structs.replace(voices, directory=str(tmp_path))
    settings = Settings(models=(ModelSettings(id="m", checkpoint="unused"),), **fields)
    with pytest.raises(SettingsError, match=message):
        asyncio.run(AppState.begin(settings, engine))
    assert engine.closed


@pytest.mark.parametrize("voice", ["alloy", "Vivian", "vivian(2)+ryan(1)"])
def test_default_voices_that_start(start, voice):
    assert start(defaults=Defaults(voice=voice)).speak(voice=...).status_code == 200


def test_a_name_found_wrong_after_loading_is_told_with_its_line(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("voices:\n  aliases:\n    echo: aiden\n    alloy: nosuch\n")
    error = in_file(SettingsError("there is no speaker", "voices.aliases.alloy"), str(path))
    assert str(error) == f"{path}: voices.aliases.alloy: there is no speaker (line 4)"


def test_a_missing_file_is_named():
    with pytest.raises(SettingsError, match=r"/no/such\.yaml: cannot be read"):
        load_settings("/no/such.yaml")
