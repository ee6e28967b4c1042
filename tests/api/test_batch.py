import base64

import pytest

from engine import QueueFullError
from qtts_openai.settings import Limits
from tests.api.audio import seconds
from tests.api.test_speech import assert_envelope
from tests.api.test_streaming import wait_until


def batch(server, items, **defaults):
    body = {"model": "tts-1", "voice": "alloy", **defaults, "items": items}
    return server.http.post("/audio/speech/batch", json=body)


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
    assert int.from_bytes(wav[40:44], "little") == len(wav) - 44
    assert seconds("flac", base64.b64decode(results[1]["audio_data"])) > 0.2
    assert "nobody" in results[3]["error"]
    assert results[3]["error_detail"]["param"] == "voice"
    assert results[4]["ignored_fields"] == ["shape"]
    assert results[0]["usage"]["total_tokens"] > 0


def test_a_batch_says_the_same_as_single_requests(server):
    alone = server.speak(input="One.", response_format="pcm").content
    answer = batch(server, [{"input": "One."}] * 3, response_format="pcm").json()
    assert {base64.b64decode(result["audio_data"]) for result in answer["results"]} == {alone}


@pytest.mark.parametrize("items", [..., None, [], {}, "x", [1], [{"input": "a"}] * 33], ids=str)
def test_bad_items(server, items):
    body = {"model": "tts-1", "voice": "alloy"} | ({} if items is ... else {"items": items})
    assert_envelope(server.http.post("/audio/speech/batch", json=body), 400, "items")


def test_engine_errors_are_told_per_item(server):
    server.engine.submit_error = QueueFullError("full", 1)
    answer = batch(server, [{"input": "One."}] * 2)
    assert answer.status_code == 200
    codes = [result["error_detail"]["code"] for result in answer.json()["results"]]
    assert codes == ["queue_full"] * 2


def test_a_client_that_leaves_cancels_all_items(server):
    server.engine.hang_after = 1
    body = {"model": "tts-1", "voice": "alloy", "items": [{"input": "One."}] * 8}
    with pytest.raises(Exception, match="timed out"):
        server.http.post("/audio/speech/batch", json=body, timeout=0.5)
    assert wait_until(lambda: not server.engine.live) < 1
    assert len(server.engine.submitted) == 8


def test_a_batch_keeps_to_the_limit_of_its_key(start):
    server = start(limits=Limits(max_concurrent_per_key=2))
    server.engine.chunk_delay_s, most = 0.01, []
    submit = server.engine.submit

    def counting(*arguments):
        stream = submit(*arguments)
        most.append(len(server.engine.live))
        return stream

    server.engine.submit = counting
    assert batch(server, [{"input": "One."}] * 6).json()["succeeded"] == 6
    assert max(most) <= 2
