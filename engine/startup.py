"""From a configuration to a running EngineCore: device, dtype, threads, weights, memory. Says what
it chose.
"""

import hashlib
import logging
import os
import re
import time
from pathlib import Path

import torch

from engine.checkpoint import Checkpoint, load, load_codec, resolve
from engine.codec_runner import CodecRunner
from engine.config import EngineConfig, ModelSpec
from engine.core import EngineCore
from engine.errors import CheckpointError
from engine.layers.linear import Linear, WeightForm, can_pack
from engine.protocol import AudioChunk, Finished, Prompt, Ready, SamplingParams, Submit

log = logging.getLogger(__name__)

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
CPU_CACHE_SHARE, GPU_CACHE_SHARE = 0.25, 0.8
CPU_CACHE_MOST = 4 * 2**30
SMALL_MODEL_BYTES = 100 * 10**6
LEAST_TOKENS = 512  # a KV cache smaller than this cannot hold one utterance


def parse_bytes(text: str) -> int:
    """ "512MB", "4GiB", "1000000" -> bytes. ValueError says what is accepted."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgG]?[iI]?[bB]?)\s*", text)
    unit = match.group(2).upper() if match else ""
    if match is None or unit not in UNITS:
        raise ValueError(f"{text!r} is not a size: write a number with KB, MB, GB, KiB, MiB or GiB")
    return int(float(match.group(1)) * UNITS[unit])


def choose_device(config: EngineConfig) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(
            "engine.device is cuda, but torch sees no CUDA device; use auto or cpu"
        )
    use_cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda", 0) if use_cuda else torch.device("cpu")


def choose_dtype(config: EngineConfig, device: torch.device, paths: list[Path]) -> torch.dtype:
    """bfloat16 on a GPU, and on CPUs that multiply it in hardware unless all models are small:
    there it saves reading memory, and small weights stay in the cache. float32 elsewhere.
    """
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    if device.type == "cuda":
        return torch.bfloat16
    files = [path / "model.safetensors" for path in paths]
    large = any(file.exists() and file.stat().st_size >= SMALL_MODEL_BYTES for file in files)
    return torch.bfloat16 if large and _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def build(config: EngineConfig, models: list[ModelSpec]) -> tuple[EngineCore, Ready]:
    """Load everything, run one warm-up utterance per model. CheckpointError says what is wrong and
    where.
    """
    started = time.monotonic()
    device = choose_device(config)
    paths = {spec.id: resolve(spec) for spec in models}
    dtype = choose_dtype(config, device, list(paths.values()))
    if device.type == "cpu":
        torch.set_num_threads(config.threads or measure_threads(dtype))
    checkpoints = {}
    for spec in models:
        path = paths[spec.id]
        checkpoints[spec.id] = load(spec, path, dtype, device)
        log.info("loaded %s (%s) from %s", spec.id, checkpoints[spec.id].info.model_type, path)
        if checkpoints[spec.id].info.random_weights:
            log.warning("model %s has random weights: it will make noise, not speech", spec.id)
        transform_weights(checkpoints[spec.id], config, dtype, device)
    codecs = _codecs(config, checkpoints, dtype, device)
    caches = _kv_caches(config, checkpoints, dtype, device)
    core = EngineCore(config, checkpoints, caches, codecs)
    _warm_up(core)
    distinct = {id(cache): cache for cache in caches.values()}.values()
    ready = Ready(
        models=[c.info for c in checkpoints.values()],
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        num_blocks=sum(cache.shape[2] - 1 for cache in distinct),
        kv_cache_bytes=sum(cache.nbytes for cache in distinct),
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
        config.max_num_seqs,
    )
    return core, ready


def measure_threads(dtype: torch.dtype) -> int:
    """The number of torch threads with which a pass over many weights, a few rows at a time, is
    fastest right now: the machine's other load is part of the measurement.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    net = torch.nn.Sequential(*(Linear(1024, 1024) for _ in range(32))).to(dtype)
    for module in net:
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


def transform_weights(
    checkpoint: Checkpoint, config: EngineConfig, dtype: torch.dtype, device: torch.device
) -> None:
    """On a CPU, the decoder layers' weights into the configured form, everything else packed."""
    if device.type != "cpu" or not can_pack(dtype):
        if config.weights != "full":
            raise CheckpointError(f"engine.weights {config.weights} needs a CPU with bfloat16")
        return
    if config.weights != "full" and dtype != torch.bfloat16:
        raise CheckpointError(f"engine.weights {config.weights} needs engine.dtype bfloat16")
    layers: WeightForm = "packed" if config.weights == "full" else config.weights
    for net in (checkpoint.talker, checkpoint.predictor):
        for name, module in net.named_modules():
            if isinstance(module, Linear):
                module.transform_(layers if name.startswith("layers.") else "packed")


def _codecs(
    config: EngineConfig,
    checkpoints: dict[str, Checkpoint],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, CodecRunner]:
    """One codec runner per distinct codec file; the published checkpoints share theirs."""
    runners: dict[str, CodecRunner] = {}
    codecs = {}
    for model, checkpoint in checkpoints.items():
        path = Path(checkpoint.info.path)
        key = (
            _digest(path / "speech_tokenizer" / "model.safetensors") if len(checkpoints) > 1 else ""
        )
        if key not in runners:
            decoder = load_codec(path, torch.float32 if device.type == "cpu" else dtype, device)
            if device.type == "cpu" and can_pack(torch.float32):
                decoder.pack_()
            official = config.codec_mode == "official"
            runners[key] = CodecRunner(
                decoder, config.max_num_seqs, config.max_tokens, official=official
            )
        codecs[model] = runners[key]
    return codecs


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kv_caches(
    config: EngineConfig,
    checkpoints: dict[str, Checkpoint],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """One cache per distinct KV geometry, sharing the budget equally; models of one geometry share
    a cache.
    """
    geometry = {}
    for model, checkpoint in checkpoints.items():
        c = checkpoint.config.talker_config
        geometry[model] = (c.num_hidden_layers, c.num_key_value_heads, c.head_dim)
    budget = _cache_budget(config, device) // len(set(geometry.values()))
    caches = {}
    for layers, heads, dim in sorted(set(geometry.values())):
        block_bytes = 2 * layers * config.block_size * heads * dim * dtype.itemsize
        most = config.max_num_seqs * -(-config.max_tokens // config.block_size)
        num_blocks = min(budget // block_bytes, most)
        if num_blocks < min(most, LEAST_TOKENS // config.block_size):
            raise CheckpointError(
                f"engine.kv_cache_memory leaves {budget} bytes for a KV cache, which needs "
                f"at least {LEAST_TOKENS * block_bytes // config.block_size}: raise it"
            )
        shape = (layers, 2, num_blocks + 1, config.block_size, heads, dim)  # one for padding
        caches[layers, heads, dim] = torch.zeros(shape, dtype=dtype, device=device)
    return {model: caches[shape] for model, shape in geometry.items()}


def _cache_budget(config: EngineConfig, device: torch.device) -> int:
    if config.kv_cache_memory != "auto":
        return parse_bytes(config.kv_cache_memory)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * GPU_CACHE_SHARE)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(int(free * CPU_CACHE_SHARE), CPU_CACHE_MOST)


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
    told = []
    while core.has_work:
        told += core.step()
    assert sum(isinstance(fact, Finished) for fact in told) == len(core.checkpoints), (
        "warm-up failed"
    )
    assert any(isinstance(fact, AudioChunk) for fact in told), "warm-up made no audio"
    core.num_steps = core.num_frames = 0
    core.scheduler.prefill_s_per_token.clear()  # a cold run's costs are nobody's
