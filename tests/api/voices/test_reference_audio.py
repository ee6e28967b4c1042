"""Where reference audio comes from, and what a server refuses to fetch."""

import asyncio
import base64
import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import httpx
import pytest

from qtts_openai.decoding.client import AudioDecoder
from qtts_openai.errors import ApiError
from qtts_openai.settings import RefAudioSettings
from qtts_openai.voices import url_fetch as fetching
from qtts_openai.voices.reference_audio import decode_base64
from qtts_openai.voices.url_fetch import fetch, read_file_url
from tests.api.conftest import BASE, CUSTOM, starter
from tests.api.decoding.conftest import children
from tests.api.test_speech import assert_envelope
from tests.api.voices.test_routing import clip
from tests.fuzz import seeds

CLIP = base64.b64decode(clip())


@pytest.mark.parametrize(
    "text",
    ["", "a", "====", "data:audio/wav;base64,!", "data:audio/wav;base64,", "é", "https://x/y"],
)
def test_what_is_no_base64_is_a_400(text):
    with pytest.raises(ApiError) as error:
        decode_base64(text)
    assert (error.value.status, error.value.param) == (400, "ref_audio")


DATA = bytes(range(256)) + b"x"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("head", ["", "data:audio/wav;base64,", "DATA:;base64,"])
def test_base64_as_clients_write_it(encode, head):
    text = encode(DATA).decode()
    for form in (text, text.rstrip("="), "\n".join([text[:76], text[76:]]), quote(text)):
        assert decode_base64(head + form) == DATA


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/clip":
            self._answer(200, CLIP)
        elif self.path == "/large":
            self._answer(200, b"x" * 100_000)
        elif self.path == "/slow":
            self.server.stopped.wait(60)
        elif self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            while not self.server.stopped.wait(0.05):
                self.wfile.write(b"x")
        elif self.path == "/bomb":
            body = gzip.compress(gzip.compress(gzip.compress(bytes(50 << 20))))
            self._answer(200, body, **{"content-encoding": "gzip, gzip, gzip"})
        elif self.path == "/headers":
            self._answer(200, self.headers["accept-encoding"].encode())
        elif self.path.startswith("/to/"):
            self._answer(302, b"", location=self.path[4:])
        else:
            self._answer(404, b"no")

    def _answer(self, status, body, **headers):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stopped = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.stopped.set()
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str, timeout_s: float = 3) -> bytes:
    return asyncio.run(fetch(url, max_bytes=50_000, timeout_s=timeout_s))


@pytest.fixture
def trusting(monkeypatch):
    """As if 127.0.0.1 were a public address."""
    is_public = fetching._is_public
    monkeypatch.setattr(fetching, "_is_public", lambda ip: ip == "127.0.0.1" or is_public(ip))

    async def resolver(host, port):
        return ["127.0.0.1"] if host == "localhost" else [host]

    monkeypatch.setattr(fetching.fetch, "__kwdefaults__", {"resolver": resolver})


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "[::1]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[2002:7f00:1::]",
        "[64:ff9b::10.0.0.1]",
        "[::]",
    ],
)
def test_addresses_that_are_not_public_are_refused(host):
    with pytest.raises(ApiError, match=r"public address|fetched"):
        get(f"http://{host}/clip")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a",
        "http://",
        "http://[",
        "http://x:99999/",
        "//x",
        f"http://{'a' * 64}.org/",
        "http://a..b/",
        "http://.a/",
        f"http://{'a.' * 200}org/",
        "http://\0/",
        "http://a b/",
        "http://\ud800/",
        "http://\u2488com/",
        "http://xn--a/",
        f"http://example.org/{'a' * 70_000}",
    ],
    ids=range(15),
)
def test_bad_urls(url):
    with pytest.raises(ApiError) as error:
        get(url)
    assert error.value.status == 400


def test_fetching(site, trusting):
    assert get(f"{site}/clip") == CLIP
    assert get(f"{site}/to//clip") == CLIP


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/large", "more than 50000 bytes"),
        ("/missing", "status 404"),
        ("/to/http://10.0.0.1/clip", "public address"),
        ("/to/file:///etc/passwd", "http or https"),
        ("/to//to//to//to//clip", "redirects"),
        ("/bomb", "compressed"),
        (f"/to/http://{'a' * 64}.org/", "fetched"),
        ("/to/http://a..b/", "fetched"),
    ],
)
def test_what_fetching_refuses(site, trusting, path, message):
    with pytest.raises(ApiError, match=message):
        get(f"{site}{path}")


@pytest.mark.parametrize("path", ["/slow", "/drip"])
def test_a_slow_site_is_given_up(site, trusting, path):
    started = time.monotonic()
    with pytest.raises(ApiError, match="fetched"):
        get(f"{site}{path}", timeout_s=0.5)
    assert time.monotonic() - started < 30


def test_bodies_are_asked_for_as_they_are(site, trusting):
    assert get(f"{site}/headers") == b"identity"


def test_files_are_read_below_one_directory_only(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a b.wav").write_bytes(CLIP)
    (tmp_path / "out.wav").write_bytes(CLIP)
    (tmp_path / "in" / "link.wav").symlink_to(tmp_path / "out.wav")
    inside = str(tmp_path / "in")
    assert read_file_url(f"file://{inside}/a%20b.wav", inside, 10**6) == CLIP
    for path in (
        "../out.wav",
        "link.wav",
        "",
        ".",
        "missing.wav",
        "%2e%2e/out.wav",
        "x%00.wav",
        "x" * 300,
        "%ff",
        "x/" * 3000,
    ):
        with pytest.raises(ApiError, match=r"may be read|not valid"):
            read_file_url(f"file://{inside}/{path}", inside, 10**6)
    with pytest.raises(ApiError, match="more than 10 bytes"):
        read_file_url(f"file://{inside}/a%20b.wav", inside, 10)


def test_the_flags_over_http(start, tmp_path):
    strict = start(models=(BASE,))
    for url in ("http://example.org/a.wav", "file:///etc/passwd"):
        assert_envelope(strict.speak(model="base", ref_audio=url), 400, "ref_audio")
    (tmp_path / "a.wav").write_bytes(CLIP)
    open_ = start(
        models=(BASE,), ref_audio=RefAudioSettings(allow_http=True, files_directory=str(tmp_path))
    )
    assert open_.speak(model="base", ref_audio=f"file://{tmp_path}/a.wav").status_code == 200
    assert_envelope(open_.speak(model="base", ref_audio="http://127.0.0.1/x"), 400, "ref_audio")


@pytest.mark.parametrize(
    "url", ["http://a..b/x", f"http://{'a' * 64}.org/", f"file:///{'a' * 300}"]
)
def test_odd_urls_are_400s_over_http(start, tmp_path, url):
    settings = RefAudioSettings(allow_http=True, files_directory=str(tmp_path))
    server = start(models=(BASE,), ref_audio=settings)
    assert_envelope(server.speak(model="base", ref_audio=url), 400, "ref_audio")


@pytest.mark.parametrize("name", sorted(seeds.BAD))
def test_other_formats_are_400s_on_both_routes(trio, name):
    data = seeds.BAD[name]
    answer = trio.speak(model="base", voice=..., ref_audio=base64.b64encode(data).decode())
    assert_envelope(answer, 400, "ref_audio")
    assert_envelope(add_voice(trio, data), 400, "audio_sample")


def add_voice(server, data: bytes) -> httpx.Response:
    fields = {"name": "somebody", "consent": "I am the speaker and I agree."}
    files = {"audio_sample": ("a.wav", data, "audio/wav")}
    return server.http.post("/audio/voices", data=fields, files=files)


@pytest.mark.parametrize("name", ["wav", "m4a", "webm", "mkv", "aac"])
def test_formats_over_http(trio, name):
    text = base64.b64encode(seeds.good(name)).decode()
    assert trio.speak(model="base", voice=..., ref_audio=text).status_code == 200


@pytest.fixture(scope="module")
def hanging(tokenizer_dir):
    """A server whose decoder never gets to the end of a file."""
    job = AudioDecoder._job
    settings = RefAudioSettings(decode_timeout_s=2)
    with pytest.MonkeyPatch.context() as patch, starter(tokenizer_dir) as start:
        patch.setattr(
            AudioDecoder, "_job", lambda self, parts, function: job(self, [parts[0] + 1], function)
        )
        server = start(models=(CUSTOM, BASE), ref_audio=settings)
        add_voice(server, CLIP)  # waits until the zygote has begun
        yield server


def decoder_of(server) -> AudioDecoder:
    return server.uvicorn.config.app.state.service.decoder


def wait_for_children(server, count: int) -> None:
    for _ in range(3000):
        if len(children(decoder_of(server)._begun.result().process.pid)) == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"never {count} children")


def metric(server, outcome: str) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    name = f'qtts_decoder_files_total{{outcome="{outcome}"}}'
    return next((float(x.split()[-1]) for x in text.splitlines() if x.startswith(name)), 0.0)


def test_listeners_do_not_notice_files_that_hang(hanging):
    """Three from one caller are one child at a time, and others are served meanwhile."""
    before = metric(hanging, "timed_out")
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(post_reference, hanging) for _ in range(3)]
        wait_for_children(hanging, 1)
        assert hanging.speak(response_format="mp3").status_code == 200
        assert not all(answer.done() for answer in answers)
        assert [answer.result() for answer in answers] == [400] * 3
    assert metric(hanging, "timed_out") == before + 3
    wait_for_children(hanging, 0)


def post_reference(server) -> int:
    body = {"model": "base", "input": "Hi.", "ref_audio": clip()}
    return httpx.post(f"{server.base_url}/audio/speech", json=body, timeout=60).status_code


@pytest.mark.parametrize("path", ["speech", "voices"])
def test_a_client_that_leaves_frees_its_place(hanging, path):
    url, before = f"{hanging.base_url}/audio/{path}", metric(hanging, "cancelled")
    with httpx.Client(timeout=1.0) as client, pytest.raises(httpx.ReadTimeout):
        if path == "speech":
            client.post(url, json={"model": "base", "input": "Hi.", "ref_audio": clip()})
        else:
            fields = {"name": "n", "consent": "I am the speaker and I agree."}
            client.post(url, data=fields, files={"audio_sample": ("a.wav", CLIP, "audio/wav")})
    wait_for_children(hanging, 0)
    assert metric(hanging, "cancelled") == before + 1
