"""The watermark's blocks, with a net that only looks around. tests/provenance has the real one."""

import importlib.util
import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import EngineDeadError
from qtts_openai.provenance.policy import Provenance
from qtts_openai.provenance.watermark import BLOCKS, CONTEXT, Marking, Watermark
from qtts_openai.schemas import AudioFormat
from qtts_openai.settings import ProvenanceSettings, SettingsError
from qtts_openai.speech.encoders import AudioEncoder
from tests.api.test_speech import assert_envelope

WAVE = np.random.default_rng(1).integers(-9000, 9000, 40_001).astype("<i2")


class Around:
    """The mark of a sample is half the mean of those around it, not as far as CONTEXT."""

    def mark_of(self, samples: np.ndarray) -> np.ndarray:
        return np.convolve(samples, np.ones(2001) / 4002)[1000 : 1000 + len(samples)]


class Gone:
    def mark_of(self, samples: np.ndarray) -> np.ndarray:
        raise EngineDeadError("gone")


def in_parts(cuts: list[int], pcm: bytes) -> bytes:
    stage = Marking(Around())
    edges = [0, *sorted(cut * 2 for cut in cuts), len(pcm)]
    parts = [stage.encode(pcm[a:b]) for a, b in itertools.pairwise(edges)]
    return b"".join([*parts, stage.flush()])


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, len(WAVE)), max_size=30))
def test_blocks_are_those_of_the_whole_however_it_was_cut(cuts):
    marked = np.frombuffer(in_parts(cuts, WAVE.tobytes()), "<i2")
    whole = WAVE + 32768 * Around().mark_of(WAVE / 32768)
    assert len(marked) == len(WAVE)
    assert np.abs(marked - whole).max() < 1


@pytest.mark.parametrize("num_samples", [0, 1, 240, BLOCKS[0], BLOCKS[0] + CONTEXT, 20_000])
def test_speech_of_any_length_keeps_it(num_samples):
    assert len(in_parts([], WAVE[:num_samples].tobytes())) == 2 * num_samples


def test_the_first_speech_leaves_after_a_short_block():
    stage = Marking(Around())
    assert not stage.encode(WAVE[: BLOCKS[0] + CONTEXT - 1].tobytes())
    assert len(stage.encode(WAVE[:1].tobytes())) == 2 * BLOCKS[0]


@pytest.mark.parametrize("audio_format", get_args(AudioFormat))
def test_every_format_has_it(audio_format):
    plain, marked = (AudioEncoder(audio_format, watermark=w) for w in (None, Around()))
    pcm = WAVE.tobytes()
    one, other = (encoder.encode(pcm) + encoder.flush() for encoder in (plain, marked))
    assert one != other and len(other) > 0.8 * len(one) and not marked.is_cheap


def test_nothing_goes_out_unmarked_where_it_cannot_be_marked(start, monkeypatch):
    server = start()
    service = server.uvicorn.config.app.state.service
    monkeypatch.setattr(service, "watermark", Gone())
    assert_envelope(server.speak(stream=False), 503, code="engine_unavailable")
    assert Provenance().watermark is None


@pytest.mark.skipif(importlib.util.find_spec("perth") is not None, reason="it is there")
def test_a_server_that_lacks_the_package_does_not_start():
    with pytest.raises(SettingsError) as error:
        Watermark()
    assert error.value.key == "provenance.watermark" and "watermark]" in str(error.value)
    assert not ProvenanceSettings().watermark
