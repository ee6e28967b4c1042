import io
import itertools
import math
from array import array
from typing import get_args

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from qtts_openai.errors import ApiError
from qtts_openai.schemas import AudioFormat
from qtts_openai.speech.encoders import AudioEncoder, check_rate
from tests.api.audio import G711, decode, loudness, seconds, without_serials

FORMATS = get_args(AudioFormat)
RATE = 24000
PCM = array("h", (int(9000 * math.sin(0.06 * i)) for i in range(2 * RATE))).tobytes()
SHORT = PCM[:RATE]
# Samples a codec may add at the ends: its delay and a last frame that is not full.
SLACK = {"mp3": 2400, "aac": 2100}


def encode(audio_format: str, cuts: list[int], pcm: bytes = PCM, **options) -> bytes:
    encoder = AudioEncoder(audio_format, **options)
    edges = [0, *sorted(cut * 2 for cut in cuts), len(pcm)]
    parts = [encoder.encode(pcm[a:b]) for a, b in itertools.pairwise(edges) if b > a]
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
@given(cuts=st.lists(st.integers(1, len(SHORT) // 2 - 1), max_size=40))
def test_bytes_do_not_depend_on_the_cuts(audio_format, options, cuts):
    if audio_format in G711:
        options = {**options, "sample_rate": 8000}
    cut, whole = (encode(audio_format, at, SHORT, **options) for at in (cuts, []))
    assert cut == whole or without_serials(cut) == without_serials(whole)


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("speed", [1.0, 0.25, 0.7, 1.9, 4.0])
@pytest.mark.parametrize("rate", [8000, 24000, 48000])
def test_every_format_decodes_to_the_right_length(audio_format, speed, rate):
    rate = 8000 if audio_format in G711 else rate
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
    if audio_format in G711:
        changes = {"speed": changes.get("speed", 1.0)}
    encoder = AudioEncoder(audio_format, **changes)
    stream = b"".join([encoder.encode(PCM[:10000]), encoder.encode(PCM[10000:]), encoder.flush()])
    whole = encoder.with_exact_sizes(stream)
    assert len(whole) == len(stream)
    if audio_format in ("pcm", "aac", *G711):  # raw, or unknown to libsndfile
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


def test_opus_answers_can_be_concatenated():
    """As RFC 3533 chains streams: each has a serial number of its own."""
    parts = [encode("opus", []) for _ in range(3)]
    assert len({part[14:18] for part in parts}) == 3
    assert len({without_serials(part) for part in parts}) == 1
    assert seconds("opus", b"".join(parts)) == pytest.approx(6.0, abs=0.05)


@pytest.mark.parametrize("audio_format", G711)
def test_g711_is_eight_kilohertz_and_near_the_original(audio_format):
    encoder = AudioEncoder(audio_format)
    assert (encoder.sample_rate, encoder.bit_depth) == (8000, 8)
    assert len(encode(audio_format, [])) == 2 * 8000
    samples, _ = decode(audio_format, encode(audio_format, []))
    original, _ = decode("pcm", encode("pcm", [], sample_rate=8000))
    error = loudness(samples.astype(int) - original)
    assert error < 0.02 * loudness(original)
    check_rate(audio_format, None)
    check_rate(audio_format, 8000)
    with pytest.raises(ApiError, match="8000 only, not 24000"):
        check_rate(audio_format, 24000)


def test_a_rate_that_mp3_lacks_is_refused_by_name():
    with pytest.raises(ApiError, match="sample_rate") as error:
        check_rate("mp3", 23000)
    assert (error.value.status, error.value.param) == (400, "sample_rate")
    check_rate("wav", 23000)
