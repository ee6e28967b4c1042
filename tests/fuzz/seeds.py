"""Small files of every kind that reach the decoder, made here so that nothing binary is committed.

GOOD are the formats that are read, BAD those that FFmpeg or libsndfile would read if they were
asked: playlists, session descriptions, game audio.
"""

import io
from collections.abc import Callable
from functools import cache

import av
import numpy as np
import soundfile

SECONDS = 1.0


def _wave(rate: int, channels: int) -> np.ndarray:
    times = np.arange(int(SECONDS * rate)) / rate
    voices = [
        0.3 * np.sin(2 * np.pi * pitch * times) for pitch in range(180, 180 + 40 * channels, 40)
    ]
    return np.stack(voices, axis=1).astype("f4")


def _sndfile(kind: str, subtype: str | None = None, rate: int = 16000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, _wave(rate, channels), rate, format=kind, subtype=subtype)
    return file.getvalue()


def _ffmpeg(container: str, codec: str, rate: int = 24000, options: dict | None = None) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options or {}) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.layout = "mono"
        samples = (_wave(rate, 1).T * 20000).astype("<i2")
        resampler = av.AudioResampler(stream.format, "mono", rate, frame_size=stream.frame_size)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = rate
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            out.mux([packet for packet in stream.encode(part) if packet.size])
    return file.getvalue()


def _film(container: str, codec: str, rate: int) -> bytes:
    """As telephones and browsers record: the picture comes first."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        picture = out.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        sound = out.add_stream(codec, rate=rate)
        sound.layout = "mono"
        image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), "u1"), format="rgb24")
        image.pts = 0
        samples = (_wave(rate, 1).T * 20000).astype("<i2")
        resampler = av.AudioResampler(sound.format, "mono", rate, frame_size=sound.frame_size)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = rate
        for stream, parts in (
            (picture, [image, None]),
            (sound, [*resampler.resample(frame), *resampler.resample(None), None]),
        ):
            for part in parts:
                out.mux([packet for packet in stream.encode(part) if packet.size])
    return file.getvalue()


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
GOOD: dict[str, Callable[[], bytes]] = {
    "wav": lambda: _sndfile("WAV", "PCM_16"),
    "wav-float": lambda: _sndfile("WAV", "FLOAT", 48000, 2),
    "wav-24": lambda: _sndfile("WAVEX", "PCM_24", 44100, 6),
    "wav-ulaw": lambda: _sndfile("WAV", "ULAW", 8000),
    "wav-ima": lambda: _sndfile("WAV", "IMA_ADPCM", 16000),
    "wav-64": lambda: _sndfile("RF64", "PCM_16"),
    "flac": lambda: _sndfile("FLAC", "PCM_16"),
    "flac-8": lambda: _sndfile("FLAC", "PCM_24", 96000, 8),
    "mp3": lambda: _sndfile("MP3"),
    "ogg": lambda: _sndfile("OGG", "VORBIS"),
    "ogg-opus": lambda: _sndfile("OGG", "OPUS", 48000),
    "ogg-flac": lambda: _ffmpeg("ogg", "flac"),
    "aac": lambda: _ffmpeg("adts", "aac"),
    "m4a": lambda: _ffmpeg("ipod", "aac"),
    "mp4": lambda: _ffmpeg("mp4", "aac", 44100, FRAGMENTS),
    "mp4-alac": lambda: _ffmpeg("mp4", "alac"),
    "mp4-mp3": lambda: _ffmpeg("mp4", "libmp3lame"),
    "mp4-film": lambda: _film("mp4", "aac", 48000),
    "mkv-film": lambda: _film("matroska", "libopus", 48000),
    "webm": lambda: _ffmpeg("webm", "libopus", 48000),
    "mkv": lambda: _ffmpeg("matroska", "aac"),
    "mkv-pcm": lambda: _ffmpeg("matroska", "pcm_s16le"),
}


@cache
def good(name: str) -> bytes:
    return GOOD[name]()


_ADX = "800000200312000100005dc00000bba001f4030000000000000000000000"

BAD = {
    "empty": b"",
    "adx": bytes.fromhex(_ADX) + b"(c)CRI" + b"\1" * 4000,
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
    "ffconcat": b"ffconcat version 1.0\nfile secret.wav\n",
    "m3u8": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
    "dash": b'<?xml version="1.0"?><MPD><Period><BaseURL>http://127.0.0.1/</BaseURL></Period></MPD>',
    "ffmetadata": b";FFMETADATA1\ntitle=x\n",
    "aiff": b"FORM\0\0\0\x12AIFFCOMM" + bytes(20),
    "au": b".snd\0\0\0\x18" + bytes(400),
    "caf": b"caff\0\1\0\0desc" + bytes(60),
    "w64": b"riff\x2e\x91\xcf\x11" + bytes(100),
    "voc": b"Creative Voice File\x1a" + bytes(100),
    "avi": b"RIFF\x24\x10\0\0AVI LIST" + bytes(100),
    "mpeg-ts": (b"\x47\x40\0\x10" + bytes(184)) * 10,
    "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(100),
    "text": b"hello there, this is not audio",
}
