"""What files may be and what becomes of their samples: in this process, with files of ours."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from qtts_openai.decoding.decoder import RefusedError, decode, sniff
from tests.fuzz import seeds

RATE = 24000


def speech(seconds: float = 1.0, rate: int = RATE, level: float = 0.1) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(int(seconds * rate))
    return (level * noise / 4).astype("f4")


def wav(wave: np.ndarray, rate: int = RATE, subtype: str = "FLOAT", kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype)
    return file.getvalue()


def decoded(data: bytes, max_s: float = 10) -> np.ndarray:
    return decode(data, RATE, 0.5, max_s)


def refused(data: bytes, max_s: float = 10) -> str:
    with pytest.raises(RefusedError) as error:
        decoded(data, max_s)
    return str(error.value)


@pytest.mark.parametrize("name", sorted(seeds.GOOD))
def test_every_format_of_the_documents_is_read(name):
    assert len(decoded(seeds.good(name))) / RATE == pytest.approx(seeds.SECONDS, abs=0.15)


@pytest.mark.parametrize("name", sorted(seeds.BAD))
def test_no_other_demuxer_is_ever_asked(name):
    assert "none of the formats" in refused(seeds.BAD[name])


def test_tags_before_the_audio_do_not_hide_it():
    tag = b"ID3\4\0\0\0\0\1\0" + bytes(128)
    assert sniff(tag + seeds.good("mp3")) == "mp3"
    assert sniff(tag + tag + seeds.good("aac")) == "aac"
    assert len(decoded(tag + seeds.good("flac"))) > 0
    refused(b"ID3\4\0\0\x7f\x7f\x7f\x7f")


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2])
def test_ordinary_files_come_out_to_the_bit(rate, channels):
    """As a whole file's mean and one call of the resampler make it: what the models were tested
    with.
    """
    wave = np.stack([speech(3, rate), speech(3, rate) * 0.7][:channels], axis=1)
    data = wav(wave, rate, "PCM_16")
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    expected = soxr.resample(samples.mean(axis=1), rate, RATE, "HQ").astype("<f4")
    assert np.array_equal(decoded(data), expected)


def test_full_scale_is_ordinary():
    wave = np.sign(np.sin(np.arange(RATE) * 0.05)).astype("f4")
    assert np.array_equal(decoded(wav(wave)), soxr.resample(wave, RATE, RATE, "HQ"))


@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(RATE, "f4"),
        np.full(RATE, 0.3, "f4"),  # an offset is no sound
        speech(level=0.001),
        np.stack([speech(), -speech()], axis=1),  # out of phase: nothing is left of the mix
    ],
    ids=["zeros", "offset", "below-60-dBFS", "out-of-phase"],
)
def test_no_sound_is_refused(wave):
    assert refused(wav(wave)) == "there is no sound in it"


def test_an_offset_is_taken_away():
    shifted = decoded(wav(speech() + np.float32(0.3)))
    assert abs(shifted.mean()) < 1e-4
    assert np.allclose(shifted, speech() - speech().mean(), atol=1e-4)


def test_peaks_above_full_scale_are_scaled():
    loud = decoded(wav(speech(level=20)))
    assert np.abs(loud).max() == pytest.approx(1, abs=0.01)
    assert np.corrcoef(loud, speech())[0, 1] == pytest.approx(1, abs=1e-5)


def test_very_quiet_files_are_scaled():
    quiet = decoded(wav(speech(level=0.01)))  # RMS -52 dBFS
    assert 20 * np.log10(quiet.std()) == pytest.approx(-26, abs=0.1)
    clicked = speech(level=0.01)
    clicked[100] = 1.0
    assert np.abs(decoded(wav(clicked))).max() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(value):
    wave = speech()
    wave[5000] = value
    assert "not finite" in refused(wav(wave))


def test_length():
    assert "0.10 s long" in refused(wav(speech(0.1)))
    assert "more than 2 s" in refused(wav(speech(2.1)), max_s=2)
    assert len(decoded(wav(speech(2.0)), max_s=2)) == 2 * RATE
    empty = wav(np.zeros(0, "f4"))
    with pytest.raises(RefusedError, match=r"0\.00 s"):
        decode(empty, RATE, 0.0, 10)


@pytest.mark.parametrize("tag", [0x9999, 0x0002, 0xFFFE, 0x00FF])
def test_a_wav_with_an_odd_format_tag(tag):
    data = bytearray(wav(speech(), subtype="PCM_16"))
    data[20:22] = tag.to_bytes(2, "little")
    refused(bytes(data))
