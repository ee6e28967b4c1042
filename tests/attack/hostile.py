"""Files and bodies that did harm once."""

import io
import struct

import numpy as np
import soundfile

# FFmpeg's demuxer of ADX divided by its sample rate.
ADX = (
    bytes.fromhex("800000200312000100005dc00000bba001f4030000000000000000000000")
    + b"(c)CRI"
    + b"\1" * 4000
)
# A description of a session, which FFmpeg opens sockets for.
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 18640 RTP/AVP 0\n"
HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.wav\n#EXT-X-ENDLIST\n"
DASH = b'<?xml version="1.0"?><MPD><Period><BaseURL>secret.wav</BaseURL></Period></MPD>'
# A format tag that nobody has.
UNKNOWN_TAG = (
    b"RIFF\x24\x10\0\0WAVEfmt \x10\0\0\0\x99\x99\1\0\xc0\x5d\0\0\x80\xbb\0\0\2\0\x10\0"
    + b"data\0\x10\0\0"
    + bytes(4096)
)


def concat(path: str) -> bytes:
    """A playlist that names a file below the working directory."""
    return f"ffconcat version 1.0\nfile {path}\n".encode()


def wav(seconds: float = 2.0, rate: int = 24000, channels: int = 1) -> bytes:
    """Noise, which no check of loudness refuses."""
    noise = np.random.default_rng(0).integers(-9000, 9000, round(seconds * rate) * channels)
    data = noise.astype("<i2").tobytes()
    head = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
    riff = b"WAVEfmt " + head + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(riff)) + riff


def wide_flac() -> bytes:
    """20 s of 8 channels at 192 kHz that say next to nothing: a few KB that were 125 MB."""
    samples = np.zeros((192000 * 20, 8), np.int16)
    samples[::9600] = 2000
    with io.BytesIO() as file:
        soundfile.write(file, samples, 192000, format="FLAC", subtype="PCM_16")
        return file.getvalue()
