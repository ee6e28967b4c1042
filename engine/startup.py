"""From a configuration to an EngineCore that is ready to step.

In: EngineConfig and the checkpoints to load. Out: an EngineCore, and lines in the log that say what
was chosen for each `auto`: device, dtype, threads, form of the weights, rows and KV blocks.
"""

import hashlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from engine.config import EngineConfig, ModelSpec
from engine.core import EngineCore
from engine.errors import CheckpointError
from engine.layers.linear import Linear, can_pack
from engine.loader.checkpoint import Checkpoint, load, load_codec, resolve
from engine.loader.forms import Forms, choose_quantization, use_native
from engine.loader.host_memory import freed_at_once
from engine.loader.memory import (
    Footprint,
    Geometry,
    MemoryPlan,
    check_weights_fit,
    free_bytes,
    geometry,
    kv_caches,
    plan_memory,
    token_bytes,
)
from engine.models.codec_decoder import CodecDecoder
from engine.protocol import (
    MAX_VOICES,
    AudioChunk,
    Finished,
    ModelInfo,
    Prompt,
    Ready,
    SamplingParams,
    Submit,
)
from engine.runner.codec_runner import CodecRunner
from engine.runner.cuda_graphs import GraphCapturer
from engine.runner.native_talker import NativeTalkerEngine
from engine.runner.prefix_cache import MAX_PREFIX_TOKENS
from engine.runner.talker_runner import TalkerRunner

log = logging.getLogger(__name__)

SMALL_MODEL_BYTES = 100 * 10**6


@dataclass(frozen=True)
class EnginePlan:
    """What start-up decided where the configuration leaves it open ("auto")."""

    device: torch.device
    dtype: torch.dtype
    memory: MemoryPlan
    use_kernels: bool  # Triton's, in talker and predictor
    overlap: bool  # begin a frame before the last one's codes are taken


def choose_device(config: EngineConfig, replica: int = 0) -> torch.device:
    """On GPUs each replica has one of its own: the `replica`-th of those torch sees, which are the
    ones CUDA_VISIBLE_DEVICES names, if it is set.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = f"torch sees {num_gpus} GPU(s)"
    if visible is not None:
        seen += f" with CUDA_VISIBLE_DEVICES={visible}"
    if num_gpus == 0:
        if config.device == "cuda":
            raise CheckpointError(f"engine.device is cuda, but {seen}; use auto or cpu")
        if visible not in (None, "", "-1"):
            log.warning("%s: running on the CPU", seen)
        return torch.device("cpu")
    if num_gpus < config.data_parallel_size:
        raise CheckpointError(
            f"engine.data_parallel_size is {config.data_parallel_size}, but {seen}: lower it to "
            f"{num_gpus}, or make more of them visible"
        )
    return torch.device("cuda", replica)


def choose_dtype(
    config: EngineConfig, device: torch.device, paths: list[Path], native: bool = False
) -> torch.dtype:
    """bfloat16 on a GPU. The compiled decoder calculates in float32. Without it, bfloat16 on CPUs
    that multiply it in hardware unless all models are small: there it saves reading memory, and
    small weights stay in the cache. float32 elsewhere.
    """
    if config.dtype != "auto":
        chosen: torch.dtype = getattr(torch, config.dtype)
        return chosen
    if device.type == "cuda":
        return torch.bfloat16
    if native:
        return torch.float32
    files = [path / "model.safetensors" for path in paths]
    large = any(file.exists() and file.stat().st_size >= SMALL_MODEL_BYTES for file in files)
    return torch.bfloat16 if large and _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _bounded_info(checkpoint: Checkpoint, config: EngineConfig) -> ModelInfo:
    """N sampled tokens give N - 1 frames."""
    frames = min(checkpoint.generation.max_new_tokens - 1, config.max_frames)
    return msgspec.structs.replace(checkpoint.info, max_frames=frames)


def build(
    config: EngineConfig, models: list[ModelSpec], replica: int = 0
) -> tuple[EngineCore, Ready]:
    """Load everything, choose what is left to choose, run one warm-up utterance per model.
    CheckpointError says what is wrong and where.
    """
    started = time.monotonic()
    device = choose_device(config, replica)
    on_gpu = device.type == "cuda"
    paths = {spec.id: resolve(spec) for spec in models}
    native = use_native(config, device)
    dtype = choose_dtype(config, device, list(paths.values()), native)
    check_weights_fit(list(paths.values()), dtype, device)
    if device.type == "cpu":
        torch.set_num_threads(config.threads or measure_threads(dtype))
    else:
        _prepare_gpu(device)
    quantization = choose_quantization(config, device, native, list(paths.values()))
    own_int8 = on_gpu and quantization == "int8" and config.kernels != "torch"
    forms = Forms(quantization, dtype, device, native=native, own_int8=own_int8)
    checkpoints = {}
    for spec in models:
        path = paths[spec.id]
        checkpoints[spec.id] = load(spec, path, dtype, device, forms)
        log.info("loaded %s (%s) from %s", spec.id, checkpoints[spec.id].info.model_type, path)
        if checkpoints[spec.id].info.random_weights:
            log.warning("model %s has random weights: it will make noise, not speech", spec.id)
    with freed_at_once():
        decoders = _codec_decoders(checkpoints, dtype, device)
    needs = footprint(checkpoints, decoders, dtype)
    memory = plan_memory(config, needs, free_bytes(device), gpu=on_gpu)
    plan = EnginePlan(
        device=device,
        dtype=dtype,
        memory=memory,
        use_kernels=config.kernels == "triton" or (config.kernels == "auto" and on_gpu),
        overlap=on_gpu,
    )
    talker = native_talker(config, plan, checkpoints)
    codecs = _codec_runners(config, memory, decoders)
    if plan.use_kernels and on_gpu:
        _accelerate(config, talker, codecs, int8=own_int8)
    core = EngineCore(config, checkpoints, talker, codecs)
    _warm_up(core)
    ready = Ready(
        models=[_bounded_info(c, config) for c in checkpoints.values()],
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        num_rows=memory.num_rows,
        num_blocks=sum(memory.num_blocks.values()),
        kv_cache_bytes=sum({id(c): c.nbytes for c in talker.kv_caches()}.values()),
        load_s=time.monotonic() - started,
    )
    log.info(
        "ready in %.1f s on %s, %s, %d thread(s); KV cache %.2f GB, %d blocks; %d rows",
        ready.load_s,
        ready.device,
        ready.dtype,
        torch.get_num_threads(),
        ready.kv_cache_bytes / 1e9,
        ready.num_blocks,
        ready.num_rows,
    )
    return core, ready


def native_talker(
    config: EngineConfig, plan: EnginePlan, checkpoints: dict[str, Checkpoint]
) -> NativeTalkerEngine:
    caches = kv_caches(plan.memory, config.block_size, checkpoints, plan.dtype, plan.device)
    num_rows = plan.memory.num_rows
    runners = {
        model: TalkerRunner(
            checkpoint, caches[model], num_rows, config.max_model_len, kernels=plan.use_kernels
        )
        for model, checkpoint in checkpoints.items()
    }
    return NativeTalkerEngine(
        runners, num_rows, config.max_num_batched_tokens, overlap=plan.overlap
    )


def _prepare_gpu(device: torch.device) -> None:
    """Full float32 products, and a stream that graphs can be captured on. Talker and predictor go
    before the codec wherever both want the GPU.
    """
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.cuda.set_stream(torch.cuda.Stream(device, priority=-1))


def footprint(
    checkpoints: dict[str, Checkpoint], decoders: dict[str, CodecDecoder], dtype: torch.dtype
) -> Footprint:
    """decoders by model; models may share one."""
    position_bytes: dict[Geometry, int] = {}
    kept_bytes = 0
    for model, checkpoint in checkpoints.items():
        c = checkpoint.config.talker_config
        shape = geometry(c)
        position_bytes.setdefault(shape, token_bytes(shape, dtype))
        position_bytes[shape] += c.hidden_size * dtype.itemsize
        kept_bytes += MAX_PREFIX_TOKENS * token_bytes(shape, dtype)
        if checkpoint.codec_encoder is not None:
            kept_bytes += MAX_VOICES * _state_bytes(decoders[model])
    distinct = {id(decoder): decoder for decoder in decoders.values()}.values()
    return Footprint(sum(map(_state_bytes, distinct)), position_bytes, kept_bytes)


def _state_bytes(decoder: CodecDecoder) -> int:
    sizes = (torch.Size(shape).numel() for shape in decoder.state_shapes().values())
    return sum(sizes) * decoder.output_proj.weight.dtype.itemsize


@torch.inference_mode()
def _accelerate(
    config: EngineConfig,
    talker: NativeTalkerEngine,
    codecs: dict[str, CodecRunner],
    *,
    int8: bool,
) -> None:
    """On a GPU: measure which kernels are fastest here, then capture the steps as graphs."""
    # Triton is there only with a GPU.
    from engine.kernels.fused import fuse_
    from engine.kernels.snake import snake

    started = time.monotonic()
    for runner in talker.runners.values():
        fuse_(
            runner.talker,
            runner.predictor,
            runner.buffers.num_rows,
            int8=int8,
        )
    distinct = {id(codec): codec for codec in codecs.values()}.values()
    for codec in distinct:
        codec.decoder.use_kernels_(snake)
    chosen = time.monotonic()
    if config.cuda_graphs:
        capture = GraphCapturer()
        for runner in talker.runners.values():
            runner.capture(capture, config.max_num_batched_tokens)
        for codec in distinct:
            codec.capture((1, *config.chunk_ramp))  # an ending may have any number left
    log.info(
        "kernels chosen in %.1f s, graphs recorded in %.1f s",
        chosen - started,
        time.monotonic() - chosen,
    )


def measure_threads(dtype: torch.dtype) -> int:
    """The number of torch threads with which a pass over many weights, a few rows at a time, is
    fastest right now: the machine's other load is part of the measurement.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    layers = [Linear(1024, 1024) for _ in range(32)]
    net = torch.nn.Sequential(*layers).to(dtype)
    for module in layers:
        torch.nn.init.normal_(module.weight)
        if can_pack(dtype):
            module.transform_("packed")
    x = torch.randn(2, 1024).to(dtype)
    counts = sorted({1, *(n for n in (2, 4, 8, 16, 32) if n < (available or 1)), available or 1})
    return min(counts, key=lambda threads: _time_pass(threads, net, x))


@torch.inference_mode()
def _time_pass(threads: int, net: torch.nn.Module, x: torch.Tensor) -> float:
    """Median seconds: the best case would hide threads that wait for busy cores."""
    torch.set_num_threads(threads)
    times = []
    for _ in range(15):
        started = time.perf_counter()
        net(x)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def _codec_decoders(
    checkpoints: dict[str, Checkpoint], dtype: torch.dtype, device: torch.device
) -> dict[str, CodecDecoder]:
    """One decoder per distinct codec file; the published checkpoints share theirs."""
    by_file: dict[str, CodecDecoder] = {}
    decoders = {}
    for model, checkpoint in checkpoints.items():
        path = Path(checkpoint.info.path)
        file = path / "speech_tokenizer" / "model.safetensors"
        key = _digest(file) if len(checkpoints) > 1 else ""
        if key not in by_file:
            decoder = load_codec(path, torch.float32 if device.type == "cpu" else dtype, device)
            if device.type == "cpu" and can_pack(torch.float32):
                decoder.pack_()
            by_file[key] = decoder
        decoders[model] = by_file[key]
    return decoders


def _codec_runners(
    config: EngineConfig, memory: MemoryPlan, decoders: dict[str, CodecDecoder]
) -> dict[str, CodecRunner]:
    official = config.codec_mode == "official"
    runners = {
        id(decoder): CodecRunner(decoder, memory.num_rows, config.max_model_len, official=official)
        for decoder in decoders.values()
    }
    return {model: runners[id(decoder)] for model, decoder in decoders.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _warm_up(core: EngineCore) -> None:
    """A short utterance through every stage of every model, so that the first request finds
    everything warm.
    """
    for i, (model, checkpoint) in enumerate(core.checkpoints.items()):
        speakers = tuple((row, 1.0) for row in list(checkpoint.info.speakers.values())[:1])
        prompt = Prompt(role=(0, 0, 0), text=(0,) * 8, speakers=speakers)
        core.add(
            Submit(-1 - i, model, prompt, SamplingParams(max_new_tokens=8, ignore_eos=True, seed=0))
        )
    outputs = []
    while core.has_work:
        outputs += core.step()
    assert sum(isinstance(fact, Finished) for fact in outputs) == len(core.checkpoints), (
        "warm-up failed"
    )
    assert any(isinstance(fact, AudioChunk) for fact in outputs), "warm-up made no audio"
    core.reset_stats()
