"""Against a redis-server (or valkey-server) of its own on 127.0.0.1."""

import asyncio
import logging
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from qtts_openai.errors import ApiError
from qtts_openai.http import redis_store as module
from qtts_openai.http.rate_limit import Limiter
from qtts_openai.http.redis_store import RedisStore
from qtts_openai.settings import Limits, SettingsError

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
NONE = "no redis-server or valkey-server; apt-get install redis-server"
needs_redis = pytest.mark.skipif(SERVER is None, reason=NONE)


def with_redis(test):
    return pytest.mark.process(needs_redis(test))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Redis:
    def __init__(self, directory) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        options += ["--dir", str(self._directory), "--loglevel", "warning"]
        self.process = subprocess.Popen([SERVER, *options], stdout=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("redis-server did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Redis]:
    redis = Redis(tmp_path_factory.mktemp("redis"))
    redis.start()
    yield redis
    redis.stop()


class Servers:
    """Limiters as several servers have them."""

    def __init__(self, url: str, count: int, limits: Limits) -> None:
        self.failures: list[int] = []
        self.limiters = [
            Limiter(limits, RedisStore(url, limits, self.failures.append)) for _ in range(count)
        ]

    async def __aenter__(self) -> list[Limiter]:
        return self.limiters

    async def __aexit__(self, *_: object) -> None:
        for limiter in self.limiters:
            await limiter.store.close()


@with_redis
async def test_one_limit_holds_over_two_servers(shared):
    limits = Limits(max_concurrent_per_key=3)
    async with Servers(shared.url, 2, limits) as both:
        takes = [both[i % 2].acquire("three", 1) for i in range(40)]
        results = await asyncio.gather(*takes, return_exceptions=True)
        leases = [one for one in results if not isinstance(one, BaseException)]
        assert len(leases) == 3
        refused = [one for one in results if isinstance(one, BaseException)]
        assert [getattr(one, "status", one) for one in refused] == [429] * 37
        leases[0].release()
        await asyncio.sleep(0.1)
        leases[0].release()
        again = [await both[0].acquire("three", 1)]
        with pytest.raises(ApiError):
            await both[1].acquire("three", 1)
        for lease in leases + again:
            lease.release()
        await asyncio.sleep(0.1)  # what the other server tells is under way
        assert (await both[1].acquire("three", 1)).headers["x-ratelimit-remaining-requests"] == "2"


@with_redis
async def test_a_bucket_of_characters_is_shared_refills_and_keeps_debts(shared):
    async with Servers(shared.url, 2, Limits(chars_per_minute=6000)) as (one, other):
        lease = await one.acquire("chars", 10)
        await lease.settle(5800)
        with pytest.raises(ApiError) as error:
            await other.acquire("chars", 400)
        assert error.value.headers["x-ratelimit-limit-tokens"] == "6000"
        assert int(error.value.headers["retry-after"]) <= 2
        await asyncio.sleep(2.05)  # 100 a second
        await other.acquire("chars", 390)
        lease.refund()
        await one.acquire("chars", 5700)
        large = await one.acquire("large", 12_000)
        assert large.headers["x-ratelimit-remaining-tokens"] == "0"
        with pytest.raises(ApiError) as error:
            await other.acquire("large", 100)
        assert 55 <= int(error.value.headers["retry-after"]) <= 61


@with_redis
async def test_answers_of_a_batch_are_places(shared):
    async with Servers(shared.url, 2, Limits(max_concurrent_per_key=2)) as (one, other):
        batch = await one.acquire("batch", 1)
        assert await batch.extend() and not await batch.extend()
        with pytest.raises(ApiError):
            await other.acquire("batch", 1)
        batch.shrink()
        await asyncio.sleep(0.1)
        single = await one.acquire("batch", 1)
        single.release()
        batch.release()
        assert (await one.acquire("batch", 1)).headers["x-ratelimit-remaining-requests"] == "1"


@with_redis
async def test_leases_of_a_server_that_died_end_and_those_of_a_living_one_do_not(
    shared, monkeypatch
):
    monkeypatch.setattr(module, "LEASE_S", 0.6)
    monkeypatch.setattr(module, "RENEW_S", 0.1)
    limits = Limits(max_concurrent_per_key=2)
    dead, living = Servers(shared.url, 1, limits), Servers(shared.url, 1, limits)
    await dead.limiters[0].acquire("expiry", 1)
    dead.limiters[0].store._worker.cancel()
    async with living as (limiter,):
        held = await limiter.acquire("expiry", 1)
        with pytest.raises(ApiError):
            await limiter.acquire("expiry", 1)
        await asyncio.sleep(1.0)
        free = await limiter.acquire("expiry", 1)
        with pytest.raises(ApiError):
            await limiter.acquire("expiry", 1)
        held.release()
        free.release()
    await dead.limiters[0].store._redis.aclose()


@with_redis
async def test_nothing_stays_in_redis(shared):
    from redis.asyncio import Redis as Client

    async with Servers(shared.url, 1, Limits(max_concurrent_per_key=2)) as (limiter,):
        (await limiter.acquire("10.0.0.9", 1)).release()
    async with Client.from_url(shared.url) as client:
        names = await client.keys("qtts:limits:*")
        assert names and all([0 < await client.pttl(name) < 120_000 for name in names])
        assert not any(b"10.0.0.9" in name for name in names), "addresses are people's"


@with_redis
@pytest.mark.parametrize("how", ["hangs", "is gone"])
async def test_requests_pass_while_redis_does_not_answer(tmp_path, caplog, monkeypatch, how):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(module, "PAUSE_S", 0.3)
    redis = Redis(tmp_path)
    redis.start()
    servers = Servers(redis.url, 1, Limits(max_concurrent_per_key=1))
    try:
        async with servers as (limiter,):
            held = await limiter.acquire("a", 1)
            if how == "hangs":
                redis.process.send_signal(signal.SIGSTOP)
            else:
                redis.stop()
            with caplog.at_level(logging.WARNING):
                started = time.monotonic()
                leases = [await limiter.acquire("a", 1) for _ in range(20)]
            assert time.monotonic() - started < 5, "one wait, not twenty"
            assert all(lease.headers == held.headers or not lease.headers for lease in leases)
            warned = [r for r in caplog.records if "limits are not held" in r.message]
            assert len(warned) == 1 and sum(servers.failures) >= 20
            for lease in leases:
                lease.release()
            if how == "hangs":
                redis.process.send_signal(signal.SIGCONT)
            else:
                redis.start()
            await asyncio.sleep(0.4)
            with pytest.raises(ApiError):  # the lease that was held all the time counts again
                await limiter.acquire("a", 1)
            held.release()
            (await limiter.acquire("a", 1)).release()
    finally:
        redis.stop()


@with_redis
def test_two_servers_hold_one_limit(start, shared, monkeypatch):
    monkeypatch.setenv("QTTS_API_KEYS", "one")
    limits = Limits(chars_per_minute=1000, store=shared.url)
    servers = [start(limits=limits), start(limits=limits)]
    for server in servers:
        server.http.headers["authorization"] = "Bearer one"
    text = "x" * 400
    assert [servers[i % 2].speak(input=text).status_code for i in range(3)] == [200, 200, 429]
    metrics = servers[0].http.get(f"{servers[0].url}/metrics").text
    assert "qtts_rate_store_failures_total 0.0" in metrics


def test_what_the_settings_lack_is_said_at_start(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"qtts-openai\[redis\]"):
        RedisStore("redis://127.0.0.1:1/0", Limits())
