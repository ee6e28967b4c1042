"""HTTP as all kinds of clients speak it, over bare sockets, and the bounds of a connection."""

import json
import logging
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from qtts_openai.settings import Limits, ServerSettings
from tests.api.speech.test_streaming import wait_until

BODY = json.dumps({"model": "tts-1", "voice": "alloy", "input": "Hi there.", "seed": 1}).encode()


def connect(server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def request(body: bytes = BODY, *lines: str, path="/v1/audio/speech", version="1.1") -> bytes:
    head = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


def read_all(client: socket.socket) -> tuple[bytes, bytes]:
    """(head, body) up to the end of the connection."""
    data = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def status_of(head: bytes) -> int:
    return int(head.split(b" ", 2)[1])


def exchange(server, *parts: bytes, pause_s: float = 0.05) -> tuple[bytes, bytes]:
    """Send with `Connection: close` in the parts, and read to the end."""
    with connect(server) as client:
        for i, part in enumerate(parts):
            if i:
                time.sleep(pause_s)
            client.sendall(part)
        return read_all(client)


# H1 of the field cases


@pytest.mark.parametrize("token", ["h2c", "TLS/1.0", "foo", "websocket"])
@pytest.mark.parametrize("how", ["at once", "later", "chunked"])
def test_an_upgrade_that_nobody_accepts_is_ignored(server, token, how, caplog):
    lines = ("Connection: Upgrade, HTTP2-Settings, close", f"Upgrade: {token}")
    whole = request(BODY, *lines)
    parts = [whole]
    if how == "later":
        parts = [whole[: -len(BODY)], BODY]
    elif how == "chunked":
        head = whole[: -len(BODY)].replace(
            b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked"
        )
        parts = [head, b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"]
    with caplog.at_level(logging.WARNING):
        head, body = exchange(server, *parts)
    assert head.startswith(b"HTTP/1.1 200 ") and b"audio/mpeg" in head
    assert head.count(b"HTTP/1.1") == 1 and len(body) > 1000
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_connection_goes_on_after_an_ignored_upgrade(server):
    with connect(server) as client:
        for _ in range(2):
            client.sendall(request(BODY, "Connection: Upgrade", "Upgrade: h2c"))
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                data += client.recv(65536)
            assert data.startswith(b"HTTP/1.1 200")


# H2


@pytest.mark.parametrize(
    "fields", [{}, {"response_format": "wav"}, {"stream_format": "sse"}], ids=str
)
def test_http_1_0_gets_no_chunks(server, fields):
    body = json.dumps({**json.loads(BODY), **fields}).encode()
    head, plain = exchange(server, request(body, version="1.0"))
    assert status_of(head) == 200 and b"transfer-encoding" not in head.lower()
    assert plain == server.http.post("/audio/speech", content=body).content


def test_a_broken_answer_to_http_1_0_is_no_regular_end(server):
    server.engine.fail_after = 2
    long = json.dumps({**json.loads(BODY), "input": "word " * 50, "response_format": "pcm"})
    with connect(server) as client, pytest.raises(ConnectionResetError):
        client.sendall(request(long.encode(), version="1.0"))
        read_all(client)


# H3


def test_keep_alive_can_be_set_and_is_long_by_default(start):
    assert ServerSettings().keep_alive_s >= 60
    server = start(server=ServerSettings(keep_alive_s=0.5))
    with connect(server) as client:
        for pause_s in (0.0, 0.2):
            time.sleep(pause_s)
            client.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
        started = time.perf_counter()
        assert client.recv(100) == b"", "closed when it was idle"
        assert time.perf_counter() - started > 0.3


# H4


def test_head_is_a_get_without_a_body(server):
    for path in ("/live", "/ready", "/health", "/metrics", "/docs", "/openapi.json"):
        answer = server.http.head(f"{server.url}{path}")
        assert answer.status_code == 200 and not answer.content, path
    for path in ("/models", "/models/tts-1", "/audio/voices", "/audio/models"):
        got = server.http.get(path)
        answer = server.http.head(path)
        assert answer.status_code == 200 and not answer.content, path
        assert answer.headers["content-length"] == got.headers["content-length"]
    assert server.http.head("/audio/speech").status_code == 405
    head, body = exchange(server, b"HEAD /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert status_of(head) == 200 and body == b""
    server.engine.status = "restarting"
    try:
        assert server.http.head(f"{server.url}/health").status_code == 503
    finally:
        server.engine.status = "ready"


# H5


def test_a_byte_order_mark_is_no_part_of_the_json(server):
    assert server.http.post("/audio/speech", content=b"\xef\xbb\xbf" + BODY).status_code == 200


# H8


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/audio/speech", "/v1/audio/speech"),
        ("/v1/v1/audio/speech", "/v1/audio/speech"),
        ("/v1/audio/speech/audio/speech", "/v1/audio/speech"),
        ("/openai/deployments/tts/audio/speech/", "/v1/audio/speech"),
        ("/models", "/v1/models"),
        ("/v1/audio/speech/v1/models", "/v1/models"),
        ("/audio/voices", "/v1/audio/voices"),
    ],
)
def test_a_wrong_base_url_is_told_the_right_route(server, path, route):
    for method in ("GET", "POST"):
        answer = server.http.request(method, f"{server.url}{path}")
        assert answer.status_code == 404
        assert f" {route}," in answer.json()["error"]["message"]


def test_the_absolute_form_of_a_target_is_read(server):
    head, _ = exchange(
        server, b"GET http://x/v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert status_of(head) == 200


# H9, H10


def test_metrics_have_one_charset(server):
    kind = server.http.get(f"{server.url}/metrics").headers["content-type"]
    assert kind.count("charset") == 1 and kind.startswith("text/plain; version=")


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/audio/speech/batch", "/v1/audio/voices"])
def test_a_broken_upload_is_a_499(server, path, caplog):
    def count(status: int) -> float:
        text = server.http.get(f"{server.url}/metrics").text
        start = f'qtts_http_requests_total{{method="POST",route="{path}",status="{status}"}} '
        return sum(float(s.split()[-1]) for s in text.splitlines() if s.startswith(start))

    before, failed = count(499), count(500)
    with connect(server) as client:
        client.sendall(request(b"x" * 20, path=path).replace(b"Length: 20", b"Length: 50000"))
        time.sleep(0.1)
    wait_until(lambda: count(499) == before + 1)
    assert count(500) == failed
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


# H4, H5, M8 of the attack cases: heads, bodies, readers, their number

IMPATIENT = ServerSettings(head_timeout_s=0.5, body_timeout_s=0.5, write_timeout_s=1.5)


@pytest.fixture
def impatient(start):
    return start(server=IMPATIENT)


@pytest.mark.parametrize(
    "head",
    [
        b"a:b\r\n" * 20_000,
        b"a:b\r\n" * 200,
        b"a: " + b"b" * 70_000,
        b"a" * 70_000,
        b"a: " + b"b" * 70_000 + b"\r\n\r\n",
    ],
    ids=["many", "200 fields", "long value", "long name", "whole"],
)
def test_the_head_has_a_bound(server, head):
    data = b"GET /live HTTP/1.1\r\nHost: x\r\n" + head
    with connect(server) as client:
        client.sendall(data)
        answer, body = read_all(client)
    assert status_of(answer) == 431 and b'"error"' in body


def test_a_large_head_within_the_bound_is_read(server):
    lines = b"".join(b"x-field-%d: %s\r\n" % (i, b"v" * 500) for i in range(100))
    head, _ = exchange(
        server, b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lines + b"\r\n"
    )
    assert status_of(head) == 200


def test_bodies_in_crumbs_are_refused(server):
    head = request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    with connect(server) as client:
        client.sendall(head + b"1\r\nx\r\n" * 2000)
        assert status_of(client.recv(65536)) == 400


def test_half_a_head_and_half_a_body_are_a_408(impatient):
    with connect(impatient) as client:
        client.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n")
        head, body = read_all(client)
        assert status_of(head) == 408 and b"request_timeout" in body
    with connect(impatient) as client:
        client.sendall(request()[:-5])
        head, body = read_all(client)
        assert status_of(head) == 408 and b"body" in body
    with connect(impatient) as client:
        assert client.recv(10) == b"", "who says nothing is closed without a word"
    assert impatient.speak().status_code == 200


def test_a_dripped_head_does_not_last_longer(impatient):
    with connect(impatient) as client:
        client.sendall(b"GET /live HTTP/1.1\r\n")
        started = time.perf_counter()
        with pytest.raises(OSError):
            for i in range(100):
                client.sendall(b"a: %d\r\n" % i)
                time.sleep(0.1)
        assert time.perf_counter() - started < 60


def test_a_reader_that_stops_loses_its_stream(impatient):
    """The answer is larger than the system's buffers."""
    engine, text = impatient.engine, "word " * 100
    fields = {"response_format": "pcm", "sample_rate": 48000, "stream_format": "sse"}
    body = json.dumps({"model": "tts-1", "voice": "alloy", "input": text, **fields}).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = impatient.url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        client.sendall(request(body))
        wait_until(lambda: engine.live)
        wait_until(lambda: not engine.live)
        time.sleep(0.1)
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_a_slow_reader_keeps_its_stream(impatient):
    body = json.dumps(
        {"model": "tts-1", "voice": "alloy", "input": "word " * 150, "response_format": "pcm"}
    ).encode()
    with connect(impatient) as client:
        client.sendall(request(body, "Connection: close"))
        size = 0
        while data := client.recv(60_000):
            size += len(data)
            time.sleep(0.02)
    assert size > 500_000


def test_half_requests_shut_nobody_out(start):
    server = start(server=ServerSettings(max_connections=8))
    held = [connect(server) for _ in range(30)]
    try:
        for client in held:
            client.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n")
        assert server.speak().status_code == 200
    finally:
        for client in held:
            client.close()


def test_beyond_the_most_connections_is_a_503(start):
    server = start(server=ServerSettings(max_connections=4))
    server.engine.hang_after = 0
    held = [connect(server) for _ in range(4)]
    try:
        for client in held:
            client.sendall(request())
        wait_until(lambda: len(server.engine.live) == 4)
        with connect(server) as client:
            head, body = read_all(client)
        assert status_of(head) == 503 and b"too_many_connections" in body
    finally:
        for client in held:
            client.close()
    wait_until(lambda: not server.engine.live)


# H7 of the attack cases: bodies by route


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/audio/voices", "/v1/audio/nothing"])
def test_bodies_have_bounds_by_route(server, path, declared):
    size = 300_000
    head = request(b"", path=path).replace(b"Content-Length: 0", b"Content-Length: %d" % size)
    body = b" " * size
    if not declared:
        head = head.replace(b"Content-Length: %d" % size, b"Transfer-Encoding: chunked")
        body = b"%x\r\n" % size + body + b"\r\n0\r\n\r\n"
    with connect(server) as client:
        client.sendall(head)
        client.sendall(body)
        answer = client.recv(65536)
    assert status_of(answer) in ((413, 404) if "nothing" in path else (413,))


def test_where_a_voice_can_be_cloned_speech_may_bring_a_recording(trio):
    answer = trio.speak(ref_audio="data:audio/wav;base64," + "A" * 1_000_000)
    assert answer.status_code == 400
    assert trio.speak(x="A" * 20_000_000).status_code == 413


def test_long_texts_that_the_settings_allow_fit(start):
    server = start(limits=Limits(max_input_chars=200_000))
    body = (
        b'{"model":"tts-1","voice":"alloy","speed":99,"input":"'
        + b"\\ud83d\\ude00" * 100_000
        + b'"}'
    )
    answer = server.http.post("/audio/speech", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "speed"


def test_urlencoded_forms_are_small(trio):
    urlencoded = {"content-type": "application/x-www-form-urlencoded"}

    def post(content: bytes):
        return trio.http.post("/audio/voices", content=content, headers=urlencoded)

    assert post(b"&".join([b"a"] * 500_000)).status_code == 413
    assert post(b"&".join([b"a"] * 30_000)).status_code == 400
    assert post(b"name=formed&type=prompt&prompt=Calm").status_code == 200
    assert post(b'{"name": "curled", "type": "prompt", "prompt": "Calm"}').status_code == 200


def test_a_text_of_a_form_has_a_bound(server):
    files = {"name": (None, "x"), "consent": (None, "c" * 9_000_000), "audio_sample": ("a", b"x")}
    answer = server.http.post("/audio/voices", files=files)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "consent"


# M9


def test_kinds_of_bodies(server):
    def post(kind: str | None, body: bytes = BODY, **headers: str):
        headers = {"content-type": kind, **headers} if kind else headers
        return server.http.post("/audio/speech", content=body, headers=headers).status_code

    for kind in (
        None,
        "application/json; charset=utf-8",
        "text/plain",
        "application/x-www-form-urlencoded",
    ):
        assert post(kind) == 200, kind
    assert post("multipart/form-data; boundary=b") == 415
    assert post("application/json", **{"content-encoding": "gzip"}) == 415
    assert post("application/json", **{"content-encoding": "identity"}) == 200


# Ids


def test_a_request_id_may_be_given_and_is_in_the_log(server, caplog):
    from qtts_openai.http.request_id import AddRequestId

    caplog.handler.addFilter(keep := AddRequestId())
    try:
        with caplog.at_level(logging.DEBUG):
            body = {"model": "tts-1", "voice": "alloy", "input": "Hi."}
            headers = {"x-request-id": "mine-1.2:3"}
            answer = server.http.post("/audio/speech", json=body, headers=headers)
    finally:
        caplog.handler.removeFilter(keep)
    assert answer.headers["x-request-id"] == "mine-1.2:3"
    lines = [r.getMessage() for r in caplog.records if r.request == " [mine-1.2:3]"]
    assert [line for line in lines if line.startswith("sequence ")], "the engine's id"
    assert [line for line in lines if "POST /v1/audio/speech" in line]
    for bad in ("a b", "x" * 200, "a\x1b[31m", 'a"b', ""):
        answer = server.http.get("/models", headers={"x-request-id": bad.encode()})
        assert answer.headers["x-request-id"].startswith("req_")


# Draining


def test_draining_is_told_while_answers_end(start):
    server = start()
    server.engine.chunk_delay_s = 0.15
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.speak, input="word " * 40, response_format="pcm")
        wait_until(lambda: server.engine.live)
        server.uvicorn.should_exit = True
        wait_until(lambda: server.uvicorn.app.state.draining)
        assert server.http.get(f"{server.url}/ready").status_code == 503
        assert server.http.get(f"{server.url}/health").json()["status"] == "draining"
        live = server.http.get(f"{server.url}/live")
        assert live.status_code == 200 and live.headers["connection"] == "close"
        refused = server.speak()
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert answer.result(30).status_code == 200


def test_what_is_cut_off_leaves_no_traceback(start, caplog):
    server = start()
    server.engine.hang_after = 2
    clients = [connect(server) for _ in range(4)]
    for client in clients:
        client.sendall(request())
    wait_until(lambda: len(server.engine.live) == 4)
    server.uvicorn.should_exit = server.uvicorn.force_exit = True
    for client in clients:
        with client, pytest.raises(ConnectionResetError):
            read_all(client)
    wait_until(lambda: server.engine.closed)
    assert not [r for r in caplog.records if r.exc_info]


def test_while_the_engine_loads(tokenizer_dir):
    import asyncio

    import httpx

    from qtts_openai.app import create_app
    from qtts_openai.http.server import Server as TransportServer
    from qtts_openai.http.server import base_url, listen
    from qtts_openai.settings import Settings
    from tests.api.fake_engine import FakeEngine

    async def run() -> None:
        engine, loaded = FakeEngine([]), asyncio.Event()
        engine.start = loaded.wait
        settings = ServerSettings(port=0)
        listener = listen(settings)
        server = TransportServer(create_app(Settings(), engine), settings)
        serving = asyncio.create_task(server.serve([listener]))
        async with httpx.AsyncClient(base_url=base_url(listener)) as client:
            assert (await client.get("/live")).status_code == 200
            assert (await client.get("/ready")).status_code == 503
            assert (await client.get("/health")).json()["status"] == "starting"
            answer = await client.get("/v1/models")
            assert answer.status_code == 503 and "retry-after" in answer.headers
        server.should_exit = True
        await serving
        assert engine.closed

    asyncio.run(run())


def test_requests_do_not_hold_the_loop(server, watched_loop):
    assert server.speak().status_code == 200
    assert server.http.post("/audio/speech", content=b"[" * 100_000).status_code == 400
    held = connect(server)
    with held:
        held.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 12_000)
        assert status_of(held.recv(100)) == 431


def test_the_watch_on_the_loop_sees_work_and_waiting(watched_loop):
    import asyncio

    async def busy(seconds: float) -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    asyncio.run(busy(0.001))
    assert not watched_loop
    asyncio.run(busy(0.08))
    assert len(watched_loop) == 1 and "ms of work" in watched_loop.pop()


def test_linger_layout():
    """The reset of a broken answer rests on struct linger being two ints."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)


def test_line_ends_between_requests_are_no_request(server):
    """RFC 9112, 2.2: some clients send one after a body."""
    last = request(BODY, "Connection: close")
    head, body = exchange(server, b"\r\n" + request(BODY) + b"\r\n\r\n", b"\r\n", last)
    assert status_of(head) == 200 and body.count(b"HTTP/1.1 200") == 1


def test_what_is_no_http_is_told_in_plain_words(server):
    chunked = request(b"zz\r\n", "Transfer-Encoding: chunked").replace(
        b"Content-Length: 4\r\n", b""
    )
    head, body = exchange(server, chunked)
    message = json.loads(body)["error"]["message"]
    assert status_of(head) == 400 and message == "This is not HTTP: illegal chunk header."


def test_an_empty_body_is_called_empty(server):
    for body in (b"", b"  \r\n"):
        head, answer = exchange(server, request(body, "Connection: close"))
        assert status_of(head) == 400 and b"is empty" in answer


@pytest.mark.parametrize("key", ["", "x" * 200])
def test_a_bad_key_of_an_object_names_its_field(server, key):
    refused = server.speak(pronunciations={key: "y"}).json()["error"]
    assert refused["param"] == "pronunciations"
    assert refused["message"].startswith("pronunciations: Expected `str` of length")
