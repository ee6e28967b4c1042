"""The speech engine: sequences, KV blocks, talker, codec. Knows nothing of HTTP, voices by name or
text.

Everything a caller may use is here.
"""

from engine.client import EngineClient, WorkerState
from engine.config import EMBEDDED, RENAMED_KEYS, Backend, EngineConfig, ModelSpec
from engine.errors import (
    CheckpointError,
    EngineDeadError,
    EngineError,
    GenerationFailedError,
    InvalidPromptError,
    QueueFullError,
)
from engine.protocol import (
    FRAME_S,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_FRAME,
    Finished,
    FinishReason,
    ModelInfo,
    Prompt,
    ReferenceAudio,
    SamplingParams,
    Stats,
    Timing,
    Usage,
)
from engine.spawn import spawn_early
from engine.speech_stream import SpeechStream

__all__ = [
    "EMBEDDED",
    "FRAME_S",
    "RENAMED_KEYS",
    "SAMPLES_PER_FRAME",
    "SAMPLE_RATE_HZ",
    "Backend",
    "CheckpointError",
    "EngineClient",
    "EngineConfig",
    "EngineDeadError",
    "EngineError",
    "FinishReason",
    "Finished",
    "GenerationFailedError",
    "InvalidPromptError",
    "ModelInfo",
    "ModelSpec",
    "Prompt",
    "QueueFullError",
    "ReferenceAudio",
    "SamplingParams",
    "SpeechStream",
    "Stats",
    "Timing",
    "Usage",
    "WorkerState",
    "spawn_early",
]
