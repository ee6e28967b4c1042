"""Attacks by what a body says: values, pauses, batches, names, forms."""

import json
import threading

import httpx
import pytest

from tests.attack import hostile
from tests.attack.conftest import Victim
from tests.attack.test_transport import SMALL_MB, SOON_S, post

SPEECH = "/v1/audio/speech"
# As large as a body may be where reference audio is taken.
BIG = 13_000_000
START = b'{"model":"base","input":"x","x":'
BOMBS = {
    "lists": START + b"[" + b"[]," * (BIG // 3) + b"0]}",
    "lists as ref_audio": b'{"input":"x","ref_audio":[' + b"[]," * (BIG // 3) + b"0]}",
    "depth": START + b"[" * BIG,
    "objects": START + b"[" + b'{"a":{}},' * (BIG // 9) + b"0]}",
    "members": b"{" + b",".join(b'"%06x":0' % i for i in range(BIG // 11)) + b"}",
    "digits": START + b"1" * BIG + b"}",
    "surrogates": START + b'"' + b"\\ud800" * (BIG // 6) + b'"}',
    "base64 of nothing": b'{"model":"base","input":"x","ref_audio":"' + b" " * BIG + b'"}',
}


@pytest.mark.parametrize("name", ["lists", "members", "depth"])
def test_a_body_of_many_values_is_refused_before_it_is_read(attacked, name):
    with attacked.watched() as seen:
        answer = httpx.post(f"{attacked.url}{SPEECH}", content=BOMBS[name], timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_values")
    assert seen.longest_wait_s < SOON_S and not seen.failures


@pytest.mark.attack
@pytest.mark.parametrize("path", [SPEECH, f"{SPEECH}/batch", "/v1/audio/voices"])
def test_bombs(attacked, path):
    with attacked.watched() as seen:
        for body in BOMBS.values():
            try:
                answer = httpx.post(f"{attacked.url}{path}", content=body, timeout=60)
                assert 400 <= answer.status_code < 500
            except httpx.WriteError:
                pass  # a 413 before all of it was sent
    assert seen.longest_wait_s < SOON_S and not seen.failures


PAUSES = {
    "by pronunciations": {
        "input": "x " * 680 + "Hi.", "pronunciations": {"x": "[pause:10s]"}, "pause_tags": True,
    },
    "by tags": {"input": "[pause:10s]" * 372 + "Hi.", "pause_tags": True},
    "by breaks": {"input": '<break time="10s"/>' * 200 + "Hi.", "pause_tags": True},
    "by words": {"input": "[pause: 9 seconds] [silence 9000ms]" * 100 + "Hi.", "pause_tags": True},
}  # fmt: skip


def test_pauses_are_bounded_in_sum_and_cost_nothing(attacked):
    with attacked.watched() as seen:
        for fields in PAUSES.values():
            answer = attacked.speak(**fields, max_new_tokens=3, response_format="opus")
            assert answer.status_code in (200, 400)
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB and not seen.failures


def test_a_batch_multiplies_no_unknown_fields(attacked):
    common = {"model": "tts-1", "voice": "alloy", "max_new_tokens": 2, "response_format": "pcm"}
    unknown = {f"{i:06x}": 0 for i in range(4000)}
    body = {**common, **unknown, "items": [{"input": "hi"}] * 32}
    with attacked.watched() as seen:
        answer = httpx.post(f"{attacked.url}{SPEECH}/batch", json=body, timeout=120)
    assert answer.status_code == 200 and answer.json()["succeeded"] == 32
    assert len(answer.content) < 2_000_000
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB


FULL_WIDTH, BOLD = (
    "".join(chr(first + ord(letter) - ord("a")) for letter in "vivian")
    for first in (0xFF41, 0x1D41A)
)
NAMES = (
    *("\u202egnp", "a\u2028b", "a\x9bb", "vivi\u0430n", "\u200bvivian", FULL_WIDTH, BOLD),
    *("\ufe0f", "\u3164", "\u2800", "vivian\ufe0f", "vivian\U000e0100", "viv\u034fian"),
    *("a" * 101, "\ud800", "../../etc/passwd\0", " ", "vivian\u0301\u0300" * 30),
)


def test_names_that_look_like_others_are_refused(attacked):
    for name in NAMES:
        raw = json.dumps({"name": name, "prompt": "A voice."}).encode()
        answer = httpx.post(f"{attacked.url}/v1/audio/voices", content=raw, timeout=30)
        assert answer.status_code == 400, (name, answer.text)
        assert answer.json()["error"]["param"] in ("name", None), name


FORMS = {
    "parts": (b"--b\r\ncontent-disposition: form-data; name=a\r\n\r\n\r\n" * 40_000) + b"--b--\r\n",
    "heads": b"--b\r\n" + b"a: b\r\n" * 1_000_000 + b"\r\n--b--\r\n",
    "a head": b"--b\r\na: " + b"b" * 9_000_000,
    "hyphens": b"-" * 9_000_000,
    "nearly the boundary": b"--b\r\n" + b"\r\n--" * 2_000_000,
    "a text": b'--b\r\ncontent-disposition: form-data; name="name"\r\n\r\n' + b"x" * 9_000_000,
    "no end": b'--b\r\ncontent-disposition: form-data; name="name"\r\n\r\nx',
    "quotes": b'--b\r\ncontent-disposition: form-data; name="' + b'\\"' * 2_000_000 + b'"\r\n\r\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_are_no_forms(attacked, name):
    headers = {"content-type": "multipart/form-data; boundary=b"}
    with attacked.watched() as seen:
        try:
            answer = httpx.post(
                f"{attacked.url}/v1/audio/voices", content=FORMS[name], headers=headers, timeout=60
            )
            assert 400 <= answer.status_code < 500, answer.text
        except httpx.WriteError:
            pass
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB and not seen.failures


def test_heads_behind_a_body_whose_answer_is_out(attacked):
    """The first answer comes before the body; the next heads are read as strictly as the first."""
    first = post(60_000, path="/nowhere") + b"x" * 60_000
    with attacked.watched() as seen:
        answer = attacked.send(
            first + b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 2_000_000
        )
    assert answer.startswith(b"HTTP/1.1 40") and b"HTTP/1.1 200" not in answer
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB and not seen.failures


def test_300_requests_in_one_go(attacked):
    """Pipelined, on one connection: answered in order, no faster than it reads."""
    with attacked.watched() as seen:
        answer = attacked.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" * 300)
    assert answer.count(b"HTTP/1.1 200") == 300
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB


SMUGGLED = (
    b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST /live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
    b"GET /live HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /live HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET  HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"\r\n" * 50_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /live HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET /" + b"%ff" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: x\r\nExpect: 200-maybe\r\n\r\n",
    b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
)  # fmt: skip


def test_what_is_nearly_http(attacked):
    for raw in SMUGGLED:
        answer = attacked.send(raw, timeout_s=4)
        assert b"HTTP/1.1 5" not in answer, (raw[:80], answer[:200])
    attacked.probe_s()


def test_listeners_hear_no_gap_under_bombs(attacked):
    """Streams go on while bodies of every kind come in."""
    broken: list[object] = []

    def listen(victim: Victim) -> None:
        try:
            answer = victim.speak(input="This goes on for a while. " * 4, response_format="pcm")
            if answer.status_code != 200 or len(answer.content) < 48_000:
                broken.append(answer.status_code)
        except httpx.HTTPError as error:
            broken.append(error)

    listeners = [threading.Thread(target=listen, args=(attacked,)) for _ in range(4)]
    for listener in listeners:
        listener.start()
    for name in ("lists", "digits"):
        httpx.post(f"{attacked.url}{SPEECH}", content=BOMBS[name], timeout=60)
    attacked.upload(hostile.ADX)
    for listener in listeners:
        listener.join()
    assert not broken
