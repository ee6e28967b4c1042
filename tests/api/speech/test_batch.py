import asyncio
import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from engine import EngineConfig, EngineDeadError, QueueFullError
from qtts_openai.provenance.marks import Mark
from qtts_openai.routes import batch as module
from qtts_openai.routes.batch import read_items
from qtts_openai.settings import Limits
from tests.api.audio import seconds
from tests.api.speech.test_streaming import wait_until, wait_until_freed
from tests.api.test_speech import assert_envelope


def batch(server, items, timeout=20, **defaults):
    body = {"model": "tts-1", "voice": "alloy", **defaults, "items": items}
    return server.http.post("/audio/speech/batch", json=body, timeout=timeout)


def stay(server) -> socket.socket:
    """A request whose connection stays open."""
    body = json.dumps({"model": "tts-1", "voice": "alloy", "input": "Hi."}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_items_take_the_defaults_and_fail_on_their_own(server):
    items = [
        {"input": "One."},
        {"input": "Two.", "voice": "ryan", "response_format": "flac"},
        {"input": ""},
        {"input": "Four.", "voice": "nobody"},
        {"input": "Five.", "shape": "round"},
    ]
    answer = batch(server, items, response_format="wav").json()
    assert (answer["total"], answer["succeeded"], answer["failed"]) == (5, 3, 2)
    results = answer["results"]
    assert [result["index"] for result in results] == list(range(5))
    failed = [result["index"] for result in results if result["status"] == "error"]
    assert failed == [2, 3]
    wav = base64.b64decode(results[0]["audio_data"])
    assert results[0]["media_type"] == "audio/wav" and seconds("wav", wav) > 0.2
    assert int.from_bytes(wav[40:44], "little") == len(wav) - 44 - len(Mark("Qwen/custom").riff())
    assert seconds("flac", base64.b64decode(results[1]["audio_data"])) > 0.2
    assert "nobody" in results[3]["error"]
    assert results[3]["error_detail"]["param"] == "voice"
    assert results[4]["ignored_fields"] == ["shape"]
    assert results[0]["usage"]["total_tokens"] > 0


def test_the_engine_is_told_which_utterance_is_its_callers_only_one(server):
    server.engine.chunk_delay_s = 0.05
    assert server.speak().status_code == 200
    assert batch(server, [{"input": "One."}, {"input": "Two."}]).json()["succeeded"] == 2
    assert [stream.is_alone for stream in server.engine.streams] == [True, True, False]


@pytest.mark.parametrize("absent", [None, ""])
def test_what_an_item_leaves_blank_is_the_default(server, absent):
    item = dict.fromkeys(("voice", "model", "response_format", "instructions"), absent)
    answer = batch(server, [{"input": "One.", **item}], response_format="pcm").json()
    assert answer["results"][0]["media_type"] == "audio/pcm"


def test_a_batch_says_the_same_as_single_requests(server):
    alone = server.speak(input="One.", response_format="pcm").content
    answer = batch(server, [{"input": "One."}] * 3, response_format="pcm").json()
    assert {base64.b64decode(result["audio_data"]) for result in answer["results"]} == {alone}


@pytest.mark.parametrize("items", [..., None, [], {}, "x", [1], [{"input": "a"}] * 33], ids=str)
def test_bad_items(server, items):
    body = {"model": "tts-1", "voice": "alloy"} | ({} if items is ... else {"items": items})
    assert_envelope(server.http.post("/audio/speech/batch", json=body), 400, "items")


def test_a_batch_of_which_nothing_can_be_spoken_is_one_refusal(server):
    server.engine.submit_error = QueueFullError("full", 1)
    answer = batch(server, [{"input": "One."}] * 2)
    assert_envelope(answer, 429, None, "queue_full")
    assert answer.headers["retry-after"] == "1"
    server.engine.submit_error = EngineDeadError("gone", 2)
    assert_envelope(batch(server, [{"input": "One."}, {"input": ""}]), 503)


@pytest.mark.parametrize(
    ("wrong", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"voice": "nobody"}, "voice", "invalid_value"),
        ({"speed": 9}, "speed", "invalid_value"),
        ({"response_format": "mp4"}, "response_format", "invalid_value"),
    ],
)
def test_what_is_wrong_for_all_items_is_one_400(server, wrong, param, code):
    answer = batch(server, [{"input": "One."}, {"input": "Two."}], **wrong)
    assert_envelope(answer, 400, param, code)
    assert not server.engine.submitted


def test_different_faults_are_told_per_item(server):
    answer = batch(server, [{"input": ""}, {"input": "Two.", "voice": "nobody"}])
    assert answer.status_code == 200 and answer.json()["failed"] == 2


def test_an_error_in_the_middle_of_one_item_is_that_items(server):
    submit, server.engine.fail_after = server.engine.submit, None

    def second_fails(*arguments):
        stream = submit(*arguments)
        if len(server.engine.submitted) == 2:
            stream.abort()
        return stream

    server.engine.submit = second_fails
    try:
        answer = batch(server, [{"input": "One."}, {"input": "Two."}, {"input": "Three."}]).json()
    finally:
        del server.engine.submit
    assert [result["status"] for result in answer["results"]] == ["success", "error", "success"]
    assert answer["results"][1]["error_detail"]["code"] == "generation_failed"
    assert (answer["succeeded"], answer["failed"]) == (2, 1)


def test_items_wait_for_places(start):
    server = start(engine=EngineConfig(max_queued=2))
    server.engine.num_rows, server.engine.chunk_delay_s = 2, 0.01
    server.engine.max_live = 2
    assert batch(server, [{"input": f"Item {i}."} for i in range(32)]).json()["succeeded"] == 32


def test_a_batch_that_finds_the_queue_full_is_a_429(start):
    server = start(engine=EngineConfig(max_queued=1))
    server.engine.num_rows, server.engine.hang_after = 1, 1
    held = [stay(server) for _ in range(2)]
    try:
        wait_until(lambda: len(server.engine.live) == 1)
        time.sleep(0.1)
        answer = batch(server, [{"input": "One."}] * 2)
        assert_envelope(answer, 429, None, "queue_full")
        assert answer.headers["retry-after"]
    finally:
        for connection in held:
            connection.close()


def test_unknown_fields_are_not_multiplied(server):
    unknown = {f"{i:06x}": 0 for i in range(8_000)}
    answer = batch(server, [{"input": "hi", **{f"x{i}": 0 for i in range(30)}}] * 32, **unknown)
    assert answer.status_code == 200 and len(answer.content) < 32 * 20_000
    parsed = answer.json()
    assert parsed["ignored_fields"] == sorted(unknown)[:20]
    assert all(len(result["ignored_fields"]) == 20 for result in parsed["results"])


def test_the_answer_comes_item_by_item(server):
    submit, gate = server.engine.submit, []

    def last_hangs(*arguments):
        stream = submit(*arguments)
        if len(server.engine.submitted) == 3:
            stream._chunks = iter(())
            gate.append(stream)
            ended = stream.__class__.__anext__

            async def held(self):
                while gate:
                    await asyncio.sleep(0.01)
                return await ended(self)

            stream.__class__ = type("Held", (stream.__class__,), {"__anext__": held})
        return stream

    server.engine.submit = last_hangs
    body = {"model": "tts-1", "voice": "alloy", "items": [{"input": "One."}] * 3}
    try:
        with server.http.stream("POST", "/audio/speech/batch", json=body) as answer:
            text = b""
            pieces = answer.iter_bytes()
            while text.count(b'"status"') < 2 or text.count(b'"}') < 2:
                text += next(pieces)
            assert b'"total"' not in text
            gate.clear()
            text += b"".join(pieces)
    finally:
        gate.clear()
        del server.engine.submit
    parsed = json.loads(text)
    assert (parsed["total"], parsed["succeeded"]) == (3, 2)


def test_items_begin_as_memory_allows(server, monkeypatch):
    """One at a time where each is as large as all that may be held."""
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 1000)
    server.engine.chunk_delay_s, most = 0.001, []
    submit = server.engine.submit

    def counting(*arguments):
        stream = submit(*arguments)
        most.append(len(server.engine.live))
        return stream

    server.engine.submit = counting
    try:
        answer = batch(server, [{"input": f"Item {i}."} for i in range(6)], response_format="pcm")
    finally:
        del server.engine.submit
    assert answer.json()["succeeded"] == 6 and max(most) == 1


def test_estimates_of_size():
    items = read_items(
        {"items": [{"input": "a" * 100}, {}, {"input": 7}], "sample_rate": 48000}, 32
    )
    assert [items.size(i) for i in range(3)] == [100 * 0.085 * 16_000, 0, 0]
    items = read_items({"items": [{"input": "a"}], "response_format": "wav"}, 32)
    assert items.size(0) == 0.085 * 48_000


def test_a_client_that_leaves_cancels_all_items(server):
    server.engine.hang_after = 1
    body = {"model": "tts-1", "voice": "alloy", "items": [{"input": "One."}] * 8}
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.base_url) as client:
        asking = pool.submit(client.post, "/audio/speech/batch", json=body, timeout=2)
        wait_until(lambda: len(server.engine.submitted) == 8)
        with pytest.raises(httpx.ReadTimeout):
            asking.result()
    assert len(server.engine.submitted) == 8
    wait_until_freed(server.engine)


def test_batches_keep_to_the_limit_of_their_key_together(start, monkeypatch):
    server = start(limits=Limits(max_concurrent_per_key=3))
    server.engine.chunk_delay_s, most = 0.01, []
    submit = server.engine.submit

    def counting(*arguments):
        stream = submit(*arguments)
        most.append(len(server.engine.live))
        return stream

    server.engine.submit = counting
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: batch(server, [{"input": "One."}] * 6), range(2)))
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert all(a.json()["succeeded"] == 6 for a in answers if a.status_code == 200)
    assert max(most) == 3
    answer = batch(server, [{"input": "One."}] * 2)
    assert answer.json()["succeeded"] == 2, "all places are free again"
    assert answer.headers["x-ratelimit-limit-requests"] == "3"


def test_a_batch_counts_its_characters_and_a_refused_one_costs_nothing(start):
    server = start(limits=Limits(chars_per_minute=60))
    for _ in range(3):
        assert batch(server, [{"input": "x" * 20}] * 2, voice="nobody").status_code == 400
    items = [{"input": "x" * 10}, {"input": "y" * 20, "voice": "nobody"}]
    assert batch(server, items).json()["succeeded"] == 1
    assert int(server.speak(input="z").headers["x-ratelimit-remaining-tokens"]) >= 49
    long = {"pronunciations": {"x": "y" * 50}}
    assert batch(server, [{"input": "x"}] * 2, **long).status_code == 200
    assert_envelope(batch(server, [{"input": "x"}]), 429, None, "rate_limit_exceeded")
