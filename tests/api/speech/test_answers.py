"""What an answer says of itself: sizes, usage, how it ended, how soon it came; and answers that are
kept for the next request alike.
"""

import asyncio
import io
import json
import re
import wave

import pytest
import soundfile

from engine import Finished, FinishReason, Usage
from qtts_openai.settings import CacheSettings, Defaults
from qtts_openai.speech.cache import Recording, SpeechCache
from tests.api.audio import seconds, without_serials
from tests.api.test_speech import assert_envelope, read_events

# ---- sizes ----


@pytest.mark.parametrize(
    "defaults", [Defaults(stream=False), Defaults(exact_sizes=("wav", "flac"))]
)
def test_a_server_whose_clients_read_sizes_sends_them(start, defaults):
    """Home Assistant, Safari and users of `wave` cannot send `stream: false`."""
    server = start(defaults=defaults)
    answer = server.speak(response_format="wav")
    with wave.open(io.BytesIO(answer.content)) as file:
        num_samples = file.getnframes()
    assert num_samples * 2 == int.from_bytes(answer.content[40:44], "little")
    assert answer.headers["content-length"] == str(len(answer.content))
    flac = server.speak(response_format="flac").content
    assert soundfile.info(io.BytesIO(flac)).frames == num_samples
    assert ("content-length" in server.speak().headers) == (not defaults.stream)
    asked = server.speak(response_format="wav", stream=True).content
    assert asked[40:44] == b"\xff" * 4


# ---- G.711 ----


@pytest.mark.parametrize(
    ("names", "content_type"),
    [
        (("ulaw", "mulaw", "g711_ulaw", "PCMU"), "audio/pcmu"),
        (("alaw", "g711_alaw", "pcma"), "audio/pcma"),
    ],
)
def test_g711_under_its_names(server, names, content_type):
    bodies = set()
    for name in names:
        answer = server.speak(response_format=name)
        assert answer.headers["content-type"] == content_type
        told = [answer.headers[f"x-{key}"] for key in ("sample-rate", "bit-depth", "channels")]
        assert told == ["8000", "8", "1"]
        bodies.add(answer.content)
    assert len(bodies) == 1
    pcm = server.speak(response_format="pcm", sample_rate=8000).content
    assert len(bodies.pop()) == len(pcm) // 2
    assert_envelope(server.speak(response_format=names[0], sample_rate=16000), 400, "sample_rate")


def test_joined_opus_answers_play_to_their_end(server):
    parts = [server.speak(response_format="opus").content for _ in range(3)]
    alone = seconds("opus", parts[0])
    assert seconds("opus", b"".join(parts)) == pytest.approx(3 * alone, abs=0.1)


# ---- usage and how it ended ----


def test_a_whole_answer_tells_usage_and_finish_reason(server):
    events = read_events(server.speak(stream_format="sse").text)
    headers = server.speak(stream=False).headers
    assert headers["x-finish-reason"] == events[-1]["finish_reason"] == "stop"
    for name, count in events[-1]["usage"].items():
        assert headers[f"x-usage-{name.replace('_', '-')}"] == str(count)


def test_length_is_told_in_log_and_metric(server, caplog):
    server.engine.end_reason = FinishReason.LENGTH
    before = metric(server, 'qtts_finished_total{reason="length"}')
    with caplog.at_level("INFO", "qtts_openai.speech.response"):
        server.speak(response_format="pcm")
    assert metric(server, 'qtts_finished_total{reason="length"}') == before + 1
    said = [record for record in caplog.records if "finish reason length" in record.getMessage()]
    assert [record.levelname for record in said] == ["WARNING"]


@pytest.mark.parametrize("te", [b"trailers", None])
async def test_trailers_tell_it_behind_a_stream(start, te):
    """Over ASGI by hand: of uvicorn's servers only that for HTTP/2 sends trailers."""
    server = start()
    app = server.uvicorn.config.app
    body = json.dumps({"model": "tts-1", "voice": "alloy", "input": "Hello."}).encode()
    sent, bodies, complete = [], [body], asyncio.Event()

    async def receive() -> dict:
        if not bodies:
            await complete.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)
        ends = "http.response.trailers" if sent[0].get("trailers") else "http.response.body"
        if message["type"] == ends and not message.get("more_body"):
            complete.set()

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "2", "method": "POST",
        "scheme": "http", "path": "/v1/audio/speech", "raw_path": b"/v1/audio/speech",
        "root_path": "", "query_string": b"", "client": ("127.0.0.1", 1), "server": ("x", 80),
        "headers": [(b"te", te)] if te else [], "extensions": {"http.response.trailers": {}},
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 20)
    assert sent[0]["status"] == 200
    assert bool(sent[0].get("trailers")) == bool(te)
    if te is None:
        assert sent[-1]["type"] == "http.response.body"
        return
    assert sent[-1]["type"] == "http.response.trailers" and not sent[-1]["more_trailers"]
    told = dict(sent[-1]["headers"])
    assert told[b"x-finish-reason"] == b"stop" and int(told[b"x-usage-output-tokens"]) > 0


# ---- from request to audio ----


def metric(server, name: str) -> float:
    text = server.http.get(f"{server.url}/metrics").text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_time_to_first_audio_counts_planning(server, monkeypatch):
    service = server.uvicorn.config.app.state.service
    plan = service.planner.plan

    async def slowly(*arguments):
        await asyncio.sleep(0.3)
        return await plan(*arguments)

    monkeypatch.setattr(service.planner, "plan", slowly)
    before = metric(server, "qtts_ttfa_seconds_sum")
    assert server.speak().status_code == 200
    assert metric(server, "qtts_ttfa_seconds_sum") - before >= 0.3


def test_an_encoder_that_cannot_be_made_leaves_nothing_behind(server, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("no such codec")

    monkeypatch.setattr("qtts_openai.speech.response.AudioEncoder", broken)
    assert_envelope(server.speak(), 500, code="internal_error")
    assert server.engine.submitted and not server.engine.live


# ---- kept answers ----


@pytest.fixture
def caching(start):
    return start(cache=CacheSettings(max_bytes=2_000_000))


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "wav", "pcm"])
def test_the_same_request_is_spoken_once(caching, audio_format):
    first, second = (caching.speak(seed=7, response_format=audio_format) for _ in range(2))
    assert [answer.headers["x-cache"] for answer in (first, second)] == ["miss", "hit"]
    assert without_serials(first.content) == without_serials(second.content)
    assert len(caching.engine.submitted) == 1
    assert metric(caching, 'qtts_cache_answers_total{result="hit"}') == 1
    whole = caching.speak(seed=7, response_format=audio_format, stream=False)
    assert whole.headers["x-cache"] == "hit" and whole.headers["x-finish-reason"] == "stop"
    sse = read_events(caching.speak(seed=7, stream_format="sse").text)
    assert sse[-1]["usage"]["output_tokens"] == int(whole.headers["x-usage-output-tokens"])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"input": "Another text."},
        {"voice": "ash"},
        {"temperature": 0.5},
        {"instructions": "Whisper."},
        {"max_new_tokens": 5},
        {"language": "German"},
    ],
    ids=str,
)
def test_what_decides_the_audio_is_in_the_key(caching, change):
    caching.speak(seed=7)
    assert caching.speak(**{"seed": 7, **change}).headers["x-cache"] == "miss"


def test_what_does_not_decide_the_speech_is_served_from_one_entry(caching):
    caching.speak(seed=7)
    for change in ({"speed": 2.0}, {"response_format": "ulaw"}, {"sample_rate": 16000}):
        assert caching.speak(seed=7, **change).headers["x-cache"] == "hit"


def test_only_repeatable_requests_are_kept(caching, server):
    assert "x-cache" not in caching.speak().headers
    assert "x-cache" not in caching.speak(seed=-1).headers
    assert "x-cache" not in server.speak(seed=7).headers  # off by default
    greedy = [caching.speak(temperature=0, seed=seed).headers["x-cache"] for seed in (1, 2)]
    assert greedy == ["miss", "hit"]


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.ERROR])
def test_cut_and_failed_answers_are_not_kept(caching, reason):
    caching.engine.end_reason = reason
    caching.speak(seed=7, stream=False)
    caching.engine.behave()
    assert caching.speak(seed=7).headers["x-cache"] == "miss"
    assert metric(caching, "qtts_cache_bytes") > 0


def stream_of(*pieces: bytes, reason: FinishReason = FinishReason.STOP):
    class Pieces:
        def __init__(self):
            self.finished, self.left = None, list(pieces)

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.left:
                self.finished = Finished(0, reason, Usage(1, 1))
                raise StopAsyncIteration
            return self.left.pop(0)

        def abort(self):
            self.left.clear()

    return Pieces()


async def record(cache: SpeechCache, key: bytes, *pieces: bytes) -> None:
    assert [piece async for piece in Recording(stream_of(*pieces), cache, key)] == list(pieces)


async def test_the_cache_stays_within_its_bytes_and_forgets_the_least_used():
    cache = SpeechCache(100)
    await record(cache, b"a", bytes(30), bytes(10))
    await record(cache, b"b", bytes(40))
    assert cache.get(b"a") is not None and cache.num_bytes == 80
    await record(cache, b"c", bytes(40))
    assert cache.get(b"b") is None and cache.get(b"a") and cache.get(b"c")
    await record(cache, b"huge", bytes(60), bytes(60))
    assert cache.get(b"huge") is None and cache.num_bytes <= 100


async def test_two_recordings_of_one_key_count_once():
    cache = SpeechCache(100)
    one, two = (Recording(stream_of(bytes(20)), cache, b"k") for _ in range(2))
    for recording in (one, two):
        await anext(recording)
    assert cache.num_bytes == 40
    for recording in (one, two):
        assert [piece async for piece in recording] == []
    assert cache.num_bytes == 20


async def test_an_abandoned_recording_gives_its_bytes_back():
    cache = SpeechCache(100)
    recording = Recording(stream_of(bytes(20), bytes(20)), cache, b"k")
    await anext(recording)
    recording.abort()
    recording.abort()
    assert cache.num_bytes == 0 and cache.get(b"k") is None


async def test_a_replay_comes_in_pieces():
    cache = SpeechCache(1_000_000)
    await record(cache, b"k", bytes(200_000))
    replay = cache.get(b"k")
    sizes = [len(piece) async for piece in replay]
    assert sum(sizes) == 200_000 and max(sizes) <= 48_000
