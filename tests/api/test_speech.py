"""POST /v1/audio/speech over a real socket: formats, fields, errors."""

import base64
import json
import time
from typing import get_args

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtts_openai.schemas import AudioFormat, SpeechRequest
from qtts_openai.settings import OPENAI_NAMES
from qtts_openai.speech.encoders import CONTENT_TYPES
from tests.api.audio import decode, loudness, seconds, without_serials

FORMATS = get_args(AudioFormat)


def assert_envelope(answer: httpx.Response, status: int, param=..., code=...) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-request-id"].startswith("req_")
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and isinstance(error["type"], str)
    assert all(error[key] is None or isinstance(error[key], str) for key in ("param", "code"))
    assert param is ... or error["param"] == param
    assert code is ... or error["code"] == code
    assert "Traceback" not in answer.text
    return error


@pytest.mark.parametrize("audio_format", FORMATS)
def test_each_format_streams_with_its_content_type(server, audio_format):
    answer = server.speak(response_format=audio_format)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == CONTENT_TYPES[audio_format]
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.headers
    samples, rate = decode(audio_format, answer.content)
    assert len(samples) / rate > 0.5 and loudness(samples) > 1000


def test_mp3_is_the_default_and_stream_true_alone_is_raw_audio(server):
    assert server.speak().headers["content-type"] == "audio/mpeg"
    assert server.speak(stream=True).headers["content-type"] == "audio/mpeg"
    assert server.speak(stream_format="audio").headers["content-type"] == "audio/mpeg"


@pytest.mark.parametrize("audio_format", FORMATS)
def test_stream_false_gives_one_body_with_its_length(server, audio_format):
    answer = server.speak(response_format=audio_format, stream=False)
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["x-finish-reason"] == "stop"
    assert answer.headers["content-type"] == CONTENT_TYPES[audio_format]
    streamed = server.speak(response_format=audio_format)
    assert (
        decode(audio_format, answer.content)[0].tobytes()
        == decode(audio_format, streamed.content)[0].tobytes()
    )
    if audio_format == "wav":
        num_bytes = len(decode("wav", answer.content)[0].tobytes())
        assert int.from_bytes(answer.content[40:44], "little") == num_bytes
        assert int.from_bytes(answer.content[4:8], "little") == len(answer.content) - 8


@pytest.mark.parametrize("audio_format", FORMATS)
def test_sse_carries_every_format(server, audio_format):
    answer = server.speak(response_format=audio_format, stream_format="sse")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = read_events(answer.text)
    assert [event["type"] for event in events[:-1]] == ["speech.audio.delta"] * (len(events) - 1)
    audio = b"".join(base64.b64decode(event["audio"], validate=True) for event in events[:-1])
    plain = server.speak(response_format=audio_format).content
    assert without_serials(audio) == without_serials(plain)
    done = events[-1]
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def read_events(text: str) -> list[dict]:
    """As LiveKit reads: lines that start with exactly "data: "."""
    lines = text.split("\n")
    assert all(line == "" or line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines if line]


def test_reply_headers_describe_the_samples(server):
    answer = server.speak(response_format="pcm", sample_rate=16000)
    assert answer.headers["x-sample-rate"] == "16000"
    assert (answer.headers["x-channels"], answer.headers["x-bit-depth"]) == ("1", "16")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"


def test_sample_rate_and_speed(server):
    plain = seconds("wav", server.speak(response_format="wav").content)
    fast = server.speak(response_format="wav", speed=2, sample_rate=44100)
    samples, rate = decode("wav", fast.content)
    assert rate == 44100
    assert len(samples) / rate == pytest.approx(plain / 2, rel=0.1)


@pytest.mark.parametrize("voice", [*OPENAI_NAMES, "Ryan", "ONO_ANNA", {"id": "nova"}], ids=str)
def test_voices_by_any_name(server, voice):
    assert server.speak(voice=voice, response_format="pcm").status_code == 200


def test_null_is_absent_and_unknown_fields_are_named_in_a_header(server):
    nulls = dict.fromkeys(
        ("instructions", "response_format", "speed", "stream_format", "seed", "language", "x")
    )
    answer = server.speak(**nulls, backend="x", user="u", normalization_options={"a": [1]})
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == "backend, normalization_options, user"
    assert "x-ignored-fields" not in server.speak().headers


@pytest.mark.parametrize("field", sorted(SpeechRequest.__struct_fields__))
def test_an_empty_string_is_absent(server, field):
    """But for the input, which must be there."""
    absent, empty = server.speak(**{field: ...}), server.speak(**{field: ""})
    assert empty.status_code == absent.status_code
    assert empty.content == absent.content or field == "input"


@pytest.mark.parametrize(
    "instructions",
    ["", "  ", None, "None", "You will receive partial sentences. Do not complete the sentence."],
)
def test_what_is_no_instruction_is_left_out(server, instructions):
    assert server.speak(instructions=instructions).status_code == 200
    assert server.engine.submitted[-1][1].instruct == ()


@pytest.mark.parametrize("field", ["input", "instructions", "voice", "language", "ref_audio"])
def test_long_strange_strings_are_answered_at_once(server, field):
    for text in (
        " " * 5_000_000 + "x",
        "a+" * 2_000_000,
        "\t" * 3_000_000 + "(",
        "[pause:" * 10**6,
    ):
        started = time.perf_counter()
        assert server.speak(**{field: text}).status_code == 413
        answer = server.speak(**{field: text[:60_000] + text[-1]})
        assert answer.status_code == 400 and len(answer.content) < 20_000
        assert time.perf_counter() - started < 20  # a quadratic pass takes minutes


def test_sampling_fields_reach_the_engine(server):
    fields = {"seed": 7, "temperature": 0.5, "top_k": 20, "top_p": 0.9}
    fields |= {"repetition_penalty": 1.1, "max_new_tokens": 5}
    server.speak(**fields)
    params = server.engine.submitted[-1][2]
    assert {name: getattr(params, name) for name in fields} == fields
    server.speak(seed=-1, top_k=-1)
    params = server.engine.submitted[-1][2]
    assert (params.seed, params.top_k) == (None, 0)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model": "tts-1", "input": ',
        b"",
        b"[1,2]",
        b'"text"',
        b"\xff\xfe{}",
        b'{"input": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b"null",
        b'{"input": 1e999}',
        b'{"input": "\\ud800"}',
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_bodies_that_are_no_json_object(server, raw):
    answer = server.http.post("/audio/speech", content=raw)
    assert_envelope(answer, 400)
    assert server.speak().status_code == 200


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": ...}, "input", "missing_required_parameter"),
        ({"model": ...}, "model", "missing_required_parameter"),
        ({"voice": ...}, "voice", "missing_required_parameter"),
        ({"voice": ""}, "voice", "missing_required_parameter"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "empty_string"),
        ({"input": " \n\t "}, "input", "empty_string"),
        ({"input": "a" * 4097}, "input", "string_above_max_length"),
        ({"instructions": "a" * 4097}, "instructions", "string_above_max_length"),
        ({"input": 5}, "input", "invalid_type"),
        ({"model": ["a"]}, "model", "invalid_type"),
        ({"voice": 7}, "voice", "invalid_type"),
        ({"voice": {"name": "x"}}, "voice.id", "missing_required_parameter"),
        ({"voice": "nobody"}, "voice", "invalid_value"),
        ({"voice": "vivian(x)+ryan"}, "voice", "invalid_value"),
        ({"voice": "vivian(0)+ryan(0)"}, "voice", "invalid_value"),
        ({"voice": "vivian+nobody"}, "voice", "invalid_value"),
        ({"voice": "vivian(" + "9" * 40 + ")"}, "voice", "invalid_value"),
        ({"voice": "vivian+" * 50}, "voice", "invalid_value"),
        ({"response_format": "midi"}, "response_format", "invalid_value"),
        ({"response_format": 3}, "response_format", "invalid_type"),
        ({"stream_format": "websocket"}, "stream_format", "invalid_value"),
        ({"speed": 9}, "speed", "invalid_value"),
        ({"speed": 0.1}, "speed", "invalid_value"),
        ({"speed": -1}, "speed", "invalid_value"),
        ({"speed": "fast"}, "speed", "invalid_type"),
        ({"speed": True}, "speed", "invalid_type"),
        ({"sample_rate": 7999}, "sample_rate", "invalid_value"),
        ({"sample_rate": 23000}, "sample_rate", "invalid_value"),
        ({"language": "Klingon"}, "language", "invalid_value"),
        ({"language": "Sichuan_Dialect"}, "language", "invalid_value"),
        ({"seed": 2**70}, "seed", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_new_tokens": 0}, "max_new_tokens", "invalid_value"),
        ({"task_type": "Song"}, "task_type", "invalid_value"),
        ({"task_type": "VoiceDesign"}, "task_type", "unsupported_by_model"),
        ({"ref_audio": "AAAA"}, "ref_audio", "unsupported_by_model"),
        ({"voice": "wizard"}, "voice", "unsupported_by_model"),
        ({"references": 1}, "references", "invalid_value"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_fields_are_a_400_that_names_them(server, fields, param, code):
    error = assert_envelope(server.speak(**fields), 400, param, code)
    assert param in error["message"] or param == "voice"
    assert error["type"] == "invalid_request_error"
    assert not server.engine.submitted


def test_4096_characters_of_any_script_are_fine(server):
    assert server.speak(input="語" * 4096, max_new_tokens=4).status_code == 200


def test_choices_are_listed(server):
    message = server.speak(response_format="midi").json()["error"]["message"]
    assert all(name in message for name in FORMATS)
    assert "alloy" in server.speak(voice="nobody").json()["error"]["message"]


def test_unknown_model_is_a_404(server):
    assert_envelope(server.speak(model="gpt-9"), 404, "model", "model_not_found")


def test_unknown_path_and_method(server):
    assert_envelope(server.http.get("/no/such/path"), 404)
    answer = server.http.get("/audio/speech")
    assert_envelope(answer, 405)
    assert "POST" in answer.headers["allow"]


def test_a_body_that_is_too_large_is_a_413(start):
    from qtts_openai.settings import Limits

    server = start(limits=Limits(max_body_bytes=1000))
    assert_envelope(server.speak(input="a" * 2000), 413)


def test_defaults_of_the_settings_fill_in_model_and_voice(start):
    from qtts_openai.settings import Defaults

    server = start(defaults=Defaults(model="tts-1", voice="alloy"))
    assert server.speak(model=..., voice=...).status_code == 200


def test_double_slashes_and_text_plain_are_accepted(server):
    body = {"model": "tts-1", "input": "Hi.", "voice": "alloy"}
    url = f"{server.url}/v1//audio/speech"
    answer = server.http.post(url, content=json.dumps(body), headers={"content-type": "text/plain"})
    assert answer.status_code == 200


def test_request_ids_are_unique(server):
    answers = [server.speak(), server.speak(input=""), server.http.get("/models")]
    answers.append(server.http.get("/nowhere"))
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    [
        "model",
        "input",
        "voice",
        "speaker",
        "instructions",
        "response_format",
        "speed",
        "stream_format",
        "stream",
        "sample_rate",
        "task_type",
        "language",
        "lang_code",
        "ref_audio",
        "ref_text",
        "references",
        "x_vector_only_mode",
        "seed",
        "temperature",
        "top_k",
        "top_p",
        "repetition_penalty",
        "max_new_tokens",
        "non_streaming_mode",
        "other",
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.dictionaries(FIELDS, JSON, max_size=3))
def test_fuzzed_fields_never_give_a_5xx(server, changes):
    body = {"model": "tts-1", "input": "Hi.", "voice": "alloy", "response_format": "pcm", **changes}
    answer = server.http.post("/audio/speech", content=json.dumps(body))
    if answer.status_code != 200:
        assert_envelope(answer, 404 if answer.status_code == 404 else 400)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=st.binary(max_size=200))
def test_fuzzed_bytes_never_give_a_5xx(server, raw):
    assert_envelope(server.http.post("/audio/speech", content=raw), 400)
