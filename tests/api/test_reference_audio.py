"""What reference audio may be, and what a server refuses to fetch or to decode."""

import asyncio
import base64
import io
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest
import soundfile

from qtts_openai import fetching
from qtts_openai.errors import ApiError
from qtts_openai.fetching import fetch, read_file_url
from qtts_openai.reference_audio import decode_base64, read_reference
from qtts_openai.settings import RefAudioSettings
from tests.api.conftest import BASE
from tests.api.test_routing import clip
from tests.api.test_speech import assert_envelope

BOUNDS = {"min_s": 0.5, "max_s": 10.0}
CLIP = base64.b64decode(clip())


def with_av(container: str, codec: str, rate: int = 24000) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.layout = "mono"
        wave = (8000 * np.sin(np.arange(2 * rate) * 0.05)).astype("<i2")
        frame = av.AudioFrame.from_ndarray(wave[None, :], format="s16", layout="mono")
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def seconds(data: bytes) -> float:
    return len(read_reference(data, **BOUNDS).samples) / 4 / 24000


@pytest.mark.parametrize(
    ("audio_format", "rate"), [("WAV", 8000), ("FLAC", 44100), ("OGG", 48000), ("MP3", 16000)]
)
def test_formats_of_soundfile(audio_format, rate):
    assert seconds(base64.b64decode(clip(2, rate, audio_format))) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("adts", "aac", 24000),
        ("mp4", "aac", 44100),
        ("webm", "libopus", 48000),
        ("ogg", "libopus", 48000),
    ],
)
def test_formats_of_av(container, codec, rate):
    assert seconds(with_av(container, codec, rate)) == pytest.approx(2, abs=0.1)


def test_channels_are_mixed_and_the_key_is_the_content():
    wave = np.stack([np.full(24000, 0.5), np.full(24000, -0.25)], axis=1).astype("float32")
    file = io.BytesIO()
    soundfile.write(file, wave, 24000, format="WAV", subtype="FLOAT")
    first = read_reference(file.getvalue(), **BOUNDS)
    assert np.allclose(np.frombuffer(first.samples, "<f4"), 0.125)
    assert first == read_reference(file.getvalue(), **BOUNDS)
    assert first.key != read_reference(CLIP, **BOUNDS).key


def wav(samples: np.ndarray, **header: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 24000, format="WAV", subtype="FLOAT")
    data = bytearray(file.getvalue())
    for field, value in header.items():
        at = {"channels": 22, "rate": 24}[field]
        data[at : at + (2 if field == "channels" else 4)] = value.to_bytes(
            2 if field == "channels" else 4, "little"
        )
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"\0" * 1000,
        b"\xff\xfb" * 500,
        CLIP[:30],
        zlib.compress(b"\0" * 10**6),
        wav(np.zeros(100, "float32")),
        wav(np.full(24000, np.nan, "float32")),
        wav(np.full(24000, np.inf, "float32")),
        wav(np.zeros(24000, "float32"), rate=0),
        wav(np.zeros(24000, "float32"), rate=2**31 - 1),
        wav(np.zeros(24000, "float32"), channels=0),
        wav(np.zeros(24000, "float32"), channels=1000),
        b"#EXTM3U\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
    ids=range(15),
)
def test_what_is_no_speech_is_a_400(data):
    with pytest.raises(ApiError) as error:
        read_reference(data, **BOUNDS)
    assert (error.value.status, error.value.param) == (400, "ref_audio")


def test_a_decompression_bomb_is_cut_off():
    """An hour of silence is 60 kB of flac; only max_s of it is ever decoded."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(3600 * 8000, "int16"), 8000, format="FLAC")
    assert len(file.getvalue()) < 10**6
    with pytest.raises(ApiError, match="more than 10 s"):
        read_reference(file.getvalue(), **BOUNDS)


@pytest.mark.parametrize("text", ["", "a", "====", "data:audio/wav;base64,!", "é", "https://x/y"])
def test_what_is_no_base64_is_a_400(text):
    with pytest.raises(ApiError):
        read_reference(decode_base64(text), **BOUNDS)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/clip":
            self._answer(200, CLIP)
        elif self.path == "/large":
            self._answer(200, b"x" * 100_000)
        elif self.path == "/slow":
            self.server.stopped.wait(5)
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
        "[::]",
    ],
)
def test_addresses_that_are_not_public_are_refused(host):
    with pytest.raises(ApiError, match=r"public address|fetched"):
        get(f"http://{host}/clip")


@pytest.mark.parametrize(
    "url", ["ftp://example.org/a", "http://", "http://[", "http://x:99999/", "//x"]
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
    ],
)
def test_what_fetching_refuses(site, trusting, path, message):
    with pytest.raises(ApiError, match=message):
        get(f"{site}{path}")


def test_a_slow_site_is_given_up(site, trusting):
    with pytest.raises(ApiError, match="fetched"):
        get(f"{site}/slow", timeout_s=0.2)


def test_files_are_read_below_one_directory_only(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a b.wav").write_bytes(CLIP)
    (tmp_path / "out.wav").write_bytes(CLIP)
    (tmp_path / "in" / "link.wav").symlink_to(tmp_path / "out.wav")
    inside = str(tmp_path / "in")
    assert read_file_url(f"file://{inside}/a%20b.wav", inside, 10**6) == CLIP
    for path in ("../out.wav", "link.wav", "", ".", "missing.wav", "%2e%2e/out.wav", "x%00.wav"):
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
