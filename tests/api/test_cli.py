import io
import sys

import pytest

from engine import CheckpointError
from qtts_openai import cli as commands
from qtts_openai.__main__ import main
from tests.api.audio import seconds
from tests.api.fake_engine import FakeEngine, model_info


@pytest.fixture
def engine(monkeypatch, tokenizer_dir, tmp_path):
    """What `qtts say` starts."""
    fake = FakeEngine([model_info("qtts-embedded", tokenizer_dir, random_weights=True)])
    monkeypatch.setattr(commands, "EngineClient", lambda config, specs: fake)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QTTS_CONFIG", raising=False)
    return fake


@pytest.mark.parametrize("name", ["hello.mp3", "hello.wav", "hello.ogg", "hello.flac", "hello.aac"])
def test_say_writes_a_file(engine, tmp_path, capsys, name):
    assert main(["say", "Hello there.", "--voice", "ryan", "--out", str(tmp_path / name)]) == 0
    audio_format = {"ogg": "opus"}.get(name[6:], name[6:])
    assert seconds(audio_format, (tmp_path / name).read_bytes()) > 0.2
    assert engine.closed
    error = capsys.readouterr().err
    assert "noise" in error and "s of speech" in error


@pytest.mark.parametrize(
    "asked",
    [["--voice", "wizard"], ["--task-type", "VoiceDesign", "--instructions", "An old man."]],
)
@pytest.mark.parametrize("is_remote", [False, True])
def test_say_finds_the_model_that_can(engine, trio, tokenizer_dir, tmp_path, asked, is_remote):
    design = model_info("qtts-embedded-voice-design", tokenizer_dir, "voice_design")
    engine._models[design.id] = design
    where = ["--url", trio.url] if is_remote else []
    assert main(["say", "Hello.", "--out", str(tmp_path / "x.mp3"), *asked, *where]) == 0
    spoke = trio.engine if is_remote else engine
    assert spoke.models[spoke.submitted[-1][0]].model_type == "voice_design"


def test_say_names_the_file_itself(engine, tmp_path, capsys):
    assert main(["say", "Hello there."]) == 0
    assert main(["say", "Hello there.", "--format", "wav"]) == 0
    assert {path.name for path in tmp_path.glob("speech.*")} == {"speech.mp3", "speech.wav"}
    assert "speech.wav" in capsys.readouterr().err


def test_say_takes_options_and_stdin(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("From a pipe."))
    options = ["--seed", "5", "--speed", "2", "--language", "en", "--instructions", "Calm."]
    assert main(["say", "-", *options, "--model", "tts-1", "--out", str(tmp_path / "x.pcm")]) == 0
    _, prompt, params, _ = engine.submitted[0]
    assert params.seed == 5 and prompt.instruct and prompt.language_id == 2050


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_text_that_is_not_utf8_is_one_line(engine, monkeypatch, capsys, errors):
    """Which of the two stdin does is the locale's choice."""
    pipe = io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", pipe)
    for text in ("-", "caf\udce9"):
        assert main(["say", text]) == 1
        assert capsys.readouterr().err == "qtts: the text is not UTF-8\n"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "/v1/",
        "/v1/v1",
        "/v1/audio/speech",
        "/audio/speech",
        "/v1/models",
        "/health",
    ],
)
def test_a_url_may_go_on(server, tmp_path, path):
    assert main(["models", "--url", f"{server.url}{path}"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--voice", "nobody"], "There is no voice 'nobody'"),
        (["--speed", "9"], "speed"),
        (["--model", "gpt-9"], "gpt-9"),
        (["--config", "missing.yaml"], "missing.yaml: cannot be read"),
    ],
)
def test_errors_are_one_line(engine, tmp_path, capsys, arguments, message):
    assert main(["say", "Hello.", "--out", str(tmp_path / "x.mp3"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.glob("x.*"))


def test_an_out_that_names_no_format(engine, capsys):
    assert main(["say", "Hello.", "--out", "x.midi"]) == 1
    assert "--format" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_loaded_is_one_line(engine, tmp_path, capsys):
    engine.start_error = CheckpointError("/x/model.safetensors is missing")
    assert main(["say", "Hello.", "--out", str(tmp_path / "x.mp3")]) == 1
    assert capsys.readouterr().err.endswith("qtts: /x/model.safetensors is missing\n")
    assert engine.closed


def test_with_url_a_running_server_speaks(server, tmp_path, capsys):
    out = tmp_path / "x.mp3"
    assert main(["say", "Hello.", "--url", server.base_url, "--out", str(out)]) == 0
    assert seconds("mp3", out.read_bytes()) > 0.2
    bad = ["say", "Hello.", "--voice", "nobody", "--url", server.url, "--out", str(out)]
    assert main(bad) == 1
    assert "There is no voice 'nobody'" in capsys.readouterr().err


def test_a_broken_answer_leaves_no_file(server, tmp_path, capsys):
    server.engine.fail_after = 1
    out = tmp_path / "x.mp3"
    assert main(["say", "word " * 50, "--url", server.url, "--out", str(out)]) == 1
    assert not list(tmp_path.iterdir())


def test_nobody_listens(tmp_path, capsys):
    out = str(tmp_path / "x.mp3")
    assert main(["say", "Hello.", "--url", "http://127.0.0.1:9", "--out", out]) == 1
    assert capsys.readouterr().err.startswith("qtts: ")


def test_lists(server, engine, capsys):
    assert main(["models"]) == 0
    assert "qtts-embedded" in capsys.readouterr().out
    assert main(["models", "--url", server.url]) == 0
    assert "Qwen/custom" in capsys.readouterr().out
    assert main(["voices"]) == 0
    assert "alloy" in capsys.readouterr().out
    assert main(["voices", "--url", server.url]) == 0
    assert "needs VoiceDesign" in capsys.readouterr().out
