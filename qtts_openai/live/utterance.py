"""The text between two flushes, cut into pieces that the engine speaks one after the other."""

import asyncio
import hashlib
import re
import time
from collections import deque

from qtts_openai.live.voice import LiveVoice
from qtts_openai.settings import LiveSettings
from qtts_openai.speech.words import WordClock
from qtts_openai.text.duration_estimate import seconds_of
from qtts_openai.text.pauses import Part

_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*\Z")
_CLAUSE_END = re.compile(r"[,;:\uff0c\uff1b\uff1a\u3001\n]\Z")
# Of what a model can hold together, and of the frames there are: where the next end of a sentence,
# of a clause and of a word is the end of a piece.
_SHARES = (0.6, 1.0, 1.5)
# An id is a frame at least: so much of the frames is for text.
_SHARE_OF_IDS = 0.5


class Piece:
    """One text, or seconds of silence. If more of its text comes after its engine sequence has
    ended, another sequence speaks the rest. `ids`: those that no sequence has been given yet.
    """

    def __init__(self, silence_s: float = 0.0) -> None:
        self.silence_s = silence_s
        self.text = ""
        self.ids: list[int] = []
        self.num_ids = 0
        self.num_words = self.last_word = 0  # of its own, of the utterance
        self.is_whole = silence_s > 0
        self.began_at: float | None = None  # when its first word was there
        self.audio_s = 0.0


class Utterance:
    """`as_file`: its sound is one file, sent when it is whole."""

    def __init__(
        self,
        index: int,
        voice: LiveVoice,
        settings: LiveSettings,
        by_sentence: bool,
        as_file: bool = False,
    ) -> None:
        self.index, self.as_file = index, as_file
        self.file = bytearray()
        self.text = ""
        self.sha256 = hashlib.sha256()  # of the text as it came
        self.pieces: deque[Piece] = deque()
        self.num_ids = 0
        self.is_flushed = False
        self.audio_s = 0.0  # made so far
        self.sent_s = 0.0  # handed to the client
        self.starts_at: float | None = None  # when the client began to hear it, at the earliest
        self.offset_s = 0.0  # audio of the session before it
        self.first_text_at: float | None = None
        self.news = asyncio.Event()
        self.voice, self.by_sentence = voice, by_sentence
        self.clock = WordClock(voice.request.speed)
        self._feed = voice.feed()
        chars = voice.segment_chars or float("inf")
        max_ids = max(8, voice.service.settings.engine.open_text_frames * _SHARE_OF_IDS)
        self._limits = [
            (
                share * chars,
                share / _SHARES[0] * settings.cut_after_s,
                share / _SHARES[-1] * max_ids,
            )
            for share in _SHARES
        ]

    @property
    def held(self) -> str:
        """Text at the end whose reading may depend on what comes next."""
        return self._feed.held.strip()

    @property
    def num_held(self) -> int:
        """Characters that are not on their way to the engine."""
        waiting = sum(len(piece.text) for piece in self.pieces if piece.ids)
        return len(self._feed.held) + waiting

    def append(self, text: str) -> None:
        if self.first_text_at is None and text.strip():
            self.first_text_at = time.monotonic()
        self.sha256.update(text.encode())
        for part in self._feed.push(text):
            self._add(part)
        self.news.set()

    def flush(self) -> None:
        for part in self._feed.close():
            self._add(part)
        self._end_piece()
        self.is_flushed = True
        self.news.set()

    def _add(self, part: Part) -> None:
        if isinstance(part, float):
            self._end_piece()
            self.pieces.append(Piece(part))
            self.pieces[-1].last_word = self.clock.num_words
            return
        follows_pause = bool(self.pieces) and self.pieces[-1].silence_s > 0
        piece = self._open_piece()
        said = f" {part}" if follows_pause and self.text else part
        self.text += said
        self.clock.say(said)
        piece.last_word = self.clock.num_words
        if not piece.text:
            part = part.lstrip()
        ids = self.voice.ids(part)
        piece.text += part
        piece.ids += ids
        piece.num_ids += len(ids)
        self.num_ids += len(ids)
        piece.num_words += len(part.split())
        piece.began_at = piece.began_at or time.monotonic()
        if self._is_full(piece):
            self._end_piece()

    def _open_piece(self) -> Piece:
        if not self.pieces or self.pieces[-1].is_whole:
            self.pieces.append(Piece())
        return self.pieces[-1]

    def _end_piece(self) -> None:
        if self.pieces:
            self.pieces[-1].is_whole = True

    def _is_full(self, piece: Piece) -> bool:
        text, seconds = piece.text, sum(map(seconds_of, piece.text))
        at_sentence, at_clause, at_word = (
            len(text) >= chars or seconds >= most_s or piece.num_ids >= ids
            for chars, most_s, ids in self._limits
        )
        if _SENTENCE_END.search(text) and (at_sentence or self.by_sentence):
            return True
        return (at_clause and _CLAUSE_END.search(text) is not None) or at_word

    async def next_piece(self) -> Piece | None:
        """The next with something in it; None at the end."""
        while not self.pieces:
            if self.is_flushed:
                return None
            self.news.clear()
            await self.news.wait()
        return self.pieces[0]

    def end_first_piece(self) -> None:
        """Drop the first piece, which has been spoken."""
        self.clock.end(self.pieces.popleft().last_word)

    def heard_s(self, now: float) -> float:
        """Seconds that a client can have heard at most, if it plays audio as it arrives."""
        if self.starts_at is None:
            return 0.0
        return min(self.sent_s, max(0.0, now - self.starts_at))
