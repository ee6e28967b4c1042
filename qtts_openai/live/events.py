"""What a live session reports, in the order in which it happens; `index` numbers its utterances."""

import msgspec

from engine import FRAME_S
from qtts_openai.answers import UsageAnswer
from qtts_openai.errors import ApiError
from qtts_openai.speech.words import Word


class Started(msgspec.Struct, frozen=True):
    index: int
    text: str  # so far


class Audio(msgspec.Struct, frozen=True):
    """`data` is encoded audio. It holds speech from second `start_s` of the utterance on, for
    `duration_s`. `words` are those that begin in it, by an estimate.
    """

    index: int
    data: bytes
    start_s: float
    duration_s: float
    words: list[Word] = []


class Words(msgspec.Struct, frozen=True):
    index: int
    words: list[Word]
    estimated: bool = True


class Finished(msgspec.Struct, frozen=True):
    """`text` is empty where there was nothing to say."""

    index: int
    text: str
    audio_s: float
    reason: str = "stop"
    num_ids: int = 0  # of the text

    def usage(self) -> UsageAnswer:
        return UsageAnswer.of(self.num_ids, round(self.audio_s / FRAME_S))


class Cancelled(msgspec.Struct, frozen=True):
    """`index` is of the utterance that was heard, None where nothing was under way."""

    index: int | None
    played_s: float
    text_spoken: str
    text_remaining: str


class Failed(msgspec.Struct, frozen=True):
    index: int
    error: ApiError
    has_audio: bool


Event = Started | Audio | Words | Finished | Cancelled | Failed
