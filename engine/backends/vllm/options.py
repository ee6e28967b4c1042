"""EngineConfig -> the arguments vLLM is started with. What does not work with this talker, or would
contradict what the engine decides itself, is refused with a sentence.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from engine.config import EngineConfig
from engine.errors import CheckpointError
from engine.loader.checkpoint import Checkpoint
from engine.loader.memory import Footprint, geometry
from engine.models.config import TalkerConfig

# Read by vLLM when it is imported. One process where there is one rank: frames are then read
# without being sent. Nobody is told what runs here.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
CPU_BLOCK_SIZE = 32  # its attention wants multiples
ROWS_STAY = "moves KV blocks between processes, and the frames that belong to them stay"
CONTEXT = "cannot work: a frame's input lies on one rank"
REFUSED = {
    "pipeline_parallel_size": "cannot work: the next frame's input needs the last layer's result",
    "speculative_config": "cannot work: a draft of a frame's first code lacks the other 15",
    "kv_transfer_config": ROWS_STAY,
    "kv_offloading_size": ROWS_STAY,
    "decode_context_parallel_size": CONTEXT,
    "prefill_context_parallel_size": CONTEXT,
    "data_parallel_size": "is engine.data_parallel_size",
    "gpu_memory_utilization": "is engine.kv_cache_memory",
    "num_gpu_blocks_override": "is engine.kv_cache_memory",
    "enable_lora": "is not supported",
    "enable_prompt_embeds": "would take the place of the engine's own inputs",
}


def uses_v1(config: EngineConfig, device: torch.device) -> bool:
    """vLLM's V2 runner is made of Triton kernels: "auto" takes it on a GPU."""
    runner = config.vllm.runner
    return runner == "v1" or (runner == "auto" and device.type == "cpu")


def needs(
    config: EngineConfig, checkpoint: Checkpoint, dtype: torch.dtype, others: Footprint, free: int
) -> tuple[Footprint, int]:
    """What the model takes beside its weights, and the memory that these will leave."""
    c = checkpoint.config.talker_config
    tables = c.hidden_size * dtype.itemsize + 2 * c.num_code_groups
    position = {geometry(c): position_bytes(c, config, dtype) + tables}
    file = Path(checkpoint.info.path) / "model.safetensors"
    weights = file.stat().st_size * dtype.itemsize // 2 // config.vllm.tensor_parallel_size
    return replace(others, position_bytes=position), free - weights


def prepare_environment(config: EngineConfig, device: torch.device) -> None:
    """Before vLLM is imported."""
    os.environ.update(ENVIRONMENT)
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0" if uses_v1(config, device) else "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would take the place of our plan


def with_own_gpus(config: EngineConfig, first: int) -> EngineConfig:
    """Before torch looks for GPUs: from the `first` on, as many as there are ranks, are all that
    this process sees, and no replica's but its own.
    """
    if first == 0 and config.data_parallel_size == 1:
        return config
    end = first + config.vllm.tensor_parallel_size
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = [str(i) for i in range(end)] if named is None else named.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(ids[first:end])
    return msgspec.structs.replace(config, data_parallel_size=1)


def adjusted(config: EngineConfig, device: torch.device) -> EngineConfig:
    """With a block size that vLLM's attention takes on that device."""
    if config.kernels == "native":
        raise CheckpointError(
            "engine.kernels is native, which has layers of the own engine; with engine.backend "
            "vllm it can be auto, torch or triton"
        )
    if device.type != "cpu":
        seen, wanted = torch.cuda.device_count(), config.vllm.tensor_parallel_size
        if seen < wanted:
            raise CheckpointError(
                f"engine.vllm.tensor_parallel_size is {wanted}, and {seen} GPU(s) are left for it: "
                "lower it, or engine.data_parallel_size, or make more of them visible"
            )
        return config
    size = max(config.block_size, CPU_BLOCK_SIZE)
    return msgspec.structs.replace(config, block_size=size)


def position_bytes(c: TalkerConfig, config: EngineConfig, dtype: torch.dtype) -> int:
    """Of one KV position on one rank."""
    heads = max(1, c.num_key_value_heads // config.vllm.tensor_parallel_size)
    size = 1 if config.vllm.kv_cache_dtype.startswith("fp8") else dtype.itemsize
    return 2 * c.num_hidden_layers * heads * c.head_dim * size


def arguments(
    config: EngineConfig,
    path: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    num_rows: int,
    num_blocks: int,
    block_bytes: int,
) -> dict[str, Any]:
    """For EngineArgs. block_bytes: of one KV block on one rank.

    CheckpointError names a key that asks for what is not there.
    """
    options, size = config.vllm, config.block_size
    num_tokens = options.max_num_batched_tokens or config.max_num_batched_tokens
    v1 = uses_v1(config, device)
    ours = {
        "model": path,
        "dtype": str(dtype).removeprefix("torch."),
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "max_num_seqs": num_rows,
        "max_model_len": min(config.max_model_len, num_blocks * size),
        # A step holds a token of every running sequence, and what is left of prompts.
        "max_num_batched_tokens": max(num_tokens, num_rows + 1),
        "block_size": size,
        "kv_cache_memory_bytes": (num_blocks + 1) * block_bytes,  # vLLM keeps one for itself
        "tensor_parallel_size": options.tensor_parallel_size,
        "quantization": options.quantization,
        "kv_cache_dtype": options.kv_cache_dtype,
        "enforce_eager": options.enforce_eager,
        "worker_extension_cls": "engine.backends.vllm.worker.TalkerExtension",
        "logits_processors": ["engine.backends.vllm.runner_v1:RowOfRequest"] if v1 else None,
    }
    for key in options.extra:
        reason = REFUSED.get(key, "is set by the engine" if key in ours else None)
        if reason is not None:
            raise CheckpointError(f"engine.vllm.extra.{key}: {key} {reason}; take it out")
    if v1 and device.type != "cpu" and not options.enforce_eager:
        raise CheckpointError(
            "engine.vllm.runner is v1, which on a GPU works without graphs only: set "
            "engine.vllm.enforce_eager to true, or the runner to v2"
        )
    return ours | {"enable_prefix_caching": True} | options.extra
