"""The settings of an engine, fixed before it starts. Frozen; decoded from the `engine:` section of
config.yaml.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Quantization = Literal["none", "int8", "int4"]
PositiveInt = Annotated[int, Meta(ge=1)]
# Keys that were called otherwise before 0.2.0.
RENAMED_KEYS = {
    "weights": "quantization",
    "prefill_tokens": "max_num_batched_tokens",
    "max_tokens": "max_model_len",
    "replicas": "data_parallel_size",
}
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


Backend = Literal["own", "vllm"]

# Checkpoints that come with the project -> their folders in engine/data. They share one codec.
EMBEDDED = {
    "embedded": "custom_voice",
    "embedded-voice-design": "voice_design",
    "embedded-base": "base",
}


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One checkpoint to load.

    `checkpoint` is a local directory, a Hugging Face id, or one of EMBEDDED, which come with the
    project.
    """

    id: str
    checkpoint: str
    revision: str | None = None
    backend: Backend | None = None  # None: as engine.backend says


class VllmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of the vLLM backend alone; docs/vllm.md explains them."""

    tensor_parallel_size: Annotated[int, Meta(ge=1, le=64)] = 1
    quantization: str | None = None  # of the talker's layers: fp8, awq, ...
    kv_cache_dtype: str = "auto"
    max_num_batched_tokens: PositiveInt | None = None  # None: as engine.max_num_batched_tokens
    enforce_eager: bool = False
    runner: Literal["auto", "v1", "v2"] = "auto"
    extra: dict[str, Any] = {}  # vLLM's own names, passed on as they stand


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    # What runs the talker: our engine, or vLLM, which is an extra.
    backend: Backend = "own"
    vllm: VllmOptions = VllmOptions()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    # Layer weights of talker and predictor: full precision, weight-only int8, or (CPU) int4.
    # "auto": on a CPU int8 where full precision would be too slow for real time.
    quantization: Quantization | Literal["auto"] = "none"
    # Talker and predictor in plain torch, in Triton's kernels, or in the compiled decoder of
    # engine/native; "auto": Triton's on a GPU, the compiled one on a CPU that has it.
    kernels: Literal["auto", "torch", "triton", "native"] = "auto"
    # On a GPU, record steps as CUDA graphs; off to look for faults.
    cuda_graphs: bool = True
    # Utterances spoken at once. "auto": on a GPU by its free memory; on a CPU 32, but given no more
    # than it can speak in real time.
    max_num_seqs: Annotated[int, Meta(ge=1, le=4096)] | Literal["auto"] = "auto"
    max_queued: Annotated[int, Meta(ge=0)] = 64
    # Audio made for a listener who does not take it; then its utterance pauses, the others go on.
    max_unread_s: Annotated[float, Meta(ge=1)] = 30.0
    # "auto", or a size such as "512MB" or "4GiB"; all loaded checkpoints share it.
    kv_cache_memory: str = "auto"
    block_size: Literal[1, 2, 4, 8, 16, 32, 64, 128, 256] = 16
    # Most prompt tokens in one prefill step; a longer prompt is prefilled in several.
    max_num_batched_tokens: PositiveInt = 512
    # No utterance is longer than this many frames (12.5 per second), whatever a request asks.
    max_frames: PositiveInt = 8192
    # KV positions one sequence may have: prompt plus frames (the model's limit is 32768).
    max_model_len: Annotated[int, Meta(ge=64, le=32768)] = 32768
    # Frames reserved for an utterance whose text comes live, and how long it may wait for text
    # before it is brought to its end.
    open_text_frames: PositiveInt = 1000
    open_text_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    # Runaway guard when a request names no max_new_tokens: base + factor * expected frames.
    guard_frames_base: Annotated[int, Meta(ge=0)] = 40
    guard_factor: Annotated[float, Meta(ge=1)] = 3.0
    # Frames per codec chunk: small at first for early audio, then the last one to the end.
    chunk_ramp: Annotated[tuple[PositiveInt, ...], Meta(min_length=1)] = (1, 2, 4, 8, 12)
    # "official" restarts the codec every 300 frames as the official package does; for parity
    # checks.
    codec_mode: Literal["exact", "official"] = "exact"
    data_parallel_size: Annotated[int, Meta(ge=1, le=64)] = 1
    # Torch threads per worker; 0 measures at start.
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    # A worker that gives no sign of life for this long, or whose step takes this long, is killed
    # and started again.
    heartbeat_timeout_s: Annotated[float, Meta(ge=2)] = 5.0
    step_timeout_s: Annotated[float, Meta(gt=0)] = 120.0
    # Keep a process at hand that has imported torch (150 MB for each worker): restarts then take
    # as long as loading does, a few seconds less.
    standby: bool = False
    # An utterance of which nothing is heard for this long, waiting included, fails.
    request_timeout_s: Annotated[float, Meta(gt=0)] = 600.0

    def __post_init__(self) -> None:
        """What one value's bounds cannot say. ValueError; where a file is decoded, the decoder adds
        its path to the sentence.
        """
        if self.kv_cache_memory != "auto":
            parse_bytes(self.kv_cache_memory)
        if list(self.chunk_ramp) != sorted(self.chunk_ramp):
            raise ValueError(
                f"chunk_ramp is {list(self.chunk_ramp)}: chunks may grow, but not shrink"
            )


def parse_bytes(text: str) -> int:
    """ "512MB", "4GiB", "1000000" -> bytes. ValueError says what is accepted."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgG]?[iI]?[bB]?)\s*", text)
    unit = match.group(2).upper() if match else ""
    if match is None or unit not in UNITS:
        raise ValueError(
            f"kv_cache_memory is {text!r}: write auto, or a number with KB, MB, GB, KiB, MiB or GiB"
        )
    return int(float(match.group(1)) * UNITS[unit])


@dataclass(frozen=True, slots=True)
class Sampling:
    """SamplingParams with every default filled in. temperature 0 is greedy; top_k 0 and top_p 1 are
    off.
    """

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    subtalker_temperature: float
    subtalker_top_k: int
    subtalker_top_p: float
    seed: int
    ignore_eos: bool = False
