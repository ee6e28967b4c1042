import io
import itertools
import math
from array import array
from typing import get_args

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from qtts_openai.encoders import AudioEncoder, check_rate
from qtts_openai.errors import ApiError
from qtts_openai.schemas import AudioFormat
from tests.api.audio import decode, loudness, seconds

FORMATS = get_args(AudioFormat)
RATE = 24000
PCM = array("h", (int(9000 * math.sin(0.06 * i)) for i in range(2 * RATE))).tobytes()
# Samples a codec may add at the ends: its delay and a last frame that is not full.
SLACK = {"mp3": 2400, "aac": 2100}


def encode(audio_format: str, cuts: list[int], **options) -> bytes:
    encoder = AudioEncoder(audio_format, **options)
    edges = [0, *sorted(cut * 2 for cut in cuts), len(PCM)]
    parts = [encoder.encode(PCM[a:b]) for a, b in itertools.pairwise(edges) if b > a]
    return b"".join([*parts, encoder.flush()])


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"speed": 2.0},
        {"speed": 0.25},
        {"sample_rate": 16000},
        {"sample_rate": 44100, "speed": 1.3},
    ],
    ids=str,
)
@settings(max_examples=4, deadline=None)
@given(cuts=st.lists(st.integers(1, len(PCM) // 2 - 1), max_size=40))
def test_bytes_do_not_depend_on_the_cuts(audio_format, options, cuts):
    assert encode(audio_format, cuts, **options) == encode(audio_format, [], **options)


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("speed", [1.0, 0.25, 0.7, 1.9, 4.0])
@pytest.mark.parametrize("rate", [8000, 24000, 48000])
def test_every_format_decodes_to_the_right_length(audio_format, speed, rate):
    data = encode(audio_format, [5000, 30000], speed=speed, sample_rate=rate)
    samples, decoded_rate = decode(audio_format, data, rate)
    assert decoded_rate == (48000 if audio_format == "opus" else rate)
    expected = 2.0 / speed * decoded_rate
    slack = SLACK.get(audio_format, 0) + (0.0 if speed == 1.0 else 0.03 * expected)
    assert abs(len(samples) - expected) <= slack + 1
    assert loudness(samples) > 3000


@pytest.mark.parametrize("audio_format", FORMATS)
def test_first_bytes_come_with_the_first_chunks(audio_format):
    encoder = AudioEncoder(audio_format)
    first, second = encoder.encode(PCM[:3840]), encoder.encode(PCM[3840:7680])
    assert second
    assert first or audio_format == "aac"


def test_speed_keeps_the_pitch():
    samples, _ = decode("pcm", encode("pcm", [], speed=2.0))
    middle = samples[len(samples) // 4 : -len(samples) // 4].astype(float)
    crossings = sum((a < 0) != (b < 0) for a, b in itertools.pairwise(middle))
    pitch = crossings / 2 / (len(middle) / RATE)
    assert pitch == pytest.approx(0.06 * RATE / (2 * math.pi), rel=0.02)


def test_wav_sizes_are_open_in_a_stream_and_exact_in_a_whole_file():
    stream = encode("wav", [])
    assert stream[4:8] == stream[40:44] == b"\xff" * 4
    whole = AudioEncoder("wav").with_exact_sizes(stream)
    assert int.from_bytes(whole[4:8], "little") == len(whole) - 8
    assert int.from_bytes(whole[40:44], "little") == len(PCM)
    assert whole[44:] == PCM


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("changes", [{}, {"speed": 2.0, "sample_rate": 48000}], ids=["", "changed"])
def test_a_whole_file_says_how_long_it_is(audio_format, changes):
    """Also to libsndfile, which needs the number of samples of a flac file."""
    encoder = AudioEncoder(audio_format, **changes)
    stream = b"".join([encoder.encode(PCM[:10000]), encoder.encode(PCM[10000:]), encoder.flush()])
    whole = encoder.with_exact_sizes(stream)
    assert len(whole) == len(stream)
    if audio_format in ("pcm", "aac"):  # raw, or unknown to libsndfile
        assert whole == stream
        return
    samples, rate = soundfile.read(io.BytesIO(whole))
    expected_s = len(PCM) / 2 / RATE / changes.get("speed", 1.0)
    assert len(samples) / rate == pytest.approx(expected_s, abs=0.08)


def test_ogg_ends_with_an_end_of_stream_page():
    data = encode("opus", [])
    assert data[data.rfind(b"OggS") + 5] & 4


def test_mp3_answers_can_be_concatenated():
    one = encode("mp3", [])
    assert b"Xing" not in one and not one.startswith(b"ID3")
    assert seconds("mp3", one + one) == pytest.approx(2 * seconds("mp3", one), abs=0.05)


def test_a_rate_that_mp3_lacks_is_refused_by_name():
    with pytest.raises(ApiError, match="sample_rate") as error:
        check_rate("mp3", 23000)
    assert (error.value.status, error.value.param) == (400, "sample_rate")
    check_rate("wav", 23000)
