"""Every answer through the tools that users open audio with -> the seconds that each finds."""

import io
import json
import subprocess
import sys
import tempfile
import wave

import httpx
import imageio_ffmpeg
import mutagen
import soundfile
from pydub import AudioSegment

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
AudioSegment.converter = FFMPEG
RAW = {"pcm": ("s16le", 24000), "ulaw": ("mulaw", 8000), "alaw": ("alaw", 8000)}
# pydub asks ffprobe, which may be missing, unless it is told the codec.
CODECS = {"mp3": "mp3", "opus": "libopus", "aac": "aac", "flac": "flac"}


def by_ffmpeg(data, audio_format):
    name, rate = RAW.get(audio_format, (None, None))
    options = ["-f", name, "-ar", str(rate), "-ac", "1"] if name else []
    command = [FFMPEG, "-v", "error", "-xerror", *options, "-i", "-"]
    command += ["-f", "s16le", "-ar", "24000", "-"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    assert not done.stderr, done.stderr
    return len(done.stdout) / 48000


def by_pydub(data, audio_format):
    if audio_format == "wav":
        return AudioSegment.from_file(io.BytesIO(data), "wav").duration_seconds
    file_format = {"opus": "ogg"}.get(audio_format, audio_format)
    codec = CODECS[audio_format]
    return AudioSegment.from_file(io.BytesIO(data), file_format, codec=codec).duration_seconds


def by_wave(data, _):
    with wave.open(io.BytesIO(data)) as file:
        return file.getnframes() / file.getframerate()


def by_soundfile(data, _):
    samples, rate = soundfile.read(io.BytesIO(data))
    return len(samples) / rate


def by_mutagen(data, audio_format):
    """It knows an MP3 by the name of its file."""
    with tempfile.NamedTemporaryFile(suffix=f".{audio_format}") as file:
        file.write(data)
        file.flush()
        return mutagen.File(file.name).info.length


READERS = {
    "ffmpeg": (by_ffmpeg, ("mp3", "opus", "aac", "flac", "wav", "pcm", "ulaw", "alaw")),
    "pydub": (by_pydub, ("mp3", "opus", "aac", "flac", "wav")),
    "soundfile": (by_soundfile, ("mp3", "opus", "flac", "wav")),
    "mutagen": (by_mutagen, ("mp3", "opus", "aac", "flac", "wav")),
    "wave": (by_wave, ("wav",)),
}
# Of a streamed answer these read the length in its head, which was written before it was known.
BY_LENGTH = {("soundfile", "flac"), ("mutagen", "flac"), ("mutagen", "wav"), ("wave", "wav")}


def main(url):
    found = {}
    for stream in (True, False):
        for name, (read, formats) in READERS.items():
            for audio_format in formats:
                if stream and (name, audio_format) in BY_LENGTH:
                    continue
                body = {"model": "tts-1", "voice": "alloy", "input": "Hello there, this is a test."}
                body |= {"response_format": audio_format, "stream": stream}
                answer = httpx.post(f"{url}/audio/speech", json=body, timeout=60).raise_for_status()
                found[f"{name} {audio_format} {stream}"] = read(answer.content, audio_format)
    print(json.dumps(found))


main(sys.argv[1])
