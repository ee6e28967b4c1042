"""The requests that known clients make, as they make them."""

import json
import wave
from io import BytesIO

import pytest

from qtts_openai.settings import OPENAI_NAMES, AuthSettings, Defaults
from tests.api.audio import seconds
from tests.api.test_speech import read_events

KEY = {"authorization": "Bearer key"}
EMPTY_KEY = {"authorization": "Bearer"}


@pytest.fixture
def keyed(start, monkeypatch):
    monkeypatch.setenv("QTTS_API_KEYS", "key")
    return start(auth=AuthSettings(), defaults=Defaults(voice="alloy"))


def speech(server, headers=KEY, path="/v1/audio/speech", **body):
    return server.http.post(f"{server.url}{path}", json=body, headers=headers)


def test_open_webui(server, keyed):
    for path, field in (("/audio/voices", "voices"), ("/audio/models", "models")):
        listed = keyed.http.get(path).json()[field]
        assert all(isinstance(entry["id"], str) for entry in listed)
    assert all(isinstance(v["name"], str) for v in keyed.http.get("/audio/voices").json()["voices"])
    answer = speech(
        server, EMPTY_KEY, "/v1//audio/speech", input="Hi.", voice="alloy", model="tts-1"
    )
    assert answer.headers["content-type"] == "audio/mpeg"
    error = speech(keyed, input="", voice="alloy", model="tts-1").json()["error"]["message"]
    assert isinstance(error, str)


def test_home_assistant_core(keyed):
    for voice in OPENAI_NAMES:
        body = {"model": "gpt-4o-mini-tts", "voice": voice, "input": "Hi.", "speed": 1.0}
        answer = speech(keyed, **body, instructions="None", response_format="mp3")
        assert answer.status_code == 200
        assert keyed.engine.submitted[-1][1].instruct == ()


def test_home_assistant_openai_tts_integration(server):
    body = {"model": "tts-1", "input": "Hi.", "voice": "shimmer", "response_format": "opus"}
    answer = server.http.post(
        f"{server.url}/v1/audio/speech", content=json.dumps(body | {"speed": 1, "volume": 3})
    )
    assert seconds("opus", answer.content) > 0.2


def test_wyoming_openai(server):
    answer = server.speak(response_format="wav", voice="alloy")
    head = answer.content[:44]
    assert head[36:40] == b"data" and int.from_bytes(head[16:20], "little") == 16
    whole = server.speak(response_format="wav", stream=False).content
    with wave.open(BytesIO(whole)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24000, 1, 2)
        assert file.getnframes() * 2 == int.from_bytes(whole[40:44], "little")
    assert server.http.get(f"{server.url}/health").json() != "OK"
    model = server.http.get("/models").json()["data"][0]
    assert {"name", "language"} <= set(model["voices"][0])


def test_n8n(keyed):
    assert keyed.http.get("/models", headers=KEY).status_code == 200
    assert keyed.http.get("/models", headers={"authorization": "Bearer no"}).status_code == 401
    body = {
        "model": "tts-1-hd",
        "input": "Hi.",
        "voice": "onyx",
        "response_format": "flac",
        "speed": 1,
    }
    assert seconds("flac", speech(keyed, **body).content) > 0.2


def test_sillytavern(server):
    body = {"provider_endpoint": "x", "response_format": "mp3", "input": "Hi.", "voice": "fable"}
    answer = speech(server, EMPTY_KEY, model="tts-1", speed=1, **body)
    assert seconds("mp3", answer.content) > 0.2


def test_librechat(keyed):
    answer = speech(keyed, input="Hi.", model="tts-1", backend="openai")
    assert answer.status_code == 200


@pytest.mark.parametrize("extra", [{}, {"ref_text": "said", "task_type": "Base"}], ids=str)
def test_vllm_bench(trio, extra):
    from tests.api.voices.test_routing import clip

    body = {"model": "tts-1", "input": "Hi.", "stream": True, "stream_format": "audio"}
    if extra:
        extra = {**extra, "ref_audio": f"data:audio/wav;base64,{clip()}"}
    else:
        extra = {"voice": "Vivian"}
    answer = speech(trio, {}, response_format="pcm", **body, **extra)
    assert answer.headers["content-type"] == "audio/pcm" and len(answer.content) > 1000


def test_kokoro_and_sglang_clients(server):
    body = {"model": "tts-1", "input": "Hi.", "stream": True}
    kokoro = {"voice": "vivian(2)+ryan(1)", "lang_code": "a", "volume_multiplier": 1.0}
    answer = speech(server, {}, **body, **kokoro, return_download_link=False)
    assert answer.headers["content-type"] == "audio/mpeg"
    assert server.engine.submitted[-1][1].language_id == 2050
    sglang = {
        "speaker": "Ryan",
        "task_type": "CustomVoice",
        "language": "English",
        "token_count": 9,
    }
    answer = speech(server, {}, **body, **sglang, response_format="pcm")
    assert answer.headers["content-type"] == "audio/pcm"


def test_dotnet_and_eventsource_streams(server):
    answer = server.speak(stream_format="sse", response_format="mp3", model="gpt-4o-mini-tts")
    assert read_events(answer.text)[-1]["type"] == "speech.audio.done"
    assert answer.text.endswith("\n\n") and "\r" not in answer.text
