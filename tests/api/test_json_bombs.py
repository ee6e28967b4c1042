"""What reads JSON bodies takes the event loop less than a blink, whatever they hold."""

import time

import pytest

from qtts_openai import schemas
from qtts_openai.errors import ApiError

BIG = 4_000_000
START = b'{"model":"base","input":"x","x":'
MANY = {
    "lists": START + b"[" + b"[]," * (BIG // 3) + b"0]}",
    "objects": START + b"[" + b'{"a":{}},' * (BIG // 9) + b"0]}",
    "members": b"{" + b",".join(b'"%06x":0' % i for i in range(BIG // 11)) + b"}",
    "depth": START + b"[" * BIG,
    "numbers": b'{"input":"x","speaker_embedding":[' + b"1," * (BIG // 2) + b"0]}",
    "escapes": START + b'"' + b"\\n" * (BIG // 2) + b'"}',
}
OTHERS = {
    "digits": START + b"1" * BIG + b"}",
    "surrogates": START + b'"' + b"\\ud800" * (BIG // 6) + b'"}',
    "backslashes": START + b'"' + b"\\\\" * 500_000 + b'"}',
    "half a surrogate": START + b'"' + b"\\n" * 50_000 + b'\\ud800"}',
    "spaces": START + b" " * BIG + b"0}",
}
# Of CPU time, so that a busy machine does not matter. Before: 600 ms for the lists.
AT_MOST_S = 0.15


def read(body: bytes, max_long_chars: int = 0) -> ApiError | None:
    started = time.thread_time()
    try:
        schemas.read_speech(schemas.parse_json(body, max_long_chars))
    except ApiError as error:
        return error
    finally:
        assert time.thread_time() - started < AT_MOST_S
    return None


@pytest.mark.parametrize("name", MANY)
def test_too_many_values_are_refused_before_they_are_made(name):
    error = read(MANY[name])
    assert error is not None and (error.status, error.code) == (400, "too_many_values")


@pytest.mark.parametrize("name", OTHERS)
def test_long_values_are_quick(name):
    error = read(OTHERS[name])
    assert error is None or error.status == 400


def test_bodies_as_large_as_may_be_are_read():
    embedding = b"[" + b",".join([b"0.01234567"] * 2048) + b"]"
    item = b'{"input":"' + b"one, " * 200 + b'","speaker_embedding":' + embedding + b"}"
    body = b'{"model":"base","items":[' + b",".join([item] * 32) + b"]}"
    assert len(schemas.parse_json(body)["items"]) == 32
    base64 = (
        b'{"model":"base","input":"x","ref_audio":"data:audio/wav;base64,'
        + b"\\/ABCDEFGHIJKLMN" * 900_000
    )
    assert read(base64 + b'"}') is None


def test_commas_of_long_texts_are_no_values():
    body = b'{"input":"' + b"so, and so on: " * 60_000 + b'"}'
    assert read(body, max_long_chars=1_000_000) is None
