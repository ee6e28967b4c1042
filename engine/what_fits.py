"""What would fit on this machine, without loading weights, for `qtts check`: `python -m
engine.what_fits`.

In, as JSON on stdin: `config` (EngineConfig) and `models` (ModelSpecs whose files are on this
machine). Out, on the last line: a Report as JSON. The nets are built on torch's meta device, where
they have sizes and take no memory.
"""

import sys
from pathlib import Path

import msgspec
import torch

from engine.config import EngineConfig, ModelSpec
from engine.engine_plan import choose_device, choose_dtype
from engine.errors import CheckpointError
from engine.loader.checkpoint import build_codec, codec_weights, read_info, resolve
from engine.loader.forms import use_native
from engine.loader.memory import check_weights_fit, free_bytes, plan_memory
from engine.models.codec_decoder import CodecDecoder
from engine.models.config import ModelConfig
from engine.startup import footprint


class Asked(msgspec.Struct):
    config: EngineConfig
    models: list[ModelSpec]


class Fit(msgspec.Struct):
    """Of one worker. `num_positions` of KV: prompts and frames of all that speak at once."""

    device: str
    dtype: str
    weight_bytes: int
    free_bytes: int  # before loading
    kv_bytes: int
    num_rows: int
    num_positions: int


class Report(msgspec.Struct):
    torch: str
    gpus: list[tuple[str, int, int]]  # name, free, total
    workers: list[Fit]
    error: str | None = None


def report(asked: Asked) -> Report:
    found = Report(str(torch.__version__), _gpus(), [])
    try:
        found.workers = [
            fit(asked.config, asked.models, worker)
            for worker in range(asked.config.data_parallel_size)
        ]
    except CheckpointError as error:
        found.error = str(error)
    return found


def fit(config: EngineConfig, models: list[ModelSpec], worker: int) -> Fit:
    """CheckpointError where it would not start."""
    device = choose_device(config, worker)
    paths = {spec.id: resolve(spec) for spec in models}
    native = use_native(config, device)
    dtype = choose_dtype(config, device, list(paths.values()), native=native)
    check_weights_fit(list(paths.values()), dtype, device)
    configs, decoders = _nets(models, paths, dtype, device)
    weights = sum(_weight_bytes(path, dtype) for path in paths.values())
    free = free_bytes(device)
    if device.type == "cpu":  # workers share the host's memory
        free //= config.data_parallel_size
    needs = footprint(configs, decoders, dtype)
    plan = plan_memory(config, needs, free - weights, gpu=device.type == "cuda")
    positions = {shape: n * config.block_size for shape, n in plan.num_blocks.items()}
    return Fit(
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        weight_bytes=weights,
        free_bytes=free,
        kv_bytes=sum(n * needs.position_bytes[shape] for shape, n in positions.items()),
        num_rows=plan.num_rows,
        num_positions=sum(positions.values()),
    )


def _nets(
    models: list[ModelSpec], paths: dict[str, Path], dtype: torch.dtype, device: torch.device
) -> tuple[dict[str, ModelConfig], dict[str, CodecDecoder]]:
    """Codecs whose files are of one size count as one, as published checkpoints share theirs."""
    configs: dict[str, ModelConfig] = {}
    decoders: dict[str, CodecDecoder] = {}
    by_size: dict[int, CodecDecoder] = {}
    codec_dtype = torch.float32 if device.type == "cpu" else dtype
    for spec in models:
        configs[spec.id], _ = read_info(spec, paths[spec.id])
        size = codec_weights(paths[spec.id]).stat().st_size
        if size not in by_size:
            by_size[size] = build_codec(paths[spec.id], codec_dtype, torch.device("meta"))
        decoders[spec.id] = by_size[size]
    return configs, decoders


def _weight_bytes(path: Path, dtype: torch.dtype) -> int:
    """Talker and predictor, stored in bfloat16 or as they are loaded, and the codec."""
    talker = (path / "model.safetensors").stat().st_size * dtype.itemsize // 2
    return talker + codec_weights(path).stat().st_size


def _gpus() -> list[tuple[str, int, int]]:
    cuda = torch.cuda
    count = cuda.device_count() if cuda.is_available() else 0
    return [(cuda.get_device_name(i), *cuda.mem_get_info(i)) for i in range(count)]


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    print(msgspec.json.encode(report(asked)).decode())
