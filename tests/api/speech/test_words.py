"""When words are heard, estimated: on sound whose pauses are known."""

import base64

import numpy as np
import pytest

from qtts_openai.speech.words import WordClock, split_at
from tests.api.conftest import Server
from tests.api.test_speech import read_events


def sound(*parts: float) -> bytes:
    """Seconds of noise, or where they are negative of silence."""
    noise = np.random.default_rng(0)
    waves = [
        noise.normal(0, 3000 * (seconds > 0), round(24_000 * abs(seconds))) for seconds in parts
    ]
    return np.concatenate(waves).astype("<i2").tobytes()


def heard(text: str, pcm: bytes, size: int = 7680) -> WordClock:
    clock = WordClock()
    clock.say(text)
    for at in range(0, len(pcm), size):
        clock.hear(pcm[at : at + size])
    clock.end()
    return clock


def test_words_share_the_sound_by_their_letters() -> None:
    words = heard("four aa twelve", sound(-0.2, 1.2)).words()
    assert [word.text for word in words] == ["four", "aa", "twelve"]
    starts = [word.start_s for word in words]
    assert starts == pytest.approx([0.2, 0.6, 0.8], abs=0.02)
    assert words[-1].end_s == pytest.approx(1.4, abs=0.02)


def test_a_pause_is_where_the_mark_is() -> None:
    words = heard("one two, three four", sound(0.9, -0.3, 0.5)).words()
    assert words[1].end_s == pytest.approx(0.9, abs=0.02)
    assert words[2].start_s == pytest.approx(1.2, abs=0.02)


def test_a_longer_pause_takes_the_mark_from_a_closure() -> None:
    """As before the t of `eight`, which is no pause."""
    text, pcm = "one two eight, three four", sound(0.8, -0.1, 0.3, -0.25, 0.6)
    assert heard(text, pcm).words()[3].start_s == pytest.approx(1.45, abs=0.02)
    clock, told = WordClock(), []
    clock.say(text)
    for at in range(0, len(pcm), 3840):
        clock.hear(pcm[at : at + 3840])
        told += clock.new_words()
    clock.end()
    assert [*told, *clock.new_words()][3].start_s == pytest.approx(1.45, abs=0.02)


@pytest.mark.parametrize("size", [96, 3840, 10**6])
def test_words_are_told_once_in_order_while_they_come(size: int) -> None:
    text, pcm = "one two, three four. five", sound(0.5, -0.3, 0.6, -0.4, 0.4)
    clock, told = WordClock(), []
    for part in ("one", " two,", " three fo", "ur. five"):
        clock.say(part)
    for at in range(0, len(pcm), size):
        clock.hear(pcm[at : at + size])
        new = clock.new_words()
        assert all(word.start_s < (at + size) / 48_000 for word in new)
        told += new
    clock.end()
    told += clock.new_words()
    assert [word.text for word in told] == text.split()
    assert [w.start_s for w in told] == sorted(w.start_s for w in told)
    assert clock.new_words() == []
    assert split_at(told, 0.0)[0] == "" and split_at(told, 9.0) == (text, "")


def test_a_faster_listener_hears_them_sooner() -> None:
    clock = WordClock(speed=2.0)
    clock.say("one two")
    clock.hear(sound(1.0))
    clock.end()
    assert clock.words()[-1].end_s == pytest.approx(0.5, abs=0.02)


def test_events_have_words_beside_the_sound(server: Server) -> None:
    text = "It costs $3, my friend."
    fields = {"input": text, "stream_format": "sse", "response_format": "pcm"}
    fields["normalize"] = "full"
    events = read_events(server.speak(**fields, timestamps="word").text)
    words = [w for e in events if e["type"] == "speech.audio.words" for w in e["words"]]
    assert [w["word"] for w in words] == ["It", "costs", "three", "dollars,", "my", "friend."]
    pcm = b"".join(base64.b64decode(e["audio"]) for e in events if "audio" in e)
    assert 0 <= words[0]["start"] <= words[-1]["start"] < len(pcm) / 48_000
    assert events[-1]["type"] == "speech.audio.done"
    refused = server.speak(timestamps="word")
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "timestamps"
