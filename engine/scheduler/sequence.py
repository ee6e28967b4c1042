"""One utterance in the engine: its prompt, its row and blocks, and how far it is. No torch."""

import enum
from dataclasses import dataclass, field

import msgspec

from engine.config import Sampling
from engine.protocol import FRAME_S, FinishReason, Prompt, Timing


class SequenceStatus(enum.Enum):
    WAITING = enum.auto()  # no row, no blocks
    RUNNING = enum.auto()  # owns a row and all the blocks it may ever need
    FINISHED = enum.auto()


@dataclass(eq=False, slots=True)
class Sequence:
    """Positions: the prompt fills 0..num_prompt_tokens-1; frame k is sampled from the state at
    position num_prompt_tokens - 1 + k and, if speech goes on, fed back at position
    num_prompt_tokens + k.

    Trailing text: row k joins the input that feeds frame k back; after the last one comes padding,
    or, while `text_open`, the sequence waits.
    """

    id: int
    model: str
    prompt: Prompt
    sampling: Sampling
    num_prompt_tokens: int
    max_frames: int
    num_trailing: int = 0
    text_open: bool = False
    num_appended: int = 0  # ids that came after it had started
    waiting_since: float | None = None  # since when its next frame lacks a text row
    held: bool = False  # its listener has not taken what was made
    is_alone: bool = False  # its caller has no other under way
    guarded: bool = False  # the frame budget is the runaway guard, not a request

    status: SequenceStatus = SequenceStatus.WAITING
    finish_reason: FinishReason | None = None
    row: int = -1
    block_table: list[int] = field(default_factory=list)
    num_prefilled: int = 0
    num_scheduled: int = 0  # frames begun; the last of them may still be under way
    num_frames: int = 0  # frames taken
    codes: list[list[int]] = field(default_factory=list)  # frames not yet decoded to audio
    num_chunks: int = 0
    num_emitted_frames: int = 0
    # When the listener began to play, as if without a pause since; None before the first audio.
    playback_started_at: float | None = None
    overtaken: int = 0
    timing: Timing = field(default_factory=Timing)

    @property
    def num_tokens(self) -> int:
        """KV positions this sequence may ever write."""
        return self.num_prompt_tokens + self.max_frames

    @property
    def is_prefilled(self) -> bool:
        return self.num_prefilled == self.num_prompt_tokens

    @property
    def may_speak(self) -> bool:
        """Another frame may be begun."""
        return self.num_scheduled < self.max_frames and not self.is_paused

    @property
    def is_paused(self) -> bool:
        """Nothing can be done for it until a message comes."""
        return self.held or self.waits_for_text

    @property
    def waits_for_text(self) -> bool:
        """The next input needs a text row that has not come yet."""
        return self.text_open and self.num_scheduled > self.num_trailing

    def append_text(self, ids: tuple[int, ...], *, final: bool, started: bool) -> None:
        """Note text that came: before the start it belongs to the prompt."""
        if started:
            self.num_appended += len(ids)
        else:
            text = self.prompt.text + ids
            self.prompt = msgspec.structs.replace(self.prompt, text=text, text_open=not final)
        self.num_trailing += len(ids) + final
        self.text_open = not final

    @property
    def num_text_read(self) -> int:
        """Ids of the text that have gone into frames: the first with the prompt, then one each."""
        return min(max(1, self.num_frames), len(self.prompt.text) + self.num_appended)

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    def buffered_s(self, now: float) -> float:
        """Seconds of audio that were sent and that a listener in real time has not heard yet:
        negative once playback has run dry, infinite before the first chunk.
        """
        if self.playback_started_at is None:
            return float("inf")
        return self.num_emitted_frames * FRAME_S - (now - self.playback_started_at)

    def lead_s(self, now: float) -> float:
        """Seconds of speech, audio or codes, that a listener in real time has not heard yet."""
        sent_s = 0.0 if self.playback_started_at is None else self.buffered_s(now)
        return sent_s + len(self.codes) * FRAME_S

    def note_emitted(self, num_frames: int, now: float) -> None:
        """Note a chunk of audio that was sent. If playback had run dry, it goes on from here."""
        heard_s = self.num_emitted_frames * FRAME_S
        if self.playback_started_at is None or now - self.playback_started_at > heard_s:
            self.playback_started_at = now - heard_s
        self.num_emitted_frames += num_frames
        self.num_chunks += 1
