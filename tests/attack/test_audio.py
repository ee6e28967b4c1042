"""Attacks by reference audio, on both ways in: samples of voices, and ref_audio of requests."""

import base64
import threading
import time

import httpx

from tests.attack import hostile
from tests.attack.conftest import Victim
from tests.attack.test_transport import SMALL_MB, SOON_S

FILES = {
    "adx": hostile.ADX,
    "sdp": hostile.SDP,
    "ffconcat": hostile.concat("secret.wav"),
    "ffconcat behind spaces": b"\n\n " + hostile.concat("secret.wav"),
    "hls": hostile.HLS,
    "dash": hostile.DASH,
    "unknown tag": hostile.UNKNOWN_TAG,
    "adx named wav": b"RIFF\x24\x10\0\0WAVE" + hostile.ADX,
    "sdp behind id3": b"ID3\4\0\0\0\0\0\0" + hostile.SDP,
    "concat: protocol": b"concat:secret.wav|secret.wav",
    "empty": b"",
}


def param(answer: httpx.Response) -> str:
    return answer.json()["error"]["param"]


def clone(victim: Victim, data: bytes | str) -> httpx.Response:
    sent = data if isinstance(data, str) else base64.b64encode(data).decode()
    fields = {"ref_audio": sent, "x_vector_only_mode": True, "max_new_tokens": 3}
    return victim.speak(model="base", voice=None, **fields)


WHERE = (
    *("file:secret.wav", "file:///etc/passwd", "http://127.0.0.1/x", "secret.wav", "\\\\host\\x"),
    *("concat:secret.wav", "data:audio/wav,secret.wav", "crypto:secret.wav", "fd:0", "pipe:0"),
)


def test_what_no_format_of_ours_is_is_a_400_of_its_own(attacked):
    (attacked.log.parent / "secret.wav").write_bytes(hostile.wav())
    with attacked.watched() as seen:
        for name, data in FILES.items():
            sample = attacked.upload(data)
            assert (sample.status_code, param(sample)) == (400, "audio_sample"), name
            answer = clone(attacked, data)
            assert (answer.status_code, param(answer)) == (400, "ref_audio"), name
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB and not seen.failures


def test_a_reference_is_no_way_to_files_or_hosts(attacked):
    (attacked.log.parent / "secret.wav").write_bytes(hostile.wav())
    for where in WHERE:
        answer = clone(attacked, where)
        assert (answer.status_code, param(answer)) == (400, "ref_audio"), where


def test_listeners_do_not_wait_for_files_that_hang_or_swell(attacked):
    files = [hostile.SDP] * 4 + [hostile.wide_flac()] * 2
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda f=file: statuses.append(attacked.upload(f).status_code))
        for file in files
    ]
    with attacked.watched() as seen:
        for thread in threads:
            thread.start()
        started = time.monotonic()
        assert attacked.speak(max_new_tokens=3).headers["content-type"] == "audio/mpeg"
        waited_s = time.monotonic() - started
        for thread in threads:
            thread.join()
    assert waited_s < 5 and set(statuses) <= {200, 400, 409, 429}, (waited_s, statuses)
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB and not seen.failures
