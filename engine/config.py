"""What an engine is told before it starts. Frozen; decoded from the `engine:` section of
config.yaml.
"""

from typing import Literal

import msgspec


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One checkpoint to load.

    `checkpoint` is a local directory, a Hugging Face id, or "embedded" for the one that comes with
    the project.
    """

    id: str
    checkpoint: str
    revision: str | None = None


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    # Layer weights of talker and predictor: full precision, weight-only int8, or (CPU) int4.
    weights: Literal["full", "int8", "int4"] = "full"
    # Talker and predictor in plain torch, or in Triton's kernels; "auto": kernels on a GPU.
    kernels: Literal["auto", "torch", "triton"] = "auto"
    # On a GPU, record steps as CUDA graphs; off to look for faults.
    cuda_graphs: bool = True
    # Utterances spoken at once. "auto": 32 on a CPU, on a GPU by its free memory.
    max_num_seqs: int | Literal["auto"] = "auto"
    max_queued: int = 64
    # Audio made for a listener who does not take it; then its utterance pauses, the others go on.
    max_unread_s: float = 30.0
    # "auto", or a size such as "512MB" or "4GiB"; all loaded checkpoints share it.
    kv_cache_memory: str = "auto"
    block_size: int = 16
    # Most prompt tokens in one prefill step; a longer prompt is prefilled in several.
    prefill_tokens: int = 512
    # No utterance is longer than this many frames (12.5 per second), whatever a request asks.
    max_frames: int = 8192
    # KV positions one sequence may have: prompt plus frames (the model's limit is 32768).
    max_tokens: int = 32768
    # Frames reserved for an utterance whose text comes live.
    open_text_frames: int = 3000
    # Runaway guard when a request names no max_new_tokens: base + factor * expected frames.
    guard_frames_base: int = 40
    guard_factor: float = 3.0
    # Frames per codec chunk: small at first for early audio, then the last one for ever.
    chunk_ramp: tuple[int, ...] = (1, 2, 4, 8, 12)
    # "official" restarts the codec every 300 frames as the official package does; for parity
    # checks.
    codec_mode: Literal["exact", "official"] = "exact"
    replicas: int = 1
    # Torch threads per worker; 0 measures at start.
    threads: int = 0
