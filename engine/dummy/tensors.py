"""Names and shapes of every tensor a Qwen3-TTS checkpoint holds: those the nets ask for, and those
that published files hold besides. (tests/models/tensor_table.py lists them a second way.)
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
import torch

from engine.dummy.configs import Config
from engine.models.code_predictor import CodePredictor
from engine.models.codec_decoder import CodecDecoder
from engine.models.codec_encoder import CodecEncoder
from engine.models.config import CodecConfig, ModelConfig
from engine.models.speaker_encoder import SpeakerEncoder
from engine.models.talker import Talker

_Net = Talker | CodePredictor | SpeakerEncoder | CodecDecoder | CodecEncoder


class TensorSpec(NamedTuple):
    name: str
    shape: tuple[int, ...]


def model_tensors(config: Config) -> list[TensorSpec]:
    """Tensors of model.safetensors: talker, code predictor and, in Base, speaker encoder."""
    c = msgspec.convert(config, ModelConfig)
    with torch.device("meta"):
        nets: list[_Net] = [Talker(c.talker_config), CodePredictor(c.talker_config)]
        if c.speaker_encoder_config is not None:
            nets.append(SpeakerEncoder(c.speaker_encoder_config))
    return list(_wanted(nets))


def codec_tensors(config: Config) -> list[TensorSpec]:
    """Tensors of speech_tokenizer/model.safetensors: codec encoder and decoder."""
    c = msgspec.convert(config, CodecConfig)
    books = c.encoder_config["num_quantizers"]  # published with all, of which encoding uses half
    c = msgspec.structs.replace(c, encoder_valid_num_quantizers=books)
    with torch.device("meta"):
        specs = list(_wanted([CodecEncoder(c), CodecDecoder(c.decoder_config)]))
    return [*specs, *_leftovers(specs)]


def _wanted(nets: Iterable[_Net]) -> Iterator[TensorSpec]:
    for net in nets:
        yield from (TensorSpec(name, tuple(at.expected)) for name, at in net.weight_map())


def _leftovers(specs: Iterable[TensorSpec]) -> Iterator[TensorSpec]:
    """Of the quantisers: what only training or the other direction reads."""
    other_way = {"encoder": ("input_proj", "output_proj"), "decoder": ("output_proj", "input_proj")}
    for name, shape in specs:
        ours, theirs = other_way[name.partition(".")[0]]
        if ".quantizer." in name and name.endswith(f".{ours}.weight"):
            outputs, inputs, kernel = shape
            yield TensorSpec(name.replace(ours, theirs), (inputs, outputs, kernel))
        elif name.endswith(".codebook.cluster_usage"):
            yield TensorSpec(name.replace("cluster_usage", "initialized"), (1,))
