"""The real watermark: found where it was written, in the blocks of a stream, and nowhere else."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import soxr

from qtts_openai.provenance.watermark import Marking, Watermark
from qtts_openai.settings import ProvenanceSettings
from qtts_openai.speech.encoders import AudioEncoder
from tests.api.test_verify import verify

pytestmark = pytest.mark.provenance
pytest.importorskip("perth")

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"


@pytest.fixture(scope="module")
def watermark() -> Iterator[Watermark]:
    made = Watermark()
    yield made
    made.close()


@pytest.fixture(scope="module")
def speech() -> bytes:
    """PCM of the embedded voice."""
    wave, rate = soundfile.read(sorted(SAMPLES.glob("*.mp3"))[0], dtype="float32")
    wave = soxr.resample(wave if wave.ndim == 1 else wave[:, 0], rate, 24_000)[: 24_000 * 6]
    return np.rint(wave * 32767).clip(-32768, 32767).astype("<i2").tobytes()


def floats(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32768


def streamed(watermark: Watermark, pcm: bytes) -> bytes:
    stage = Marking(watermark)
    parts = [stage.encode(pcm[at : at + 3840]) for at in range(0, len(pcm), 3840)]
    return b"".join([*parts, stage.flush()])


def test_it_is_found_where_it_was_written_only(watermark, speech):
    assert watermark.score(floats(speech)) < 0.1
    assert watermark.score(floats(streamed(watermark, speech))) > 0.9


def test_blocks_are_those_of_the_whole(watermark, speech):
    """So nothing is heard where they meet."""
    whole = floats(speech) + watermark.mark_of(floats(speech))
    seams = floats(streamed(watermark, speech)) - whole
    assert np.abs(seams).max() < 3 / 32768


def test_any_length_down_to_nothing(watermark):
    for num_samples in (0, 1, 100, 2399, 20_000):
        assert len(streamed(watermark, bytes(2 * num_samples))) == 2 * num_samples
    assert watermark.score(np.zeros(24_000, np.float32)) < 0.5


def test_it_comes_back_after_it_died(watermark, speech):
    watermark._process.kill()
    with pytest.raises(Exception, match="cannot be watermarked"):
        watermark.score(floats(speech))
    assert watermark.score(floats(speech)) < 0.1


def test_a_server_finds_it_in_a_file(start, watermark, speech):
    server = start(provenance=ProvenanceSettings(watermark=True))
    server.http.timeout = httpx.Timeout(120)
    for mark, verdict in ((watermark, "present"), (None, "absent")):
        encoder = AudioEncoder("mp3", watermark=mark)
        file = io.BytesIO(encoder.encode(speech) + encoder.flush())
        found = verify(server, file.getvalue()).json()["findings"][-1]
        assert (found["what"], found["verdict"]) == ("watermark", verdict)
    assert server.speak(response_format="wav").content[44:] != b""
