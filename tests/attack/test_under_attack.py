"""All known attacks on a server as it comes, while four people listen and a prober asks /live.

Prints the figures of benchmarks/RESULTS.md:  pytest -s -m attack tests/attack/test_under_attack.py
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from tests.attack import hostile
from tests.attack.conftest import Victim
from tests.attack.test_bodies import BOMBS, FORMS, PAUSES, SMUGGLED, SPEECH
from tests.attack.test_transport import flood

BYTES_PER_S = 48_000
TEXT = "The ferry leaves at noon, and the next one not before the evening. " * 3


class Listener(threading.Thread):
    """Plays one answer after the other, each from its first sample on without a buffer."""

    def __init__(self, victim: Victim, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.victim, self.stop = victim, stop
        self.client = httpx.Client(timeout=60)
        self.num_heard, self.audio_s, self.gaps_s, self.broken = 0, 0.0, [], []
        self.start()

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self._listen()
                self.num_heard += 1
            except (httpx.HTTPError, AssertionError) as error:
                self.broken.append(repr(error))

    def _listen(self) -> None:
        body = {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "pcm"}
        with self.client.stream("POST", f"{self.victim.url}{SPEECH}", json=body) as answer:
            assert answer.status_code == 200, answer.status_code
            plays_until = None
            for pcm in answer.iter_raw():
                now = time.monotonic()
                if plays_until is not None and now > plays_until:
                    self.gaps_s.append(now - plays_until)
                self.audio_s += len(pcm) / BYTES_PER_S
                plays_until = max(now, plays_until or now) + len(pcm) / BYTES_PER_S


class Attacks:
    def __init__(self, victim: Victim) -> None:
        self.victim = victim
        self.statuses: Counter[int | str] = Counter()

    def post(self, path: str, body: bytes, kind: str = "application/json") -> None:
        headers = {"content-type": kind}
        try:
            answer = httpx.post(
                f"{self.victim.url}{path}", content=body, headers=headers, timeout=60
            )
            self.statuses[answer.status_code] += 1
        except httpx.TransportError as error:
            self.statuses[type(error).__name__] += 1

    def files(self) -> None:
        for data in (hostile.ADX, hostile.SDP, hostile.UNKNOWN_TAG, hostile.concat("x.wav")):
            for _ in range(6):
                self.statuses[self.victim.upload(data).status_code] += 1

    def pauses(self) -> None:
        for fields in PAUSES.values():
            self.statuses[self.victim.speak(**fields, max_new_tokens=3).status_code] += 1

    def heads(self) -> None:
        for piece in (b"a:b\r\n" * 20_000, b"a: " + b"b" * 100_000):
            with self.victim.connect() as client:
                client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n")
                flood(client, piece, 400)

    def forms(self) -> None:
        self.post("/v1/audio/voices", b"a&" * 5_000_000, "application/x-www-form-urlencoded")
        for body in FORMS.values():
            self.post("/v1/audio/voices", body, "multipart/form-data; boundary=b")

    def bodies(self) -> None:
        unknown = b",".join(b'"%06x":0' % i for i in range(300_000))
        items = b'"items":[' + b",".join([b'{"input":"hi"}'] * 32) + b"]"
        self.post(f"{SPEECH}/batch", b'{"model":"tts-1",' + items + b"," + unknown + b"}")
        for body in BOMBS.values():
            self.post(SPEECH, body)

    def nearly_http(self) -> None:
        for raw in SMUGGLED:
            answer = self.victim.send(raw, timeout_s=4)
            self.statuses[int(answer[9:12] or 0)] += 1

    def seized(self) -> None:
        clients = [self.victim.connect() for _ in range(200)]
        for client in clients:
            flood(client, b"GET /health HTTP/1.1\r\n", 1)
        time.sleep(2)
        for client in clients:
            client.close()


def peak_rss_mb(victim: Victim) -> float:
    with open(f"/proc/{victim.process.pid}/status") as status:
        (kib,) = re.findall(r"VmHWM:\s+(\d+)", status.read())
    return int(kib) / 1024


def _audio(listeners: list[Listener]) -> float:
    return sum(listener.audio_s for listener in listeners)


def attack(attacks: Attacks, listeners: list[Listener]) -> None:
    kinds: list[Callable[[], None]] = [
        attacks.files, attacks.pauses, attacks.heads, attacks.forms, attacks.bodies,
        attacks.nearly_http, attacks.seized,
    ]  # fmt: skip
    for kind in kinds:
        audio_s, started = _audio(listeners), time.monotonic()
        kind()
        audio_s, took_s = _audio(listeners) - audio_s, time.monotonic() - started
        print(
            f"  {kind.__name__}: {took_s:.1f} s, {audio_s / took_s:.1f} s of audio heard a second"
        )
        assert attacks.victim.process.poll() is None, f"dead after {kind.__name__}"


@pytest.mark.attack
def test_the_whole_script_while_four_listen(victims):
    victim = victims()
    stop, attacks = threading.Event(), Attacks(victim)
    listeners = [Listener(victim, stop) for _ in range(4)]
    try:
        with victim.watched() as calm:
            time.sleep(15)
        print(f"{_audio(listeners) / 15:.1f} s of audio heard a second")
        calm_gaps = [gap for listener in listeners for gap in listener.gaps_s]
        for listener in listeners:
            listener.gaps_s.clear()
        with victim.watched() as seen:
            attack(attacks, listeners)
    finally:
        stop.set()
        for listener in listeners:
            listener.join()
    gaps = [gap for listener in listeners for gap in listener.gaps_s]
    broken = [error for listener in listeners for error in listener.broken]
    for name, found, silences in (("calm", calm, calm_gaps), ("attacked", seen, gaps)):
        waits = sorted(found.waits_s)
        print(f"{name}: /live {waits[len(waits) // 2]:.3f} s p50, {waits[-1]:.3f} s longest of")
        print(f"  {len(waits)}; gaps {len(silences)}, longest {max(silences, default=0):.3f} s")
    heard = sum(listener.num_heard for listener in listeners)
    print(f"heard {heard} answers; answers to attacks {dict(attacks.statuses)}")
    print(f"RSS at most {peak_rss_mb(victim):.0f} MB")
    assert not broken and not seen.failures
    assert not [status for status in attacks.statuses if isinstance(status, int) and status >= 500]
    assert peak_rss_mb(victim) < 300
    # On an idle machine 250 ms; attacker and victim share this one's cores.
    assert seen.longest_wait_s < max(0.25, 2 * calm.longest_wait_s)
    assert "Traceback" not in victim.log.read_text()
