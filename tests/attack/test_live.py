"""Live sockets that say nothing, and such that vanish in mid-word, on a real engine."""

import asyncio
import json
import time
from collections import Counter

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.attack.conftest import Victim

NUM_SOCKETS, NUM_ROUNDS = 200, 4
CONFIG = {"type": "session.config", "voice": "alloy", "response_format": "pcm"}
# What allocators keep; 400 sessions that leak 30 KB each are at it.
NOISE_MB = 12.0


def gauges(victim: Victim) -> Counter[str]:
    """By name, over all dialects and workers."""
    told: Counter[str] = Counter()
    for line in httpx.get(f"{victim.url}/metrics", timeout=30).text.splitlines():
        if line.startswith(("qtts_live_sessions", "qtts_engine_num")):
            name, value = line.rsplit(" ", 1)
            told[name.split("{")[0]] += float(value)
    return told


def is_idle(victim: Victim) -> bool:
    now = gauges(victim)
    return (
        now["qtts_live_sessions"] == 0 == now["qtts_engine_num_running"]
        and now["qtts_engine_num_free_rows"] == now["qtts_engine_num_rows"]
        and now["qtts_engine_num_free_blocks"] == now["qtts_engine_num_blocks"]
    )


async def visit(victim: Victim) -> None:
    """200 that send no text, which then send some and vanish."""
    url = f"{victim.url.replace('http', 'ws')}/v1/audio/speech/stream"
    sockets = []
    for _ in range(NUM_SOCKETS):
        sockets.append(await connect(url, compression=None))
        await sockets[-1].send(json.dumps({**CONFIG, "stream_audio": True}))
    for socket in sockets:
        assert json.loads(await socket.recv())["type"] == "session.configured"
    now = await asyncio.to_thread(gauges, victim)
    assert now["qtts_engine_num_free_rows"] == now["qtts_engine_num_rows"], "a row was taken"
    text = json.dumps({"type": "input.text", "text": "Hello there my fri"})
    await asyncio.gather(*(socket.send(text) for socket in sockets))
    hearing = [asyncio.create_task(socket.recv()) for socket in sockets]
    await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
    for socket in sockets:
        socket.transport.abort()
    await asyncio.gather(*hearing, return_exceptions=True)


@pytest.mark.attack
def test_sockets_that_are_silent_and_vanish_leave_nothing(attacked: Victim) -> None:
    """The worker's memory is not bounded here: probably it touches KV pages for the first time."""
    seen = []
    for _ in range(NUM_ROUNDS):
        asyncio.run(visit(attacked))
        deadline = time.monotonic() + 120
        while not is_idle(attacked):
            assert time.monotonic() < deadline, gauges(attacked)
            time.sleep(0.2)
        seen.append((attacked.rss_mb(), attacked.num_files()))
        print("RSS of the server in MB, files:", seen[-1])
    (_, _), (warm_mb, files), *_, (last_mb, last_files) = seen
    assert last_mb - warm_mb < NOISE_MB and last_files <= files + 2, seen
