import pathlib

import pytest

from qtts_openai.settings import Settings, SettingsError, load_settings, parse_settings

ROOT = pathlib.Path(__file__).parents[2]


def test_config_yaml_says_what_the_defaults_are():
    assert parse_settings((ROOT / "config.yaml").read_text()) == Settings()


def test_nothing_is_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QTTS_CONFIG", raising=False)
    assert load_settings() == Settings() == parse_settings("")


def test_the_default_model_is_embedded_and_has_openai_names():
    (model,) = Settings().models
    assert (model.id, model.checkpoint) == ("qtts-embedded", "embedded")
    assert {"tts-1", "tts-1-hd", "gpt-4o-mini-tts"} <= set(model.aliases)
    assert (Settings().server.host, Settings().server.port) == ("127.0.0.1", 8000)


def test_path_and_environment_choose_the_file(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("server: {port: 1}")
    (tmp_path / "b.yaml").write_text("server: {port: 2}")
    (tmp_path / "config.yaml").write_text("server: {port: 3}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QTTS_CONFIG", raising=False)
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


def test_a_missing_file_is_named():
    with pytest.raises(SettingsError, match=r"/no/such\.yaml: cannot be read"):
        load_settings("/no/such.yaml")
