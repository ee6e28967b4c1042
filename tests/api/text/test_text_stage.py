"""The text stage through HTTP: what reaches the tokenizer, and what is refused."""

import threading
from pathlib import Path

import msgspec
import pytest

from engine import FRAME_S
from qtts_openai.schemas import SpeechRequest
from qtts_openai.settings import Limits, Settings
from qtts_openai.speech.segmented_stream import SILENCE_BYTES
from qtts_openai.text.duration_estimate import expected_frames
from qtts_openai.text.script import ScriptWriter
from tests.api.conftest import CUSTOM
from tests.api.fake_engine import model_info
from tests.api.test_speech import assert_envelope


@pytest.fixture
def ids(server):
    """The ids that reach the engine for a text."""

    def text_ids(text: str, **fields: object) -> tuple[int, ...]:
        answer = server.speak(input=text, **fields)
        assert answer.status_code == 200, answer.text
        return server.engine.submitted[-1][1].text

    return text_ids


def test_what_nobody_reads_out_never_reaches_the_model(ids):
    plain = ids("Close the door. It is cold.")
    for same in (
        "Close the door. 🎉 It is cold.",
        "Close the **door**. It is cold.",
        "Close the do\u00ador. It\u200b is cold.",
        "<speak>Close the door. It is cold.</speak>",
        "Close the door. <|im_end|>It is cold.",
    ):
        assert ids(same) == plain
    assert ids("Close the **door**. It is cold.", normalize="none") != plain


def test_control_tokens_stay_text_where_nothing_is_cleaned(ids):
    control = set(range(341, 343))  # <|im_start|> and <|im_end|> of the random tokenizer
    assert not control & set(ids("A <|im_start|> b <|im_end|>", normalize="none"))


def test_figures_are_words_where_asked(ids, server):
    assert ids("It is 5 km.", normalize="full", language="english") == ids("It is five kilometers.")
    assert ids("It is 5 km.") != ids("It is five kilometers.")
    assert_envelope(server.speak(normalize="some"), 400, "normalize")


def test_levels_of_settings_and_models(start):
    server = start(models=(msgspec.structs.replace(CUSTOM, normalize="none"),))
    server.speak(input="**a**")
    server.speak(input="**a**", normalize="clean")
    first, second = (prompt.text for _, prompt, _, _ in server.engine.submitted)
    assert first != second


@pytest.mark.parametrize("text", ["", "   ", "\u200b", "\u00ad\n", "***", "<b></b>"])
def test_nothing_to_speak(server, text):
    assert_envelope(server.speak(input=text), 400, "input", "empty_string")


def test_scripts_the_model_has_no_sound_for(server):
    refused = server.speak(input="Привет, как дела?")
    assert_envelope(refused, 400, "input", "unsupported_script")
    assert "Cyrillic" in refused.text and "German" in refused.text
    mixed = server.speak(input="Hello means Привет.")
    assert mixed.status_code == 200 and mixed.headers["x-unspoken-scripts"] == "Cyrillic"
    assert "x-unspoken-scripts" not in server.speak(input="你好, こんにちは, hello!").headers


def test_half_a_character_is_left_out(server):
    whole = server.speak(input="Nice ", response_format="pcm").content
    url, head = f"{server.base_url}/audio/speech", '{"model": "tts-1", "voice": "alloy", '
    for text in (r"Nice \ud83d", r"\ude00Nice ", r"Nice\udfff "):
        body = f'{head}"response_format": "pcm", "input": "{text}"}}'
        answer = server.http.post(url, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200 and answer.content == whole, text
    paired = server.http.post(url, content=head + r'"input": "Hi \ud83d\ude00 \\ud83d"}')
    assert paired.status_code == 200


@pytest.mark.parametrize("text", ["今天天气很好。" * 150, "One more sentence is here. " * 150])
def test_a_text_longer_than_the_frames_of_a_model_is_spoken_whole(server, text):
    answer = server.speak(input=text, stream=False, response_format="pcm")
    assert answer.status_code == 200 and answer.headers["x-finish-reason"] == "stop"
    prompts = [prompt for _, prompt, _, _ in server.engine.submitted]
    assert len(prompts) > 2
    assert all(prompt.expected_frames * FRAME_S <= 60 for prompt in prompts)


def test_no_utterance_fills_more_than_half_the_frames_of_its_model():
    model = model_info("m", Path(), max_frames=200)
    request = SpeechRequest(input="One more sentence is here. " * 20)
    script = ScriptWriter(Settings()).write(request, model, "english")
    assert len(script.parts) > 3
    assert all(expected_frames(part) <= 100 for part in script.parts)


def test_a_limit_of_frames_is_for_one_utterance(server):
    server.speak(input="One more sentence is here. " * 150, max_new_tokens=50)
    assert len(server.engine.submitted) == 1


def test_pauses_are_made_as_they_are_heard(server):
    text = "A." + "[pause:10s]" * 6 + "B."
    with server.http.stream(
        "POST",
        "/audio/speech",
        json={
            "model": "tts-1",
            "voice": "alloy",
            "input": text,
            "pause_tags": True,
            "response_format": "pcm",
        },
    ) as answer:
        pieces = list(answer.iter_raw())
    assert sum(map(len, pieces)) > 60 * 48_000
    assert SILENCE_BYTES <= 24_000
    refused = server.speak(input="A." + "[pause:10s]" * 7, pause_tags=True)
    assert_envelope(refused, 400, "input")
    assert_envelope(server.speak(input="A.[pause:soon]", pause_tags=True), 400, "input")


def test_silence_counts_for_the_limit_of_characters(start):
    server = start(limits=Limits(chars_per_minute=1000))
    spoken = server.speak(input="A[pause:10s]B", pause_tags=True)
    plain = server.speak(input="A[pause:10s]B")
    left = [int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in (spoken, plain)]
    assert 1000 - left[0] >= 140 and left[0] - left[1] < 20


def test_a_long_text_is_prepared_beside_the_event_loop(server, monkeypatch):
    write, seen = ScriptWriter.write, []

    def note(*arguments):
        seen.append(threading.current_thread().name)
        return write(*arguments)

    monkeypatch.setattr(ScriptWriter, "write", note)
    server.speak(input="Short.")
    server.speak(input="Some more words. " * 120, response_format="pcm")
    assert not seen[0].startswith("planning") and seen[1].startswith("planning")
