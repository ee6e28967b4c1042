"""The messages between EngineClient and its worker, and the records that both use.

Commands go in (Start, Submit, Append, Hold, Abort, RegisterVoice, ForgetVoice, Embed, Shutdown),
reports come out (Ready, AudioChunk, Finished, Failed, Embedding, Stats, Heartbeat, Fatal). Each is
a tagged msgspec Struct, sent as msgpack behind its length (4 bytes, little-endian). Only ids,
numbers and PCM cross: text is tokenised before, audio is encoded after.

Units: audio is 16-bit mono PCM at 24,000 samples a second; a frame is 16 codes, which the codec
makes into 1,920 samples (80 ms).
"""

import enum
import struct
from typing import Literal

import msgspec

from engine.config import EngineConfig, ModelSpec

# In front of every message: its length in bytes.
HEADER = struct.Struct("<I")

SAMPLE_RATE_HZ = 24_000
SAMPLES_PER_FRAME = 1_920
FRAME_S = SAMPLES_PER_FRAME / SAMPLE_RATE_HZ
# Speech per text token at an ordinary pace, where nobody says how long a text takes.
FRAMES_PER_TOKEN = 4
# Reference recordings a worker keeps per model; the client forgets in the same order, so both agree
# on what is there.
MAX_VOICES = 64


class FinishReason(enum.Enum):
    STOP = "stop"  # the model ended the utterance
    LENGTH = "length"  # the frame budget ran out: a long request, or a runaway
    ABORT = "abort"  # the listener left
    ERROR = "error"


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """None means: as in the checkpoint's generation_config.json. temperature 0 is greedy for both
    nets.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    subtalker_temperature: float | None = None
    subtalker_top_k: int | None = None
    subtalker_top_p: float | None = None
    # Same seed, same codes, alone and in any batch (fp32). None: a random one.
    seed: int | None = None
    # Most codes of codebook 0 to sample, the end token included; N of them allow N - 1 frames.
    max_new_tokens: int | None = None
    ignore_eos: bool = False


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """Ids for one utterance. The engine knows nothing about text.

    role             the three ids of "<|im_start|>assistant\\n"
    text             ids of the text to speak, without template
    instruct         ids of the whole "<|im_start|>user\\n...<|im_end|>\\n" block, or empty
    language_id      codec row of the language, or None for auto
    speakers         (codec row, weight); weights sum to 1; empty for VoiceDesign and Base
    reference        key of a registered reference recording (Base), or None
    reference_text   ids of what the recording says: clone in context; empty: speaker embedding only
    streaming_text   one text token per frame, not the whole text before the first frame
    text_open        with streaming_text: more text follows by Append
    expected_frames  how long the text is to speak, for the runaway guard; 0: judged by its ids
    """

    role: tuple[int, ...]
    text: tuple[int, ...]
    instruct: tuple[int, ...] = ()
    language_id: int | None = None
    speakers: tuple[tuple[int, float], ...] = ()
    reference: str | None = None
    reference_text: tuple[int, ...] = ()
    streaming_text: bool = False
    text_open: bool = False
    expected_frames: float = 0.0


class ReferenceAudio(msgspec.Struct, frozen=True):
    """`samples`: float32 little-endian mono at 24 kHz; `key` identifies the content (a hash).
    `embedding`: the speaker embedding itself, as float32, in place of samples to hear it from.
    """

    key: str
    samples: bytes
    embedding: bytes = b""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the HTTP side must know about one loaded checkpoint."""

    id: str
    path: str  # resolved local directory: tokenizer files are read from here
    model_type: Literal["custom_voice", "voice_design", "base"]
    model_size: str  # as in config.json: "0b6" or "1b7" where it is a published one
    speakers: dict[str, int]  # lower-case name -> codec row
    # Speakers that speak a dialect where the language is auto or Chinese -> its language name.
    speaker_dialects: dict[str, str]
    languages: dict[str, int]  # lower-case name -> codec row
    supports_instruct: bool
    random_weights: bool = False  # a made-up checkpoint: it makes noise
    embedding_size: int = 0  # numbers in a speaker embedding; 0 where the model takes none
    # What makes its speakers equally loud, where that is known.
    speaker_gains_db: dict[str, float] = {}
    uses_ref_text: bool = True  # whether a clone gains by what its reference says
    max_frames: int = 8192  # of one utterance, whatever a request asks


class Measured(msgspec.Struct, frozen=True):
    """What a worker measured at its start, and the next one need not measure again."""

    threads: int  # torch's
    num_places: int  # utterances that it should be given at once; at most its rows


class Usage(msgspec.Struct, frozen=True):
    num_prompt_tokens: int
    num_frames: int


# ---- verbs in ----


class Start(msgspec.Struct, frozen=True, tag=True):
    config: EngineConfig
    models: list[ModelSpec]
    replica: int = 0  # of config.data_parallel_size: on GPUs, each has the device of its number
    measured: Measured | None = None


class Submit(msgspec.Struct, frozen=True, tag=True):
    id: int
    model: str
    prompt: Prompt
    params: SamplingParams
    # Seconds of the utterance before this one that its listener has not heard yet.
    buffered_s: float = 0.0
    is_alone: bool = False  # its caller has no other utterance under way


class Append(msgspec.Struct, frozen=True, tag=True):
    """More text for a sequence whose prompt said text_open. `final`: no more will come."""

    id: int
    text: tuple[int, ...]
    final: bool


class Hold(msgspec.Struct, frozen=True, tag=True):
    """Begin no more frames of a sequence while `held`, because its listener is behind."""

    id: int
    held: bool


class Abort(msgspec.Struct, frozen=True, tag=True):
    id: int


class RegisterVoice(msgspec.Struct, frozen=True, tag=True):
    model: str
    reference: ReferenceAudio


class ForgetVoice(msgspec.Struct, frozen=True, tag=True):
    """Drop whatever is kept of a reference recording, for all models."""

    key: str


class Embed(msgspec.Struct, frozen=True, tag=True):
    """Ask for a model's speaker embedding of a recording (float32, mono, 24 kHz), of which nothing
    is kept. Answered by Embedding or Failed.
    """

    id: int
    model: str
    samples: bytes


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    pass


# ---- facts out ----


class Check(msgspec.Struct, frozen=True):
    """A kernel or a graph compared with the plain torch that it replaces, at start-up."""

    name: str
    error: str = ""  # what it raised
    difference: float = 0.0  # the largest, as a part of the largest value; of codes: their share
    allowed: float = 0.0
    seconds: float = 0.0
    plain_seconds: float = 0.0

    @property
    def fault(self) -> str:
        """Why its results cannot be used, or nothing."""
        if self.error:
            return f"it does not run: {self.error}"
        if not self.difference <= self.allowed:  # NaN is a fault, too
            return f"it differs by {self.difference:.2g}, where {self.allowed:g} may be"
        return ""

    @property
    def is_slower(self) -> bool:
        return self.seconds > 1.1 * self.plain_seconds


class Ready(msgspec.Struct, frozen=True, tag=True):
    models: list[ModelInfo]
    device: str
    dtype: str
    num_rows: int
    measured: Measured
    num_blocks: int
    kv_cache_bytes: int
    load_s: float
    checks: list[Check] = []  # on a GPU


class Timing(msgspec.Struct):
    """When the stages of an utterance began, by time.monotonic, which all processes of a machine
    share; 0 where that is not known.
    """

    received: float = 0.0
    started: float = 0.0  # its prefill; from here on it has a row
    prefilled: float = 0.0
    framed: float = 0.0  # its first frame is there


class AudioChunk(msgspec.Struct, frozen=True, tag=True):
    id: int
    pcm: bytes  # int16 little-endian mono 24 kHz
    timing: Timing | None = None  # with the first one


class Finished(msgspec.Struct, frozen=True, tag=True):
    """`num_text`: ids of the text that went into frames, where it streams; the others, sent too
    late or beyond the frame budget, were not spoken.
    """

    id: int
    reason: FinishReason
    usage: Usage
    num_text: int = 0


class Failed(msgspec.Struct, frozen=True, tag=True):
    """`kind` picks the error class: "invalid_prompt" (with `param`) or "generation"."""

    id: int
    kind: Literal["invalid_prompt", "generation"]
    message: str
    param: str | None = None


class Embedding(msgspec.Struct, frozen=True, tag=True):
    id: int
    numbers: bytes  # float32


class Stats(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Sent about once a second while busy, and when the worker falls idle."""

    num_waiting: int
    num_running: int
    num_free_blocks: int
    num_blocks: int
    num_free_rows: int
    num_rows: int
    num_steps: int
    num_frames: int
    num_runaways: int
    num_preemptions: int = 0  # by vLLM, which should have no need
    num_prefix_cache_queries: int = 0  # tokens of the prompts that were begun
    num_prefix_cache_hits: int = 0  # of them known from a prompt before, and not prefilled again
    prefill_s: float  # seconds since start, by stage
    decode_s: float
    codec_s: float


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """Sent once a second from Ready on, whatever the worker does."""

    step_s: float  # how long the step that runs now has been running; 0 between steps


class Fatal(msgspec.Struct, frozen=True, tag=True):
    """The worker cannot go on (or start); `message` is for people. The process ends after it."""

    message: str


Inbound = Start | Submit | Append | Hold | Abort | RegisterVoice | ForgetVoice | Embed | Shutdown
Outbound = Ready | AudioChunk | Finished | Failed | Embedding | Stats | Heartbeat | Fatal
