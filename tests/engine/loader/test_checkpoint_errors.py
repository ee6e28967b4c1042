"""Checkpoints that cannot be loaded: each a CheckpointError that names the file and the fault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.config import ModelSpec
from engine.errors import CheckpointError
from engine.loader.checkpoint import REQUIRED, load, load_codec, resolve
from tests.engine.conftest import copy_checkpoint

CPU = torch.device("cpu")
WEIGHTS = ("model.safetensors", "speech_tokenizer/model.safetensors")


@pytest.fixture
def path(models: list[ModelSpec], tmp_path: Path) -> Path:
    """A copy of a base checkpoint: it has every kind of net."""
    copy_checkpoint(Path(models[5].checkpoint), tmp_path / "c")
    return tmp_path / "c"


def load_all(path: Path) -> None:
    load(ModelSpec(id="m", checkpoint=str(path)), path, torch.float32, CPU)
    load_codec(path, torch.float32, CPU)


def fault(path: Path) -> str:
    dtype = torch.get_default_dtype()
    with pytest.raises(CheckpointError) as caught:
        load_all(path)
    assert torch.get_default_dtype() == dtype
    assert torch.empty(0).device == CPU
    return str(caught.value)


def replace(file: Path, data: bytes) -> None:
    """Weights are links: never write into them."""
    file.unlink()
    file.write_bytes(data)


def test_the_copy_itself_is_sound(path: Path) -> None:
    load_all(path)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("what", ["nothing", "a directory"])
def test_a_missing_file(path: Path, name: str, what: str) -> None:
    (path / name).unlink()
    if what == "a directory":
        (path / name).mkdir()
    assert fault(path).startswith(f"{path / name}: file is missing")


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(WEIGHTS), share=st.floats(0, 0.9999))
def test_weights_cut_anywhere(path: Path, models: list[ModelSpec], name: str, share: float) -> None:
    data = (Path(models[5].checkpoint) / name).read_bytes()
    replace(path / name, data[: int(len(data) * share)])
    assert fault(path).startswith(f"{path / name}: cannot be read as safetensors")
    replace(path / name, data)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_garbage(path: Path, name: str) -> None:
    replace(path / name, b"\xff" * 5_000)
    assert fault(path).startswith(f"{path / name}: cannot be read as safetensors")


Tensors = dict[str, torch.Tensor]
CHANGES: dict[str, Callable[[Tensors, str], Tensors]] = {
    "missing 1 tensor(s): {name}": lambda all_, name: {k: t for k, t in all_.items() if k != name},
    "unknown 1 tensor(s): {name}.more": lambda all_, name: {**all_, f"{name}.more": torch.ones(2)},
    "tensor {name} has shape [3, 5]": lambda all_, name: {**all_, name: torch.ones(3, 5)},
}


@pytest.mark.parametrize("words", CHANGES)
@pytest.mark.parametrize(
    ("file", "name"),
    [
        (WEIGHTS[0], "talker.codec_head.weight"),
        (WEIGHTS[0], "talker.code_predictor.lm_head.3.weight"),
        (WEIGHTS[0], "speaker_encoder.fc.weight"),
        (WEIGHTS[1], "decoder.decoder.0.conv.weight"),
        (WEIGHTS[1], "encoder.downsample.conv.weight"),
    ],
)
def test_a_wrong_tensor(path: Path, file: str, name: str, words: str) -> None:
    tensors = CHANGES[words](load_file(path / file), name)
    (path / file).unlink()
    save_file(tensors, path / file)
    message = fault(path)
    assert message.startswith(f"{path / file}: ") and words.format(name=name) in message


@pytest.mark.parametrize("file", ["config.json", "speech_tokenizer/config.json"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"model_type": ', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[1]", "Expected `object`"),
        (b"{}", "missing required field"),
        (b'{"model_type": "llama"}', "llama"),
    ],
)
def test_a_config_that_is_none(path: Path, file: str, data: bytes, words: str) -> None:
    replace(path / file, data)
    message = fault(path)
    assert message.startswith(f"{path / file}: ") and words in message


TALKER = "talker_config"
VALUES: list[tuple[str, str, Any, str]] = [
    ("config.json", "tts_model_type", "singer", "singer"),
    ("config.json", "speaker_encoder_config", None, "needs speaker_encoder_config"),
    ("config.json", f"{TALKER}.vocab_size", "many", "vocab_size"),
    ("config.json", f"{TALKER}.hidden_size", -4, "no model can be built"),
    ("config.json", f"{TALKER}.hidden_size", 10**12, "no model can be built"),
    ("config.json", f"{TALKER}.num_code_groups", 0, "no model can be built"),
    ("config.json", "speaker_encoder_config.enc_res2net_scale", 0, "no model can be built"),
    ("config.json", f"{TALKER}.codec_eos_token_id", 99_999, "codec_eos_token_id is 99999"),
    ("config.json", f"{TALKER}.codec_bos_id", -1, "codec_bos_id is -1"),
    ("config.json", f"{TALKER}.spk_id", {"ryan": 99_999}, "spk_id.ryan is 99999"),
    ("config.json", f"{TALKER}.codec_language_id", {"xy": -2}, "codec_language_id.xy is -2"),
    ("config.json", "tts_pad_token_id", 10**6, "tts_pad_token_id is 1000000"),
    ("speech_tokenizer/config.json", "encoder_config", {}, "no model can be built"),
    ("generation_config.json", "temperature", "hot", "temperature"),
]


@pytest.mark.parametrize(("file", "key", "value", "words"), VALUES)
def test_a_config_with_a_wrong_value(
    path: Path, file: str, key: str, value: object, words: str
) -> None:
    config = json.loads((path / file).read_text())
    *parents, last = key.split(".")
    inner = config
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    replace(path / file, json.dumps(config).encode())
    message = fault(path)
    assert message.startswith(f"{path / file}: ") and words in message


@pytest.mark.parametrize("layers", [2, 4])
def test_weights_of_another_depth(path: Path, layers: int) -> None:
    config = json.loads((path / "config.json").read_text())
    config[TALKER]["num_hidden_layers"] = layers
    (path / "config.json").write_text(json.dumps(config))
    what = "unknown 11" if layers == 2 else "missing 11"
    assert f"{path / WEIGHTS[0]}: {what} tensor(s): talker.model.layers." in fault(path)


def test_generation_defaults_are_optional(path: Path) -> None:
    (path / "generation_config.json").unlink()
    load_all(path)


@pytest.mark.parametrize("name", ["/no/such/directory", "./none", "none", "a/b/c"])
def test_an_unknown_directory(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}.*no such directory"):
        resolve(ModelSpec(id="m", checkpoint=name))
