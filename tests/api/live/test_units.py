# ruff: noqa: RUF001
"""Units of /v1/audio/speech/stream: sentences, clauses and segments, as clients of vllm-omni and
sglang-omni check them, on an engine that hums.
"""

from typing import Any

import pytest

from tests.api.conftest import Server
from tests.api.live.test_native import session


@pytest.mark.parametrize(
    ("granularity", "text", "units"),
    [
        (
            "sentence",
            "Hello Dr. Who. It is 3.5 now! Fine",
            ["Hello Dr. Who.", "It is 3.5 now!", "Fine"],
        ),
        ("clause", "你好，世界；再见。", ["你好，", "世界；", "再见。"]),
    ],
)
def test_units_are_files_of_their_own(
    server: Server, granularity: str, text: str, units: list[str]
) -> None:
    config = {"session": {"voice": "alloy", "split_granularity": granularity}}
    with session(server, config) as client:
        for letter in text:
            client.send("input.text", text=letter)
        client.send("input.done")
        told, _ = client.until("session.done")
    starts = [m for m in told if m["type"] == "audio.start"]
    assert [m["sentence_text"] for m in starts] == units
    assert [m["sentence_index"] for m in starts] == [0, 1, 2]
    assert told[-1]["total_sentences"] == 3
    assert all(m["total_bytes"] > 0 for m in told if m["type"] == "audio.done")


def test_segments_are_committed_and_sentences_come_one_by_one(server: Server) -> None:
    """What sglang-omni's benchmark asks of each: start, sound, end, and sums that are right."""
    config = {"voice": "alloy", "split_granularity": "sentence", "stream_audio": True}
    with session(server, {"session": config}) as client:
        for text in ("One is here. And one", "Three is there."):
            client.send("input.text", text=text)
            client.send("input.commit")
        client.send("input.done")
        got: list[Any] = []
        while not got or isinstance(got[-1], bytes) or got[-1]["type"] != "session.done":
            got.append(client.receive())
    told = [one for one in got if not isinstance(one, bytes)]
    committed = [one for one in told if one["type"] == "input.committed"]
    names = ("segment_index", "segment_sentences", "total_sentences")
    assert [[one[name] for name in names] for one in committed] == [[0, 2, 2], [1, 1, 3]]
    assert told[-1]["total_sentences"] == 3
    speech = [one for one in got[:-1] if one not in committed]
    for index, sentence in enumerate(("One is here.", "And one", "Three is there.")):
        start, binaries = speech.pop(0), []
        assert (start["type"], start["sentence_index"]) == ("audio.start", index)
        assert (start["sentence_text"], start["format"]) == (sentence, "pcm")
        while isinstance(speech[0], bytes):
            binaries.append(speech.pop(0))
        done = speech.pop(0)
        assert (done["type"], done["sentence_index"], done["error"]) == ("audio.done", index, False)
        assert len(binaries) >= 2 and all(binaries)
        assert done["total_bytes"] == sum(map(len, binaries))
    assert speech == []


def test_a_flat_config_means_wav_and_one_file(server: Server) -> None:
    with session(server, {"voice": "alloy"}) as client:
        client.send("input.text", text="Hello. And again.")
        client.send("input.done")
        told, body = client.until("session.done")
    assert int.from_bytes(body[4:8], "little") == len(body) - 8, "its sizes are exact"
    assert b"bext" in body and told[-1]["total_sentences"] == 1
    start, done, _ = told
    assert start["synthetic_speech"]["model"] == "Qwen/custom"
    assert done["total_bytes"] == len(body)
