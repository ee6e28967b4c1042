"""The seam behind EngineCore: the contract of what makes frames of codes.

In: Sequences. Out: Steps: which sequences started or failed, and frames, 16 codes each. EngineCore
keeps messages, voices, the codec and statistics; an implementation of TalkerEngine keeps rows, KV
memory, scheduling and the nets. Ours is OwnTalkerEngine. Every implementation must pass
tests/engine/runner/test_talker_contract.py.

The life of a sequence: add -> [a row becomes free] -> started -> frames ... -> end -> finish.

What a caller may rely on
- Every sequence that was added appears once in `Step.started` or `Step.failed`, unless it was
  finished before. `started` comes with or before its first frame. From then until `finish` its row
  (`seq.row`, below `Capacity.num_rows`) is its own: the codec's state lies in the same row.
- Frames of a sequence come in order, each once: 16 codes, or None in place of the frame whose first
  code was the end token. After None, or after `seq.max_frames` frames, nothing more comes.
- Codes depend on the prompt, the voice, the sampling parameters and the seed alone (in float32):
  not on which other sequences run, nor on how prompts are cut.
- While `seq.text_open`, no frame is begun that needs a text row which has not been appended.
- `finish` works at any time, twice too. It gives back everything at once; frames that were begun
  for the sequence are dropped and never returned.
- A sequence that cannot be started appears in `Step.failed` with its error; others go on. Any other
  exception of `step` means that the whole engine is lost.

What an implementation may rely on
- One thread calls. Ids are unique among sequences that are not finished.
- A sequence fits: num_prompt_tokens + max_frames <= Capacity.max_tokens of its model.
- Once a sequence has ended (None, or its last frame), the caller finishes it before the next step.

What `step` may block on: the device, for frames begun in an earlier step, and, in a step that
begins no frame, for all that are left. Never on other threads, sockets or the caller. Frames may be
returned one step after they were begun; `Step.in_flight` says that some are still to come.
"""

from dataclasses import dataclass, field
from typing import Protocol

from engine.protocol import FinishReason
from engine.runner.prompt_embeds import VoicePrompt
from engine.scheduler.sequence import Sequence


@dataclass(frozen=True)
class Capacity:
    """Of one model. Models may share rows and blocks, which then are in the capacity of each."""

    num_rows: int  # sequences at once
    max_tokens: int  # KV positions that one sequence may have


@dataclass(frozen=True)
class Step:
    """What one step has to tell."""

    started: list[Sequence] = field(default_factory=list)
    frames: list[tuple[Sequence, list[int] | None]] = field(default_factory=list)  # oldest first
    failed: list[tuple[Sequence, Exception]] = field(default_factory=list)
    in_flight: bool = False


@dataclass(frozen=True)
class TalkerStats:
    """Now, and (steps and seconds) since the start or the last reset."""

    num_waiting: int
    num_running: int
    num_free_rows: int
    num_rows: int
    num_free_blocks: int
    num_blocks: int
    num_steps: int
    prefill_s: float
    decode_s: float
    num_preemptions: int = 0
    num_prefix_cache_queries: int = 0  # prompt tokens, as vLLM counts them
    num_prefix_cache_hits: int = 0


class TalkerEngine(Protocol):
    """One or more checkpoints; `seq.model` says whose turn it is."""

    def capacity(self, model: str) -> Capacity: ...

    @property
    def kv_cache_bytes(self) -> int: ...

    def add(self, seq: Sequence, voice: VoicePrompt | None) -> None:
        """Queue a sequence. `voice`: what its reference recording became."""

    def append(self, seq: Sequence, ids: tuple[int, ...], *, final: bool) -> None:
        """More text for a sequence whose text is open, queued or running; `final` ends it."""

    def finish(self, seq: Sequence, reason: FinishReason) -> None:
        """End a sequence wherever it stands (an abort too) and give back all it owns."""

    def forget_reference(self, key: str) -> None:
        """Keep nothing of prompts with that reference, for which there is no sequence now."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do something: not while every sequence waits for its text."""

    def step(self) -> Step: ...

    def stats(self) -> TalkerStats: ...

    def reset_stats(self) -> None:
        """Forget counts, seconds and learnt costs: those of a warm-up say nothing of later."""

    def check_integrity(self) -> None:
        """When idle: every row and block is back. AssertionError if not."""

    def close(self) -> None:
        """Nothing is asked of it any more."""
