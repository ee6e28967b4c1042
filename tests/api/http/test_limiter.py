from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from qtts_openai.errors import ApiError
from qtts_openai.http import rate_store as module
from qtts_openai.http.rate_limit import Limiter
from qtts_openai.settings import Limits
from tests.api.speech.test_streaming import LONG, post_and_leave, wait_until
from tests.api.test_speech import assert_envelope


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    # Only the limiter's own: the event loops of running servers need the real one.
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


async def test_characters_refill_all_the_time(clock):
    limiter = Limiter(Limits(chars_per_minute=600))
    await limiter.acquire("a", 600)
    with pytest.raises(ApiError) as error:
        await limiter.acquire("a", 100)
    assert error.value.status == 429 and error.value.headers["retry-after"] == "10"
    await limiter.acquire("b", 600)
    clock[0] += 10
    lease = await limiter.acquire("a", 100)
    assert lease.headers["x-ratelimit-limit-tokens"] == "600"
    assert lease.headers["x-ratelimit-remaining-tokens"] == "0"


async def test_a_request_larger_than_the_bucket_passes_when_it_is_full(clock):
    limiter = Limiter(Limits(chars_per_minute=100))
    await limiter.acquire("a", 250)
    clock[0] += 100
    with pytest.raises(ApiError):
        await limiter.acquire("a", 100)
    clock[0] += 60
    await limiter.acquire("a", 100)


async def test_releasing_twice_frees_one_place():
    limiter = Limiter(Limits(max_concurrent_per_key=2))
    first, _second = await limiter.acquire("a", 1), await limiter.acquire("a", 1)
    first.release()
    first.release()
    await limiter.acquire("a", 1)
    with pytest.raises(ApiError):
        await limiter.acquire("a", 1)


async def test_debts_are_kept_and_memory_is_bounded(clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_BUCKETS", 100)
    limiter = Limiter(Limits(chars_per_minute=1000))
    (await limiter.acquire("debtor", 131_072)).release()
    for i in range(2000):
        clock[0] += 0.05
        (await limiter.acquire(str(i), 10)).release()
    assert len(limiter.store._buckets) <= 101 and len(limiter.store._by_end) == len(
        limiter.store._buckets
    )
    with pytest.raises(ApiError):
        await limiter.acquire("debtor", 10)
    clock[0] += 132 * 60
    await limiter.acquire("debtor", 10)


async def test_many_callers_cost_no_more_than_few(monkeypatch):
    """Beyond the bound every new one cost 0.6 ms, as all were looked at."""
    monkeypatch.setattr(module, "MAX_BUCKETS", 2000)
    limiter = Limiter(Limits(chars_per_minute=1000, max_concurrent_per_key=2))
    checks = []
    wait_s = module.Bucket.wait_s
    monkeypatch.setattr(
        module.Bucket, "wait_s", lambda self, needed: checks.append(1) or wait_s(self, needed)
    )
    for i in range(5000):
        (await limiter.acquire(str(i), 1)).release()
    assert len(limiter.store._buckets) <= 2001 and len(checks) < 7 * 5000


async def test_open_answers_are_never_forgotten(clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_BUCKETS", 5)
    limiter = Limiter(Limits(max_concurrent_per_key=1, chars_per_minute=100))
    leases = [await limiter.acquire(str(i), 1) for i in range(20)]
    for i in range(20):
        clock[0] += 10
        with pytest.raises(ApiError):
            await limiter.acquire(str(i), 1)
    for lease in leases:
        lease.release()
    for i in range(20, 60):
        (await limiter.acquire(str(i), 1)).release()
    assert len(limiter.store._buckets) <= 6


async def test_without_limits_nothing_is_kept():
    limiter = Limiter(Limits())
    for i in range(10):
        assert (await limiter.acquire(str(i), 10**9)).headers == {}
    assert not limiter.store._buckets


async def test_a_lease_is_settled_when_the_text_is_known(clock):
    limiter = Limiter(Limits(chars_per_minute=100))
    lease = await limiter.acquire("a", 10)
    await lease.settle(60)
    assert lease.headers["x-ratelimit-remaining-tokens"] == "40"
    second = await limiter.acquire("a", 10)
    with pytest.raises(ApiError) as error:
        await second.settle(100)
    assert error.value.status == 429 and error.value.headers["retry-after"] == "36"
    second.refund()
    assert second.headers["x-ratelimit-remaining-tokens"] == "40"


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({"input": "x" * 20}, 20),
        ({"input": "x x", "pronunciations": {"x": "y" * 40}}, 81),
        ({"input": "Hi.", "instructions": "z" * 30}, 33),
        ({"input": "Hi.[pause:2s]", "pause_tags": True}, 13 + 2 * 15),
        ({"input": "Hi.[pause:2s]", "pause_tags": False}, 13),
    ],
    ids=str,
)
def test_what_is_spoken_is_what_counts(start, fields, cost):
    server = start(limits=Limits(chars_per_minute=300))
    answer = server.speak(**fields)
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(300 - cost)


def test_a_text_that_grows_beyond_the_limit_is_refused_and_costs_nothing(start):
    server = start(limits=Limits(chars_per_minute=100))
    assert server.speak(input="x" * 60).status_code == 200
    grown = {"input": "x x", "pronunciations": {"x": "y" * 40}}
    assert_envelope(server.speak(**grown), 429, None, "rate_limit_exceeded")
    assert len(server.engine.submitted) == 1
    assert server.speak(input="x" * 40).status_code == 200


async def test_idle_buckets_are_forgotten(clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_BUCKETS", 10)
    limiter = Limiter(Limits(chars_per_minute=100))
    held = await limiter.acquire("held", 1)
    for i in range(30):
        clock[0] += 30
        (await limiter.acquire(str(i), 1)).release()
    assert len(limiter.store._buckets) < 15 and "held" in limiter.store._buckets
    held.release()


@pytest.fixture
def two_at_once(start, monkeypatch):
    monkeypatch.setenv("QTTS_API_KEYS", "one,two")
    server = start(limits=Limits(max_concurrent_per_key=2))
    server.http.headers["authorization"] = "Bearer one"
    return server


def test_refused_requests_cost_nothing(start):
    server = start(limits=Limits(chars_per_minute=30))
    for _ in range(4):
        assert server.speak(input="x" * 20, voice="nobody").status_code == 400
    answer = server.speak(input="x" * 20)
    assert answer.status_code == 200 and answer.headers["x-ratelimit-remaining-tokens"] == "10"


def test_without_keys_a_made_up_key_is_no_way_around(start):
    server = start(limits=Limits(chars_per_minute=30))
    answers = [
        server.http.post(
            "/audio/speech",
            json={"model": "tts-1", "voice": "alloy", "input": "x" * 20},
            headers={"authorization": f"Bearer {i}"},
        )
        for i in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 429]


def free(server) -> bool:
    answer = server.speak(response_format="pcm")
    return answer.headers.get("x-ratelimit-remaining-requests") == "1"


def test_one_key_may_not_take_all(two_at_once):
    server = two_at_once
    server.engine.chunk_delay_s = 0.1
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: server.speak(), range(6)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 4
    for answer in refused:
        assert_envelope(answer, 429, None, "rate_limit_exceeded")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize(
    "fields", [{}, {"stream_format": "sse"}, {"stream": False}, {"input": ""}], ids=str
)
def test_places_are_free_again(two_at_once, fields):
    for _ in range(5):
        assert two_at_once.speak(**fields).status_code in (200, 400)
    two_at_once.engine.fail_after = 0
    for _ in range(5):
        assert two_at_once.speak(**{"input": LONG, **fields}).status_code in (400, 503)
    two_at_once.engine.behave()
    wait_until(lambda: free(two_at_once))


def test_places_are_free_after_broken_answers_and_vanished_clients(two_at_once):
    server = two_at_once
    server.engine.fail_after = 2
    for _ in range(3):
        with pytest.raises(Exception, match="peer closed"):
            server.speak(input=LONG)
    server.engine.behave()
    server.engine.chunk_delay_s = 0.05
    for _ in range(3):
        post_and_leave(server, {"input": LONG}, 100)
    server.engine.behave()
    wait_until(lambda: free(server))


def test_the_openai_client_waits_and_tries_again(two_at_once):
    from openai import AuthenticationError  # seconds, see conftest.py

    server = two_at_once
    server.engine.chunk_delay_s = 0.1

    def say(_):
        with server.openai(api_key="two", max_retries=2) as client:
            return client.audio.speech.create(model="tts-1", voice="alloy", input="Hi.").content

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(say, range(4)))
    with server.openai(api_key="three") as client, pytest.raises(AuthenticationError):
        client.models.list()
