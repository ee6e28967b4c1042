"""Random-weight checkpoints in the official on-disk layout: for tests, benchmarks and a first try.

They make noise, not speech, at exactly the published cost when the shape is a published one.
Values are the same bits on every machine: per tensor, Philox raw output keyed by
SHA-256(seed, name), 24 bits of it as a uniform in [-1, 1), times a half width, plus a centre,
in float32. No libm function is involved. The nets say which tensors there are (tensors.py).

The widths keep the nets well conditioned: hidden states of order one, logits spread so that greedy
decoding does not hang on rounding, the row of the end token damped so that speech goes on, the
codec neither silent nor clipped.
"""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from tqdm import tqdm

from engine.dummy.configs import (
    CODEC_CONFIGURATION,
    CODEC_PREPROCESSOR_CONFIG,
    GENERATION_CONFIG,
    PREPROCESSOR_CONFIG,
    Config,
    ModelType,
    Shape,
    random_checkpoint_config,
    random_codec_config,
)
from engine.dummy.tensors import TensorSpec, codec_tensors, model_tensors
from engine.dummy.tokenizer import write_random_tokenizer
from engine.errors import CheckpointError

Dtype = Literal["bfloat16", "float32"]
_CODEC_EOS = 2150
_CHUNK = 1 << 22  # values made at a time: bounds memory, even for the 311 M rows of text embeddings


def write_random_checkpoint(
    path: Path,
    *,
    model_type: ModelType,
    shape: Shape,
    seed: int = 0,
    dtype: Dtype = "bfloat16",
    progress: bool = False,
) -> None:
    """Write a checkpoint directory at `path`, whole or not at all.

    `dtype` is the talker's; the codec is float32, as published. Raises CheckpointError when `path`
    holds something already or cannot be written (say, a full disk).
    """
    assert model_type in get_args(ModelType) and shape in get_args(Shape)
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise CheckpointError(f"{path} exists already; remove it or choose another directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            staging.chmod(0o755)
            _write_files(staging, model_type, shape, seed, dtype, progress)
            staging.rename(path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"cannot write a random checkpoint to {path}: {error}") from error


def _write_files(
    out: Path, model_type: ModelType, shape: Shape, seed: int, dtype: Dtype, progress: bool
) -> None:
    codec_dir = out / "speech_tokenizer"
    codec_dir.mkdir()
    tokens = write_random_tokenizer(out)
    config = random_checkpoint_config(model_type, shape, tokens)
    codec_config = random_codec_config(shape)
    _write_json(out / "config.json", config)
    _write_json(out / "generation_config.json", GENERATION_CONFIG)
    _write_json(out / "preprocessor_config.json", PREPROCESSOR_CONFIG)
    _write_json(codec_dir / "config.json", codec_config)
    _write_json(codec_dir / "configuration.json", CODEC_CONFIGURATION)
    _write_json(codec_dir / "preprocessor_config.json", CODEC_PREPROCESSOR_CONFIG)
    weights, codec_weights = out / "model.safetensors", codec_dir / "model.safetensors"
    _write_safetensors(weights, model_tensors(config), dtype, seed, progress)
    _write_safetensors(codec_weights, codec_tensors(codec_config), "float32", seed, progress)


# ---------------------------------------------------------------------------- values


def _values(spec: TensorSpec, seed: int) -> Iterator[np.ndarray]:
    """The tensor's float32 values in row-major order, at most _CHUNK at a time."""
    digest = hashlib.sha256(f"{seed}:{spec.name}".encode()).digest()
    bits = np.random.Philox(key=np.frombuffer(digest[:16], "<u8").astype(np.uint64))
    centre, half_width = _distribution(spec)
    size = math.prod(spec.shape)
    for start in range(0, size, _CHUNK):
        count = min(_CHUNK, size - start)
        raw = np.asarray(bits.random_raw((count + 1) // 2)).astype("<u8").view("<u4")[:count]
        unit = (raw >> 8).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
        chunk = unit * np.float32(half_width) + np.float32(centre)
        if spec.name == "talker.codec_head.weight":
            _damp_row(chunk, start, _CODEC_EOS, spec.shape[1])
        yield chunk


def _damp_row(chunk: np.ndarray, start: int, row: int, width: int) -> None:
    first, last = row * width - start, (row + 1) * width - start
    chunk[max(first, 0) : max(last, 0)] *= np.float32(0.0625)


# First match wins: part of the name -> standard deviation of weight x (input of unit variance).
_GAINS = (
    ("codec_head", 3.0),
    ("lm_head", 3.0),
    ("asp.tdnn", 0.5),
    ("speaker_encoder.fc", 0.1),
    ("speaker_encoder", 1.4),
    ("conv2.conv", 0.3),  # the residual branch of the codec's decoder
    ("decoder.decoder.6", 0.06),  # samples: audible, far from clipping
    ("encoder.encoder.layers.0", 4.0),  # speech has a tenth of unit variance
)


def _distribution(spec: TensorSpec) -> tuple[float, float]:
    """(centre, half width) of the uniform distribution this tensor is drawn from."""
    name, leaf = spec.name, spec.name.rsplit(".", 1)[-1]
    by_leaf = {
        "initialized": (1.0, 0.0),
        "cluster_usage": (1.0, 0.25),
        "embed_sum": (0.0, 0.5),
        "embedding_sum": (0.0, 1.0),
        "alpha": (0.0, 0.3),
        "beta": (0.0, 0.3),
        "scale": (0.3, 0.1),
        "gamma": (0.3, 0.1),
        "bias": (0.0, 0.1),
    }
    if leaf in by_leaf:
        return by_leaf[leaf]
    if len(spec.shape) == 1:
        return 1.0, 0.15  # the weight of a norm
    if "embedding" in name:
        return 0.0, math.sqrt(3.0) if "text_embedding" in name else 0.75
    gain = next((gain for fragment, gain in _GAINS if fragment in name), 1.0)
    return 0.0, gain * math.sqrt(3.0 / _fan_in(spec))


def _fan_in(spec: TensorSpec) -> float:
    """How many inputs one output sums.

    Transposed convolutions are [in, out, kernel], with a kernel of one or of two strides.
    """
    if spec.name.startswith("decoder.upsample.") and spec.name.endswith(".0.conv.weight"):
        return spec.shape[0]
    if spec.name.startswith("decoder.decoder.") and spec.name.endswith(".block.1.conv.weight"):
        return 2 * spec.shape[0]
    return math.prod(spec.shape[1:])


# ---------------------------------------------------------------------------- files


def _write_safetensors(
    file: Path, specs: list[TensorSpec], dtype: Dtype, seed: int, progress: bool
) -> None:
    width = 2 if dtype == "bfloat16" else 4
    header: Config = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in specs:
        start, end = end, end + width * math.prod(spec.shape)
        code = "BF16" if dtype == "bfloat16" else "F32"
        header[spec.name] = {"dtype": code, "shape": spec.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        hidden = None if progress else True  # None: shown on a terminal only
        for spec in tqdm(specs, desc=f"writing {file.name}", leave=False, disable=hidden):
            for chunk in _values(spec, seed):
                stream.write(_encode(chunk, dtype))


def _encode(values: np.ndarray, dtype: Dtype) -> bytes:
    if dtype == "float32":
        return values.astype("<f4").tobytes()
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))  # to nearest, ties to even
    return (rounded >> 16).astype("<u2").tobytes()


def _write_json(file: Path, content: Config) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
