"""Live text on a server of its own: how soon it sounds, whether it falters, what is understood.

    python -m benchmarks.live [--start-words 1,2,3] [--sessions 1] [--rate 50] [--turns 24]
    python -m benchmarks.live --sessions 8 --turns 48
    python -m benchmarks.live --judge --start-words 1,2,3 --turns 120

Sentences of training/eval_sentences.txt with the embedded voice over /v1/audio/speech/stream, in
tokens of up to five characters, so many a second. `first` is from the first token sent to the first
byte of audio received. A listener plays from that byte on, without a buffer: what he waits for
later is an underrun. With --judge an offline recogniser (tests/listen/requirements.txt) hears all
of it, and the same sentences said as a whole; --save keeps samples and word times, in a folder.
"""

import argparse
import asyncio
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from websockets.asyncio.client import connect

from engine.protocol import SAMPLE_RATE_HZ
from qtts_openai.load.audio_clock import Arrival, percentiles, play

VOICES = ("nova", "onyx")
SETTLED_S = 0.5  # of audio: a gap before that is at the start


class Case(NamedTuple):
    number: int
    text: str
    spoken: str
    voice: str


class Heard(NamedTuple):
    """`words` as the server timed them."""

    case: Case
    arrivals: list[Arrival]
    pcm: bytes
    words: dict[str, Any]


def cases(count: int) -> list[Case]:
    """The same ones for the same count."""
    lines = (Path(__file__).parents[1] / "training" / "eval_sentences.txt").read_text().splitlines()
    parts = [line.split("|") for line in lines if line and line[0] != "#"]
    random.Random(3).shuffle(parts)
    return [
        Case(number, text, spoken[0] if spoken else text, VOICES[number % 2])
        for number, (_, text, *spoken) in enumerate(parts[:count])
    ]


@contextmanager
def server(start_words: int, threads: int) -> Iterator[str]:
    """HOST:PORT of one that is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        sections: dict[str, Any] = {
            "live": {"start_words": start_words},
            "server": {"log_level": "warning"},
        }
        sections["engine"] = {"threads": threads}
        config.write_text(json.dumps(sections))  # JSON is YAML
        command = [sys.executable, "-m", "qtts_openai", "serve", "--config", str(config)]
        with subprocess.Popen([*command, "--port", address.split(":")[1]]) as process:
            try:
                _wait(f"http://{address}/ready", process)
                yield address
            finally:
                process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1500):
        assert process.poll() is None, "the server ended"
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError("the server did not get ready")


async def speak_live(address: str, case: Case, rate: float) -> Heard:
    async with connect(f"ws://{address}/v1/audio/speech/stream", compression=None) as socket_:
        config = {"type": "session.config", "voice": case.voice, "seed": 1, "stream_audio": True}
        config |= {"response_format": "pcm", "timestamp_type": "word", "word_timestamps": True}
        await socket_.send(json.dumps(config))
        await socket_.recv()
        began = time.monotonic()

        async def feed() -> None:
            for number, token in enumerate(re.findall(r"\s*\S{1,5}", case.text)):
                await asyncio.sleep(began + number / rate - time.monotonic())
                await socket_.send(json.dumps({"type": "input.text", "text": token}))
            await socket_.send('{"type": "input.done"}')

        feeding, arrivals, pcm, words = asyncio.create_task(feed()), [], b"", {}
        while True:
            message = await asyncio.wait_for(socket_.recv(), 120)
            if isinstance(message, bytes):
                arrivals.append(Arrival(time.monotonic() - began, len(message) // 2))
                pcm += message
                continue
            event = json.loads(message)
            assert event["type"] != "error", event
            if event["type"] == "audio.done":
                words = event["timestamp_info"]["word_alignment"]
            if event["type"] == "session.done":
                await feeding
                return Heard(case, arrivals, pcm, words)


async def speak_all(address: str, chosen: list[Case], sessions: int, rate: float) -> list[Heard]:
    left, found = iter(chosen), []

    async def session() -> None:
        for case in left:
            found.append(await speak_live(address, case, rate))

    async with asyncio.TaskGroup() as group:
        for _ in range(sessions):
            group.create_task(session())
    return found


def speak_whole(address: str, case: Case) -> bytes:
    body = {"model": "tts-1", "input": case.text, "voice": case.voice, "seed": 1}
    url = f"http://{address}/v1/audio/speech"
    answer = httpx.post(url, json=body | {"response_format": "pcm"}, timeout=300)
    answer.raise_for_status()
    return answer.content


def report(name: str, found: list[Heard]) -> None:
    first = percentiles([1000 * heard.arrivals[0].at_s for heard in found])
    assert first is not None
    falters, gaps_s, late = 0, 0.0, 0
    for heard in found:
        playback = play(heard.arrivals, SAMPLE_RATE_HZ)
        falters, gaps_s = falters + (playback.num_underruns > 0), gaps_s + playback.gap_s
        late += _falters_late(heard.arrivals)
    print(
        f"{name}: {len(found)} turns, first p50 {first['p50']:.0f} ms, p95 {first['p95']:.0f}, "
        f"max {first['max']:.0f}; with an underrun {falters} ({gaps_s:.2f} s in all), "
        f"later than {SETTLED_S} s {late}",
        flush=True,
    )


def _falters_late(arrivals: list[Arrival]) -> bool:
    dry_at, played = arrivals[0].at_s, 0.0
    for at_s, num_samples in arrivals:
        if at_s > dry_at and played > SETTLED_S:
            return True
        played += num_samples / SAMPLE_RATE_HZ
        dry_at = max(dry_at, at_s) + num_samples / SAMPLE_RATE_HZ
    return False


def judge(name: str, said: list[tuple[Case, bytes]]) -> None:
    from training.judge import Judge, errors, normalise

    ear, wrong, total = Judge(), 0, 0
    for case, pcm in sorted(said):
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
        heard = ear.hear(samples, SAMPLE_RATE_HZ)
        count = errors(heard, case.spoken)[0]
        wrong, total = wrong + count, total + len(normalise(case.spoken))
        if count:
            print(f"  {name} {case.number}: {case.spoken!r} -> {heard!r}")
    print(f"{name}: {wrong} of {total} words wrong, {wrong / total:.1%}", flush=True)


def save(folder: Path, name: str, found: list[Heard]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for case, _, pcm, words in found:
        (folder / f"{name}-{case.number}.pcm").write_bytes(pcm)
        told = {"text": case.text, "spoken": case.spoken, "words": words}
        (folder / f"{name}-{case.number}.json").write_text(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--start-words", type=numbers, default=[1])
    parser.add_argument("--sessions", type=int, default=1, help="at once")
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second")
    parser.add_argument("--turns", type=int, default=24)
    parser.add_argument("--threads", type=int, default=0, help="of the engine; 0 measures")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    chosen = cases(arguments.turns)
    whole: list[tuple[Case, bytes]] = []
    for start_words in arguments.start_words:
        name = f"live-{start_words}"
        with server(start_words, arguments.threads) as address:
            asyncio.run(speak_all(address, chosen[:1], 1, arguments.rate))  # warm
            found = asyncio.run(speak_all(address, chosen, arguments.sessions, arguments.rate))
            if arguments.judge and not whole:
                whole = [(case, speak_whole(address, case)) for case in chosen]
                judge("whole", whole)
        report(name, found)
        if arguments.save:
            save(arguments.save, name, found)
        if arguments.judge:
            judge(name, [(heard.case, heard.pcm) for heard in found])


if __name__ == "__main__":
    main()
