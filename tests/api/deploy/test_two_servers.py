"""Two servers on one directory of voices and one Redis, used from both sides at once."""

import asyncio
import json
from collections import Counter
from random import Random

import httpx
import pytest

from tests.api.http.test_redis_store import Redis, needs_redis
from tests.attack import hostile
from tests.fuzz.server import serving

pytestmark = [needs_redis, pytest.mark.deploy]

REQUESTS, CLIENTS, MOST_AT_ONCE = 1000, 12, 4
LONG = "This is still under way when the last one of a burst has come. " * 25


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    directory = tmp_path_factory.mktemp("both")
    redis = Redis(directory)
    redis.start()
    settings = {
        "models": [{"id": name, "checkpoint": "unused"} for name in ("tts-1", "base")],
        "server": {"log_level": "error"},
        "voices": {"directory": str(directory / "voices"), "max_voices": 10_000},
        "limits": {"store": redis.url, "max_concurrent_per_key": MOST_AT_ONCE},
    }
    for name in "ab":
        (directory / name).mkdir()
    config = json.dumps(settings)  # JSON is YAML
    try:
        with (
            serving(directory / "a", config, chunk_delay_s=0.03) as one,
            serving(directory / "b", config, chunk_delay_s=0.03) as other,
        ):
            yield [str(one.http.base_url), str(other.http.base_url)]
    finally:
        redis.stop()


class Visitors:
    """`open_now`: answers that their clients are reading, on either side."""

    def __init__(self, urls: list[str]) -> None:
        self.sides = [httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) for url in urls]
        self.random = Random(1)
        self.num_left = REQUESTS
        self.open_now = self.most_open = 0
        self.kept: set[str] = set()
        self.seen: Counter[str] = Counter()

    def side(self) -> httpx.AsyncClient:
        self.num_left -= 1
        return self.random.choice(self.sides)

    async def make(self) -> str:
        name = f"v{self.random.getrandbits(60):x}"
        data = {"name": name, "consent": "I am the speaker and I agree."}
        files = {"audio_sample": ("a.wav", hostile.wav(0.6), "audio/wav")}
        answer = await self.side().post("/v1/audio/voices", data=data, files=files)
        assert answer.status_code == 200, answer.text
        self.seen["made"] += 1
        return answer.json()["id"]

    async def speak(self, voice: str, text: str = "Hi.") -> int:
        body = {"model": "base", "voice": voice, "input": text, "response_format": "pcm"}
        async with self.side().stream("POST", "/v1/audio/speech", json=body) as answer:
            if answer.status_code == 200:
                self.open_now += 1
                self.most_open = max(self.most_open, self.open_now)
                async for piece in answer.aiter_raw():
                    assert piece
                    last = piece  # the place is given back once this has left the server
                self.open_now -= 1
                assert last
        self.seen[f"speech: {answer.status_code}"] += 1
        return answer.status_code

    async def delete(self, voice: str) -> None:
        answer = await self.side().delete(f"/v1/audio/voices/{voice}")
        assert answer.status_code == 200, answer.text
        self.seen["deleted"] += 1

    async def visit(self) -> None:
        """A life of a voice, each step on some side; most voices are deleted again."""
        while self.num_left > 0:
            voice = await self.make()
            for _ in range(3):
                assert await self.speak(voice) in (200, 429), "it is there on both sides"
            if self.random.random() < 0.7:
                await self.delete(voice)
                for _ in range(2):
                    assert await self.speak(voice) in (400, 404, 429), "it is gone on both sides"
            else:
                self.kept.add(voice)

    async def listed(self) -> list[set[str]]:
        answers = [await side.get("/v1/audio/voices") for side in self.sides]
        return [
            {one["id"] for one in answer.json()["voices"] if one["type"] == "audio_sample"}
            for answer in answers
        ]


@pytest.fixture
async def visitors(both):
    made = Visitors(both)
    yield made
    for side in made.sides:
        await side.aclose()


async def test_a_thousand_requests_lose_nothing_and_keep_one_limit(visitors):
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(visitors.visit())
    print(dict(visitors.seen), "most open", visitors.most_open)
    assert sum(visitors.seen.values()) >= REQUESTS
    assert await visitors.listed() == [visitors.kept, visitors.kept], "none lost, no ghosts"
    assert visitors.seen["speech: 200"] > 100 and visitors.seen["speech: 429"] > 10
    assert visitors.most_open == MOST_AT_ONCE


async def test_of_a_burst_on_both_sides_as_many_pass_as_one_server_would_let(visitors):
    voice = await visitors.make()
    await asyncio.sleep(0.5)
    for _ in range(3):
        calls = (visitors.speak(voice, LONG) for _ in range(20))
        statuses = Counter(await asyncio.gather(*calls))
        assert statuses == {200: MOST_AT_ONCE, 429: 20 - MOST_AT_ONCE}, statuses
        await asyncio.sleep(0.5)  # the last places come back within milliseconds
