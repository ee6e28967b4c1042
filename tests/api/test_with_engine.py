"""Everything together: three tiny random checkpoints, the worker process, HTTP."""

import base64

import numpy as np
import pytest

from engine import EngineClient, EngineConfig
from engine.dummy.checkpoint import write_random_checkpoint
from qtts_openai.settings import ModelSettings, Settings, VoiceSettings
from tests.api.audio import decode
from tests.api.conftest import ALIASES, serving
from tests.api.speech.test_streaming import wait_until
from tests.api.test_speech import read_events
from tests.api.voices.test_routing import clip

NAMES = {"custom_voice": "Qwen/custom", "voice_design": "design", "base": "base"}
SHORT = {"max_new_tokens": 6, "response_format": "pcm"}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    models = []
    for model_type, name in NAMES.items():
        path = folder / model_type
        write_random_checkpoint(path, model_type=model_type, shape="tiny-1b7", seed=0)
        aliases = ALIASES if model_type == "custom_voice" else ()
        models.append(ModelSettings(id=name, checkpoint=str(path), aliases=aliases))
    settings = Settings(
        models=tuple(models),
        engine=EngineConfig(device="cpu", threads=1, kv_cache_memory="64MB", max_num_seqs=4),
        voices=VoiceSettings(directory=str(folder / "voices")),
    )
    with serving(settings, EngineClient(settings.engine, settings.specs())) as server:
        yield server


@pytest.mark.parametrize(
    "fields",
    [
        {"voice": "ryan", "instructions": "Calm.", "language": "English"},
        {"voice": "vivian(2)+ryan(1)"},
        {"voice": "dylan", "non_streaming_mode": False},
        {"voice": "wizard"},
        {"model": "design", "voice": ..., "instructions": "A low voice."},
        {"ref_audio": clip(), "ref_text": "what was said"},
        {"ref_audio": clip(), "x_vector_only_mode": True, "non_streaming_mode": True},
        {"speaker_embedding": [0.1] * 64},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_each_family_speaks(real, fields):
    first = real.speak(**SHORT, **fields, seed=1)
    assert first.status_code == 200, first.text
    samples = decode("pcm", first.content)[0]
    assert 0 < len(samples) <= 6 * 1920 and np.any(samples)
    again = decode("pcm", real.speak(**SHORT, **fields, seed=1).content)[0]
    # The same codes; the last bit of a sample depends on how many frames are decoded together.
    assert len(again) == len(samples)
    assert np.abs(again.astype(int) - samples).max() < 50


def test_usage_and_reason(real):
    events = read_events(real.speak(**SHORT, stream_format="sse", seed=1).text)
    assert events[-1]["usage"]["output_tokens"] in (5, 6)
    assert events[-1]["finish_reason"] in ("length", "stop")


def test_stored_voices(real):
    sample = base64.b64decode(clip())
    files = {"audio_sample": ("a.wav", sample, "audio/wav")}
    made = real.http.post(
        "/audio/voices", data={"name": "m", "consent": "I allow this."}, files=files
    ).json()
    assert real.speak(**SHORT, voice=made["id"]).status_code == 200


def test_a_client_that_leaves_frees_its_row(real):
    body = {"model": "tts-1", "voice": "ryan", "input": "word " * 100, "response_format": "pcm"}
    before = real.engine.stats[0].num_steps
    with real.http.stream("POST", "/audio/speech", json=body) as answer:
        next(answer.iter_raw(100))
    wait_until(lambda: real.engine.stats[0].num_running == 0)
    assert real.engine.stats[0].num_steps - before < 300
