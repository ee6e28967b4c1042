"""Bytes of a recording -> mono float32 at one rate, of bounded length and of usable level.

The first bytes choose the format; nothing is guessed beyond that, and a demuxer is always named.
Channels are mixed block by block, so the memory that is needed follows from `max_s`, whatever the
file claims. Runs in a sandboxed child of `zygote` only, never in the server's process.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import suppress

import av
import numpy as np
import soundfile
import soxr
from av.container import InputContainer

Block = np.ndarray  # float32 mono

FORMATS = "wav, mp3, flac, ogg, aac, m4a, mp4, webm or mkv"
RATES_HZ = (4000, 192_000)
MAX_CHANNELS = 8
# Above this a block is brought to the final rate at once.
MAX_KEPT_RATE_HZ = 48_000
BLOCK_FRAMES = 1 << 16

# Codecs that such files hold; FFmpeg knows some hundred others.
CODECS = (
    "aac,mp3float,mp3,flac,alac,vorbis,opus,libopus,"
    "pcm_u8,pcm_s16le,pcm_s24le,pcm_s32le,pcm_f32le,pcm_f64le,pcm_s16be,pcm_s24be,"
    "pcm_alaw,pcm_mulaw,adpcm_ms,adpcm_ima_wav"
)

SILENCE_RMS = 10 ** (-60 / 20)
QUIET_RMS = 10 ** (-45 / 20)
USUAL_RMS = 10 ** (-26 / 20)


class RefusedError(Exception):
    """The file cannot be used; the message is for who sent it."""


def decode(data: bytes, rate_hz: int, min_s: float, max_s: float) -> np.ndarray:
    """float32 mono of `min_s` to `max_s` seconds. RefusedError says what is wrong with the rest.

    A recording of usual level comes out as decoder, mean of channels and resampler make it, to the
    bit.
    """
    recording = _Recording(rate_hz, max_s)
    try:
        _read(data, sniff(data), recording)
    except (soundfile.LibsndfileError, av.FFmpegError, IndexError, ValueError) as error:
        raise RefusedError(f"this is not audio that can be decoded ({FORMATS})") from error
    return recording.finish(min_s)


def warm_up() -> None:
    """Let libraries load and map what they do at first use: in a sandbox they no longer can."""
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 16036, b"WAVE", b"fmt ", 16, 1, 1, 16000,
                         32000, 2, 16, b"data", 16000)  # fmt: skip
    wave = header + b"\0\x10\0\xf0" * 4000
    recording = _Recording(24000, 1.0)
    _read_with_av(wave, "wav", recording)
    recording.finish(0.0)
    decode(wave, 24000, 0.0, 1.0)
    with suppress(RefusedError):
        decode(b"OggS", 24000, 0.0, 1.0)


def sniff(data: bytes) -> str:
    """The name of FFmpeg's demuxer for the few formats that are read here."""
    start = _behind_id3(data)
    head = data[start : start + 12]
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return "wav"
    if head[4:8] == b"ftyp":
        return "mov"
    for magic, name in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1a\x45\xdf\xa3", "matroska")):
        if head.startswith(magic):
            return name
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "mp3" if head[1] & 0x06 else "aac"
    raise RefusedError(f"this is none of the formats that are read here ({FORMATS})")


def _behind_id3(data: bytes) -> int:
    """Where the audio begins: some files have one or two ID3v2 tags first."""
    start = 0
    for _ in range(2):
        head = data[start : start + 10]
        if len(head) < 10 or not head.startswith(b"ID3"):
            break
        size = 0
        for byte in head[6:]:
            size = size << 7 | byte & 0x7F
        start += 10 + size
    return start


class _Recording:
    """Mono blocks as they come, and the level they were recorded with."""

    def __init__(self, rate_hz: int, max_s: float) -> None:
        self.rate_hz = rate_hz
        self.max_s = max_s
        self.blocks: list[Block] = []
        self.num_frames = 0
        self.peak = 0.0
        self.sum = self.sum_of_squares = 0.0

    def begin(self, rate_hz: int, channels: int) -> None:
        lowest, highest = RATES_HZ
        if not (lowest <= rate_hz <= highest and 1 <= channels <= MAX_CHANNELS):
            raise RefusedError(f"{rate_hz} Hz with {channels} channels is outside what is accepted")
        self.source_hz = rate_hz
        self.kept_hz = rate_hz if rate_hz <= MAX_KEPT_RATE_HZ else self.rate_hz
        self.resampler = soxr.ResampleStream(rate_hz, self.kept_hz, 1, "float32", "HQ")

    def add(self, block: Block) -> None:
        self.num_frames += len(block)
        if self.num_frames > self.max_s * self.source_hz:
            raise RefusedError(f"the audio is more than {self.max_s:g} s long, which is the most")
        if not np.isfinite(block).all():
            raise RefusedError("the audio holds samples that are not finite")
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        self.sum += float(block.sum(dtype="f8"))
        self.sum_of_squares += float(np.square(block, dtype="f8").sum())
        self.blocks.append(self._kept(block))

    def _kept(self, block: Block, is_last: bool = False) -> Block:
        if self.kept_hz == self.source_hz:
            return block
        kept: Block = self.resampler.resample_chunk(block, last=is_last)
        return kept

    def finish(self, min_s: float) -> np.ndarray:
        seconds = self.num_frames / self.source_hz
        if seconds < min_s or not self.num_frames:
            raise RefusedError(
                f"the audio is {seconds:.2f} s long; {min_s:g} to {self.max_s:g} s are accepted"
            )
        self.blocks.append(self._kept(np.zeros(0, "f4"), is_last=True))
        wave = self._levelled(np.concatenate(self.blocks))
        resampled: np.ndarray = soxr.resample(wave, self.kept_hz, self.rate_hz, "HQ")
        return resampled.astype("<f4")

    def _levelled(self, wave: np.ndarray) -> np.ndarray:
        """Without offset, and neither clipped nor too quiet to be heard; else as it is."""
        mean = self.sum / self.num_frames
        rms = max(self.sum_of_squares / self.num_frames - mean**2, 0.0) ** 0.5
        if rms < SILENCE_RMS:
            raise RefusedError("there is no sound in it")
        peak = self.peak
        if abs(mean) > max(0.001, 0.1 * rms):
            wave = wave - np.float32(mean)
            peak = float(np.abs(wave).max())
        gain = min(1.0, 1.0 / peak)
        if rms < QUIET_RMS:
            gain = max(gain, min(USUAL_RMS / rms, 1.0 / peak))
        return wave if gain == 1.0 else wave * np.float32(gain)


def _read(data: bytes, name: str, recording: _Recording) -> None:
    """soundfile for what it reads, PyAV for the rest and for rare codecs in the same containers."""
    if name in ("wav", "mp3", "flac", "ogg"):
        try:
            file = soundfile.SoundFile(io.BytesIO(data))
        except soundfile.LibsndfileError:
            pass
        else:
            with file:
                _fill(recording, file.samplerate, file.channels, _blocks_of_soundfile(file))
            return
    _read_with_av(data, name, recording)


def _read_with_av(data: bytes, name: str, recording: _Recording) -> None:
    options = {"format_whitelist": name, "codec_whitelist": CODECS, "max_streams": "16"}
    with av.open(io.BytesIO(data), format=name, options=options) as container:
        stream = container.streams.audio[0]
        context = stream.codec_context
        if context is None:
            raise ValueError("an unknown codec")
        context.thread_count = 1
        blocks = _blocks_of_av(container, stream, context.sample_rate)
        _fill(recording, context.sample_rate, context.channels, blocks)


def _fill(recording: _Recording, rate_hz: int, channels: int, blocks: Iterator[Block]) -> None:
    recording.begin(rate_hz, channels)
    for block in blocks:
        recording.add(block)


def _blocks_of_soundfile(file: soundfile.SoundFile) -> Iterator[Block]:
    while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
        yield block.mean(axis=1)


def _blocks_of_av(
    container: InputContainer, stream: av.AudioStream, rate_hz: int
) -> Iterator[Block]:
    resampler = av.AudioResampler("flt", "mono", rate_hz)
    for decoded in container.decode(stream):
        for frame in resampler.resample(decoded):
            yield frame.to_ndarray()[0]
