"""Attacks on heads, bodies, readers and connections; none of them needs a key."""

import json
import socket
import time

import httpx
import pytest

# The machine of the tests may be busy; the faults held the loop for seconds to minutes.
SOON_S = 1.0
SMALL_MB = 30.0


def post(body_bytes: int, kind: str = "application/json", path: str = "/v1/audio/speech") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {body_bytes}\r\n\r\n"
    ).encode()


CHUNKED = post(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
WHOLE = json.dumps(
    {"model": "tts-1", "voice": "alloy", "input": "Hi.", "max_new_tokens": 3}
).encode()


def flood(client: socket.socket, piece: bytes, times: int) -> None:
    """Until the server has had enough."""
    try:
        for _ in range(times):
            client.sendall(piece)
    except OSError:
        pass


def test_a_head_without_end(attacked):
    with attacked.watched() as seen, attacked.connect() as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        flood(client, b"a:b\r\n" * 20_000, 200)
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB and not seen.failures


def test_a_header_without_end(attacked):
    with attacked.watched() as seen, attacked.connect() as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\na: ")
        flood(client, b"b" * 100_000, 500)
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB


@pytest.mark.parametrize("size", [10_000_000])
def test_a_form_of_many_fields(attacked, size):
    urlencoded = {"content-type": "application/x-www-form-urlencoded"}
    with attacked.watched() as seen:
        try:
            answer = httpx.post(
                f"{attacked.url}/v1/audio/voices", content=b"a&" * (size // 2), headers=urlencoded
            )
            assert answer.status_code == 413
        except httpx.WriteError:
            pass
        attacked.probe_s()
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB


def test_a_body_in_crumbs(attacked):
    with attacked.watched() as seen, attacked.connect() as client:
        client.sendall(CHUNKED)
        flood(client, b"1\r\n \r\n" * 100_000, 20)
    assert seen.longest_wait_s < SOON_S and seen.rss_growth_mb < SMALL_MB


@pytest.mark.parametrize(
    "half",
    [
        b"GET /health HTTP/1.1\r\n",
        post(1000) + b"{",
        CHUNKED + b"%x\r\n%s\r\n" % (len(WHOLE), WHOLE),
    ],
    ids=["head", "body", "no last chunk"],
)
def test_half_requests_do_not_stay(attacked, half):
    clients = [attacked.connect() for _ in range(50)]
    for client in clients:
        client.sendall(half)
    for client in clients:
        with client:
            assert client.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.attack
def test_half_requests_shut_nobody_out(victims):
    """With 64 files; a dead worker must be able to come back, which takes some of them."""
    victim = victims(max_files=64)
    clients = [victim.connect() for _ in range(100)]
    for client in clients:
        flood(client, b"GET /health HTTP/1.1\r\n", 1)
    assert victim.speak().status_code == 200
    for client in clients:
        client.close()


@pytest.mark.attack
def test_readers_that_stop_give_their_rows_back(attacked):
    """Long before their texts are spoken, which takes minutes."""
    body = {"model": "tts-1", "voice": "alloy", "input": "word " * 700, "response_format": "pcm"}
    data = json.dumps({**body, "sample_rate": 48000}).encode()
    clients = [attacked.connect() for _ in range(4)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(post(len(data)) + data)
    deadline = time.monotonic() + 150
    while attacked.log.read_text().count("a client read nothing") < len(clients) or (
        "\nqtts_streams 0.0" not in httpx.get(f"{attacked.url}/metrics").text
    ):
        assert time.monotonic() < deadline, "they are still spoken to"
        time.sleep(0.5)
    for client in clients:
        client.close()


@pytest.mark.attack
def test_connections_that_come_and_go(attacked):
    before = attacked.num_files()
    with attacked.watched() as seen:
        for i in range(1000):
            with attacked.connect() as client:
                if i % 2:
                    client.sendall(post(1000) + b"{")
    attacked.probe_s()
    assert attacked.num_files() < before + 10
    assert seen.rss_growth_mb < SMALL_MB
