"""The published sizes: every tensor has its place, and the smaller model speaks."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig, ModelSpec
from engine.dummy.checkpoint import write_random_checkpoint
from engine.dummy.configs import random_checkpoint_config, random_codec_config
from engine.models import codec_decoder, codec_encoder
from engine.models.code_predictor import CodePredictor
from engine.models.codec_decoder import CodecDecoder
from engine.models.codec_encoder import CodecEncoder
from engine.models.config import CodecConfig, ModelConfig, read_config
from engine.models.speaker_encoder import SpeakerEncoder
from engine.models.talker import Talker
from engine.protocol import AudioChunk, Finished, Prompt, SamplingParams, Submit
from engine.startup import build
from tests.models import tensor_table

TOKENS = dict.fromkeys(
    ("assistant", "<|im_start|>", "<|im_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"), 0
)


def as_struct(config: dict, type_: type, folder: Path):
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return read_config(path, type_)


@pytest.mark.parametrize("model_type", ["base", "custom_voice", "voice_design"])
@pytest.mark.parametrize("shape", ["0.6B", "1.7B"])
def test_every_tensor_of_the_talker_has_its_place(
    model_type: str, shape: str, tmp_path: Path
) -> None:
    raw = random_checkpoint_config(model_type, shape, TOKENS)
    config = as_struct(raw, ModelConfig, tmp_path)
    with torch.device("meta"):
        nets = [Talker(config.talker_config), CodePredictor(config.talker_config)]
        if config.speaker_encoder_config is not None:
            nets.append(SpeakerEncoder(config.speaker_encoder_config))
    places = {name: tuple(slot.expected) for net in nets for name, slot in net.weight_map()}
    assert places == {spec.name: tuple(spec.shape) for spec in tensor_table.model_tensors(raw)}


def test_every_tensor_of_the_codec_has_its_place(tmp_path: Path) -> None:
    raw = random_codec_config("0.6B")
    config = as_struct(raw, CodecConfig, tmp_path)
    with torch.device("meta"):
        decoder, encoder = CodecDecoder(config.decoder_config), CodecEncoder(config)
    published = {spec.name: tuple(spec.shape) for spec in tensor_table.codec_tensors(raw)}
    for net, is_unused in ((decoder, codec_decoder.is_unused), (encoder, codec_encoder.is_unused)):
        places = {name: tuple(slot.expected) for name, slot in net.weight_map()}
        assert places.items() <= published.items()
        assert all(is_unused(name) for name in published.keys() - places.keys())
    rates = config.decoder_config.upsampling_ratios + config.decoder_config.upsample_rates
    assert math.prod(rates) == 1920


@pytest.mark.slow
def test_the_smaller_model_speaks(tmp_path: Path) -> None:
    """Random weights of the true 0.6B shape: written, loaded and run for a few frames."""
    if shutil.disk_usage(tmp_path).free < 4 * 10**9:
        pytest.skip("needs 4 GB of disk")
    path = tmp_path / "checkpoint"
    write_random_checkpoint(path, model_type="custom_voice", shape="0.6B")
    config = EngineConfig(device="cpu", max_num_seqs=1, max_model_len=256, kv_cache_memory="64MB")
    core, ready = build(config, [ModelSpec(id="m", checkpoint=str(path))])
    shutil.rmtree(path)
    assert ready.models[0].model_size == "0b6"
    prompt = Prompt(role=(1, 2, 3), text=(4, 5, 6), speakers=((3061, 1.0),), language_id=2050)
    core.add(Submit(1, "m", prompt, SamplingParams(max_new_tokens=4, ignore_eos=True, seed=1)))
    told = []
    while core.has_work:
        told += core.step()
    pcm = b"".join(fact.pcm for fact in told if isinstance(fact, AudioChunk))
    assert len(pcm) == 3 * 1920 * 2 and any(pcm)
    assert isinstance(told[-1], Finished) and told[-1].usage.num_frames == 3
