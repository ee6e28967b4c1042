"""From a configuration to an EngineCore that is ready to step.

In: EngineConfig and the checkpoints to load. Out: an EngineCore, and lines in the log that say what
was chosen for each `auto`: device, dtype, threads, form of the weights, rows and KV blocks.
"""

import hashlib
import logging
import time
from pathlib import Path

import msgspec
import torch

from engine.accelerate import accelerate, check_kernels, keep_the_faster, leave_out
from engine.backends.vllm import options as vllm_options
from engine.backends.vllm.start import vllm_talker
from engine.config import EngineConfig, ModelSpec
from engine.core import EngineCore
from engine.engine_plan import EnginePlan, choose_device, choose_dtype, measure_threads
from engine.errors import CheckpointError
from engine.loader.checkpoint import (
    Checkpoint,
    TalkerCheckpoint,
    codec_weights,
    load,
    load_codec,
    load_ends,
    resolve,
)
from engine.loader.forms import Forms, choose_quantization, pack_codec_, torch_form, use_native
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
from engine.models.config import ModelConfig
from engine.protocol import MAX_VOICES, Measured, ModelInfo, Ready
from engine.runner.codec_runner import CodecRunner
from engine.runner.own_talker import OwnTalkerEngine
from engine.runner.prefix_cache import MAX_PREFIX_TOKENS
from engine.runner.talker_runner import TalkerRunner
from engine.talker_engine import TalkerEngine
from engine.warm_up import measure_places, warm_up

log = logging.getLogger(__name__)


def _bounded_info(checkpoint: Checkpoint, config: EngineConfig) -> ModelInfo:
    """N sampled tokens give N - 1 frames."""
    frames = min(checkpoint.generation.max_new_tokens - 1, config.max_frames)
    return msgspec.structs.replace(checkpoint.info, max_frames=frames)


def build(
    config: EngineConfig,
    models: list[ModelSpec],
    replica: int = 0,
    measured: Measured | None = None,
) -> tuple[EngineCore, Ready]:
    """Load everything, choose what is left to choose, run one warm-up utterance per model.
    CheckpointError says what is wrong and where. `measured`: by a worker before this one.
    """
    started = time.monotonic()
    on_vllm = _on_vllm(config, models)
    if on_vllm:
        config, replica = vllm_options.with_own_gpus(config, replica), 0
    device = choose_device(config, replica)
    on_gpu = device.type == "cuda"
    if config.kernels == "triton" and not on_gpu:
        raise CheckpointError("engine.kernels is triton, which needs a GPU; use auto or torch")
    if on_vllm:
        config = vllm_options.adjusted(config, device)
    paths = {spec.id: resolve(spec) for spec in models}
    native = not on_vllm and use_native(config, device)
    dtype = choose_dtype(config, device, list(paths.values()), native=native)
    check_weights_fit(list(paths.values()), dtype, device)
    if device.type == "cpu":
        known = config.threads or (measured.threads if measured is not None else 0)
        torch.set_num_threads(known or measure_threads(dtype))
    else:
        _prepare_gpu(device)
    quantization = choose_quantization(config, device, native, list(paths.values()))
    own_int8 = on_gpu and quantization == "int8" and config.kernels != "torch"
    forms = Forms(quantization, dtype, device, native=native, own_int8=own_int8)
    checkpoints = {
        spec.id: _load(spec, paths[spec.id], dtype, device, None if on_vllm else forms)
        for spec in models
    }
    with freed_at_once():
        decoders = _codec_decoders(config, checkpoints, dtype, device)
    configs = {model: checkpoint.config for model, checkpoint in checkpoints.items()}
    needs, free = footprint(configs, decoders, dtype), free_bytes(device)
    if on_vllm:
        (checkpoint,) = checkpoints.values()
        needs, free = vllm_options.needs(config, checkpoint, dtype, needs, free)
    memory = plan_memory(config, needs, free, gpu=on_gpu)
    num_blocks = sum(memory.num_blocks.values())
    wanted = config.kernels == "triton" or (config.kernels == "auto" and on_gpu)
    talkers = [model.talker_config for model in configs.values()]
    checks = check_kernels(config, talkers, dtype, device) if wanted and on_gpu else []
    left_out = leave_out(config, checks)
    plan = EnginePlan(
        device=device,
        dtype=dtype,
        memory=memory,
        use_kernels=wanted and not left_out,
        overlap=on_gpu,
    )
    talker: TalkerEngine
    if on_vllm:
        talker = vllm_talker(
            config,
            checkpoint,
            dtype,
            device,
            num_rows=memory.num_rows,
            num_blocks=num_blocks,
            kernels=plan.use_kernels,
            form=torch_form(quantization, dtype) if device.type == "cpu" else None,
        )
    else:
        ours = {m: c for m, c in checkpoints.items() if isinstance(c, TalkerCheckpoint)}
        talker = own_talker(config, plan, ours)
    codecs = _codec_runners(config, memory, decoders)
    runners = talker.runners if isinstance(talker, OwnTalkerEngine) else {}
    if wanted and on_gpu:
        checks += accelerate(config, list(runners.values()), codecs, left_out, int8=own_int8)
    core = EngineCore(config, checkpoints, talker, codecs)
    warm_up(core)
    if plan.use_kernels and on_gpu:
        checks += keep_the_faster(config, core, runners)
    num_places = _num_places(core, config, memory.num_rows, measured, on_gpu=on_gpu)
    ready = Ready(
        models=[_bounded_info(c, config) for c in checkpoints.values()],
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        num_rows=memory.num_rows,
        measured=Measured(torch.get_num_threads(), num_places),
        num_blocks=num_blocks,
        kv_cache_bytes=talker.kv_cache_bytes,
        load_s=time.monotonic() - started,
        checks=checks,
    )
    _announce(ready)
    return core, ready


def _load(
    spec: ModelSpec, path: Path, dtype: torch.dtype, device: torch.device, forms: Forms | None
) -> Checkpoint:
    """Without `forms` the talker is left out: vLLM loads it."""
    checkpoint = (
        load(spec, path, dtype, device, forms) if forms else load_ends(spec, path, dtype, device)
    )
    log.info("loaded %s (%s) from %s", spec.id, checkpoint.info.model_type, path)
    if checkpoint.info.random_weights:
        log.warning("model %s has random weights: it will make noise, not speech", spec.id)
    return checkpoint


def _announce(ready: Ready) -> None:
    log.info(
        "ready in %.1f s on %s, %s, %d thread(s); KV cache %.2f GB, %d blocks; %d rows, %d places",
        *(ready.load_s, ready.device, ready.dtype, ready.measured.threads),
        *(ready.kv_cache_bytes / 1e9, ready.num_blocks),
        *(ready.num_rows, ready.measured.num_places),
    )


def _num_places(
    core: EngineCore,
    config: EngineConfig,
    num_rows: int,
    measured: Measured | None,
    *,
    on_gpu: bool,
) -> int:
    """All rows, but on a CPU that was left to choose no more than it can speak in real time."""
    if on_gpu or config.max_num_seqs != "auto":
        return num_rows
    return measured.num_places if measured is not None else measure_places(core, num_rows)


def own_talker(
    config: EngineConfig, plan: EnginePlan, checkpoints: dict[str, TalkerCheckpoint]
) -> OwnTalkerEngine:
    caches = kv_caches(plan.memory, config.block_size, checkpoints, plan.dtype, plan.device)
    num_rows = plan.memory.num_rows
    runners = {
        model: TalkerRunner(
            checkpoint, caches[model], num_rows, config.max_model_len, kernels=plan.use_kernels
        )
        for model, checkpoint in checkpoints.items()
    }
    return OwnTalkerEngine(
        runners,
        num_rows,
        config.max_num_batched_tokens,
        overlap=plan.overlap,
        rows_cost=plan.device.type == "cpu",
    )


def _on_vllm(config: EngineConfig, models: list[ModelSpec]) -> bool:
    """EngineClient sees to it that a model on vLLM has workers of its own."""
    on_vllm = [spec.id for spec in models if (spec.backend or config.backend) == "vllm"]
    if on_vllm and len(models) > 1:
        raise CheckpointError(f"model {on_vllm[0]!r} on vLLM cannot share a worker with others")
    return bool(on_vllm)


def _prepare_gpu(device: torch.device) -> None:
    """Full float32 products, and a stream that graphs can be captured on. Talker and predictor go
    before the codec wherever both want the GPU.
    """
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.cuda.set_stream(torch.cuda.Stream(device, priority=-1))


def footprint(
    configs: dict[str, ModelConfig], decoders: dict[str, CodecDecoder], dtype: torch.dtype
) -> Footprint:
    """decoders by model; models may share one."""
    position_bytes: dict[Geometry, int] = {}
    kept_bytes = 0
    for model, config in configs.items():
        c = config.talker_config
        shape = geometry(c)
        position_bytes.setdefault(shape, token_bytes(shape, dtype))
        position_bytes[shape] += c.hidden_size * dtype.itemsize
        kept_bytes += MAX_PREFIX_TOKENS * token_bytes(shape, dtype)
        if config.tts_model_type == "base":
            kept_bytes += MAX_VOICES * _state_bytes(decoders[model])
    distinct = {id(decoder): decoder for decoder in decoders.values()}.values()
    return Footprint(sum(map(_state_bytes, distinct)), position_bytes, kept_bytes)


def _state_bytes(decoder: CodecDecoder) -> int:
    sizes = (torch.Size(shape).numel() for shape in decoder.state_shapes().values())
    return sum(sizes) * decoder.output_proj.weight.dtype.itemsize


def _codec_decoders(
    config: EngineConfig,
    checkpoints: dict[str, Checkpoint],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, CodecDecoder]:
    """One decoder per distinct codec file; the published checkpoints share theirs."""
    by_file: dict[str, CodecDecoder] = {}
    decoders = {}
    for model, checkpoint in checkpoints.items():
        path = Path(checkpoint.info.path)
        key = _digest(codec_weights(path)) if len(checkpoints) > 1 else ""
        if key not in by_file:
            decoder = load_codec(path, torch.float32 if device.type == "cpu" else dtype, device)
            if device.type == "cpu":
                pack_codec_(decoder, compiled=config.kernels in ("auto", "native"))
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
