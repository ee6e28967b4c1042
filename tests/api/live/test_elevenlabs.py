"""multi-stream-input and stream-input with a plain WebSocket client, on an engine that hums."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from websockets.sync.client import connect

from qtts_openai.settings import LiveSettings, VoiceSettings
from tests.api.audio import decode
from tests.api.conftest import BASE, CUSTOM, DESIGN, Server
from tests.api.live.test_native import Client, wait_until_idle
from tests.api.voices.test_voice_store import upload

SAID = ["Hello", "there,", "my", "friend.", "And", "more."]


class Voice(Client):
    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def final(self, context: str | None) -> tuple[list[dict[str, Any]], bytes]:
        """Messages of the context up to its last one, and their sound."""
        told: list[dict[str, Any]] = []
        while not told or not told[-1]["isFinal"]:
            message = self.receive()
            assert "error" not in message, message
            if message.get("contextId") == context:
                told.append(message)
        return told, b"".join(base64.b64decode(m["audio"]) for m in told if m["audio"])


@contextmanager
def session(
    server: Server, form: str = "multi-stream-input", voice: str = "alloy", **query: Any
) -> Iterator[Voice]:
    pairs = "&".join(f"{k}={v}" for k, v in {"output_format": "pcm_24000", **query}.items())
    url = server.url.replace("http", "ws")
    with connect(f"{url}/v1/text-to-speech/{voice}/{form}?{pairs}") as socket:
        yield Voice(socket)


def words_of(told: list[dict[str, Any]], is_absolute: bool) -> list[tuple[str, float]]:
    """As Pipecat and LiveKit put them together: the words and when each begins (ms)."""
    words, word, began, base = [], "", 0.0, 0
    for aligned in (m["alignment"] for m in told if m.get("alignment")):
        starts, durations = aligned["charStartTimesMs"], aligned["charDurationsMs"]
        assert len(aligned["chars"]) == len(starts) == len(durations) and min(durations) >= 0
        for char, start in zip(aligned["chars"], starts, strict=True):
            if char == " ":
                words.append((word, began))
                word = ""
            else:
                began = began if word else base + start
                word += char
        base += 0 if is_absolute else starts[-1] + durations[-1]
    assert word == ""
    return words


@pytest.mark.parametrize("sync", ["true", "false"])
def test_contexts_speak_and_their_characters_have_times(server: Server, sync: str) -> None:
    with session(server, sync_alignment=sync) as client:
        for id_ in ("a", "b"):
            client.say(text=" ", context_id=id_, voice_settings={"stability": 0.5})
            for token in ("Hello", " there,", " my", " friend."):
                client.say(text=token, context_id=id_)
            client.say(context_id=id_, flush=True)
            client.say(text=" And more.", context_id=id_, flush=True)
            client.say(context_id=id_, flush=True)
            client.say(context_id=id_, close_context=True)
            told, pcm = client.final(id_)
            words = words_of(told, sync == "true")
            assert [word for word, _ in words] == [
                "Hello",
                "there,",
                "my",
                "friend.",
                "And",
                "more.",
            ]
            times = [at for _, at in words]
            assert times == sorted(times) and times[-1] < len(pcm) / 48
            assert len(pcm) > 8 * 3840
        client.say(close_socket=True)
        assert client.close_code() == 1000
    wait_until_idle(server)


def test_a_barge_in_is_answered_at_once_and_the_socket_stays(server: Server) -> None:
    server.engine.chunk_delay_s = 0.02
    with session(server) as client:
        client.say(text="One two three four five six seven eight nine ten ", context_id="a")
        while not client.receive()["audio"]:
            pass
        client.say(context_id="a", close_context=True)
        client.final("a")
        wait_until_idle(server)
        server.engine.chunk_delay_s = 0
        client.say(text="")  # Pipecat keeps the socket alive with it
        client.say(text="Next turn.", context_id="b")
        client.say(context_id="b", close_context=True)  # nothing was sent yet: a whole text
        assert client.final("b")[1]


def test_with_auto_mode_each_message_is_spoken(server: Server) -> None:
    with session(server, auto_mode="true") as client:
        client.say(text="A sentence.", context_id="a")
        message = client.receive()
        assert message["audio"] and message["contextId"] == "a"


@pytest.mark.parametrize(
    ("name", "kind", "rate"),
    [("mp3_22050_32", "mp3", 22050), ("ulaw_8000", "ulaw", 8000), ("pcm_16000", None, 16000)],
)
def test_the_single_form_in_each_format(server: Server, name: str, kind: str, rate: int) -> None:
    with session(server, "stream-input", output_format=name, model_id="eleven_turbo_v2_5") as one:
        one.say(text=" ", voice_settings={"speed": 1}, generation_config={})
        one.say(text="Hello there, ", try_trigger_generation=True)
        one.say(text="friend.")
        one.say(text="")
        told, body = one.final(None)
        assert one.close_code() == 1000 and "contextId" not in told[-1]
    if kind is not None:
        samples, found = decode(kind, body)
        assert found == rate and len(samples) > 0.5 * rate
    else:
        assert len(body) > rate


@pytest.mark.parametrize("family", ["design", "base"])
def test_a_voice_of_another_family_than_the_first_model_s_speaks(start, tmp_path, family) -> None:
    """The dialect names no model of ours, so any that can speaks; no aliases are needed."""
    models = (msgspec.structs.replace(CUSTOM, aliases=()), DESIGN, BASE)
    server = start(models=models, voices=VoiceSettings(directory=str(tmp_path)))
    upload(server)
    with session(server, voice={"design": "wizard", "base": "mine"}[family]) as client:
        client.say(text="Hello there. ", context_id="a")
        client.say(flush=True, context_id="a")
        client.say(context_id="a", close_context=True)
        assert client.final("a")[1]
    assert server.engine.submitted[-1][0] == family


def test_what_cannot_be_is_told(start) -> None:
    server = start(live=LiveSettings(voices={"21m00Tcm": "nova"}))
    for options in (
        {"voice": "nobody"},
        {"output_format": "mp7_1"},
        {"output_format": "ulaw_16000"},
        {"inactivity_timeout": "x"},
        {"language_code": "x" * 3000, "output_format": "x"},
    ):
        with session(server, **options) as client:
            assert client.receive()["error"]
            assert client.close_code() == 1008
    with session(server, voice="21m00Tcm") as client:
        for message in (
            {"text": 7, "context_id": "a"},
            {"text": "x", "context_id": 7},
            {"text": "x", "context_id": "a", "voice_settings": {"speed": "fast"}},
        ):
            client.say(**message)
            assert client.receive()["error"]
        for number in range(10):
            client.say(text="Word", context_id=str(number))
        client.say(text="Word", context_id="x")
        assert "contexts" in client.receive()["error"]
