"""LiveSession: what all dialects are translations of.

Verbs go in (append, flush, cancel, close) and never wait; events come out, in order:

    Started -> Audio ... -> Words -> Finished     for each utterance that was flushed
    Cancelled                                     after which nothing of what was cancelled comes
    Failed                                        in place of the rest of an utterance

An utterance is the text up to a flush. Utterances are spoken one after the other, and the text of
one may come while it is spoken: the engine has a place for it from its first words on, until it is
whole or nothing has come for `engine.open_text_timeout_s`.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from engine import SAMPLE_RATE_HZ, EngineError, FinishReason, SpeechStream
from qtts_openai.errors import ApiError, as_api_error, invalid
from qtts_openai.http.turns import Turn
from qtts_openai.live.events import Audio, Cancelled, Event, Failed, Finished, Started, Words
from qtts_openai.live.playback import Playback
from qtts_openai.live.trails import Trails
from qtts_openai.live.utterance import Piece, Utterance
from qtts_openai.live.voice import LiveVoice, OpenTexts
from qtts_openai.speech.encoders import AudioEncoder
from qtts_openai.speech.loudness import amplify

logger = logging.getLogger(__name__)

BYTES_PER_S = SAMPLE_RATE_HZ * 2
SILENCE_S = 0.25  # at once


class LiveSession:
    """`by_sentence`: only whole sentences go to the engine, as always with a voice that cannot take
    text while it speaks. `as_file`: the audio of an utterance is one file, sent when it is whole.
    """

    def __init__(
        self,
        voice: LiveVoice,
        open_texts: OpenTexts,
        by_sentence: bool = False,
        dialect: str = "",
        as_file: bool = False,
    ) -> None:
        self.voice, self._open_texts, self._dialect = voice, open_texts, dialect
        self.settings, self._metrics = voice.service.settings.live, voice.service.metrics
        self.by_sentence, self.as_file = by_sentence or not voice.is_live, as_file
        self._trails = Trails()
        self._utterances: deque[Utterance] = deque()  # not spoken to the end
        self._playback = Playback()
        self._events: deque[Event] = deque()
        self._news, self._room, self._text_news = (asyncio.Event() for _ in range(3))
        self._unsent_s = self._offset_s = 0.0
        self._num_utterances = 0
        self._closed = self._is_in_engine = False
        self._task = asyncio.create_task(self._run())

    # ---- verbs ----

    def append(self, text: str) -> None:
        """ApiError where more is held than a session may."""
        held = sum(u.num_held for u in self._utterances) + len(text)
        if held > self.settings.max_held_chars:
            message = f"text: {held} characters wait to be spoken, and at most "
            raise invalid(f"{message}{self.settings.max_held_chars} may.", "text", "text_too_long")
        self._current().append(text)

    def flush(self) -> int:
        """End the utterance here; returns its index."""
        utterance = self._current()
        utterance.flush()
        return utterance.index

    @property
    def is_idle(self) -> bool:
        """Nothing is spoken and nothing is left to send."""
        return not self._utterances and not self._events

    @property
    def is_speaking(self) -> bool:
        """Whether audio will come even if no more text does."""
        whole = any(utterance.is_flushed for utterance in self._utterances)
        return whole or self._is_in_engine or bool(self._events)

    @property
    def waits_for_text(self) -> bool:
        """Nothing is left to say of an utterance that has not been flushed."""
        first = self._utterances[0] if self._utterances else None
        return first is not None and not first.is_flushed and not first.num_held

    @property
    def index(self) -> int:
        """The index of the utterance that appended text belongs to."""
        return self._current().index

    def cancel(self, played_s: float | None = None) -> None:
        """Drop everything that has not been heard yet; a Cancelled event follows, each time.
        `played_s`: seconds of the current utterance that the listener reports to have heard.
        """
        told = self._playback.cut(self._utterances, played_s)
        self._task.cancel()
        self._trails.cut()
        self._utterances.clear()
        self._playback.clear()
        # An answer that was given stays: each cancel has its own.
        kept = [event for event in self._events if isinstance(event, Cancelled)]
        self._events = deque([*kept, told])
        self._unsent_s = 0.0
        self._task = asyncio.create_task(self._run())
        self._news.set()

    def within_heard(self, offset_s: float) -> float:
        """Seconds of the session's audio -> seconds within the utterance that is being heard."""
        return self._playback.within_heard(self._utterances, offset_s)

    def reconfigure(self, voice: LiveVoice, by_sentence: bool, as_file: bool = False) -> None:
        """For utterances from here on."""
        self.voice, self.by_sentence = voice, by_sentence or not voice.is_live
        self.as_file = as_file

    async def close(self) -> None:
        """Abort what is left; idempotent."""
        self._closed = True
        self._task.cancel()
        self._trails.cut()
        self._news.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def events(self) -> AsyncIterator[Event]:
        """Events as they come, for one reader; audio that it has taken counts as sent."""
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, Audio):
                    self._unsent_s -= event.duration_s
                    self._room.set()
                    self._note_sent(event)
                self._trails.note(event)
                yield event
            if self._closed:
                return
            self._news.clear()
            await self._news.wait()

    def _note_sent(self, audio: Audio) -> None:
        every = (*self._playback.made, *self._utterances)
        utterance = next((one for one in every if one.index == audio.index), None)
        if utterance is not None:
            self._playback.note_sent(utterance, audio.duration_s)

    # ---- speaking ----

    def _current(self) -> Utterance:
        if not self._utterances or self._utterances[-1].is_flushed:
            index, self._num_utterances = self._num_utterances, self._num_utterances + 1
            how = self.by_sentence, self.as_file
            utterance = Utterance(index, self.voice, self.settings, *how)
            self._utterances.append(utterance)
            self._text_news.set()
        return self._utterances[-1]

    async def _run(self) -> None:
        while True:
            while not self._utterances:
                self._text_news.clear()
                await self._text_news.wait()
            utterance = self._utterances[0]
            try:
                await self._speak(utterance)
            except Exception as error:
                # What comes of its text later is a new utterance.
                if not isinstance(error, EngineError | ApiError):
                    logger.error("a live utterance failed", exc_info=error)
                self._tell(Failed(utterance.index, as_api_error(error), utterance.audio_s > 0))
            self._utterances.popleft()

    async def _speak(self, utterance: Utterance) -> None:
        encoder, reason = None, "stop"
        utterance.offset_s = self._offset_s
        while piece := await utterance.next_piece():
            encoder = encoder or await self._encoder(utterance)
            if piece.silence_s:
                await self._be_silent(utterance, encoder, piece)
            elif await self._speak_piece(utterance, encoder, piece) is FinishReason.LENGTH:
                reason = "length"
            utterance.end_first_piece()
        if encoder is not None and utterance.audio_s:
            rest = await asyncio.to_thread(encoder.flush)
            if utterance.as_file:
                rest = encoder.with_exact_sizes(bytes(utterance.file) + rest)
            await self._send(utterance, rest, 0.0)
            self._tell(Words(utterance.index, utterance.clock.words()))
        self._playback.made.append(utterance)
        self._offset_s += utterance.audio_s
        finished = utterance.index, utterance.text, utterance.audio_s, reason
        self._tell(Finished(*finished, utterance.num_ids))

    async def _encoder(self, utterance: Utterance) -> AudioEncoder:
        """The encoder of an utterance, with its marks. A cloned voice is audited from here on."""
        provenance = await utterance.voice.provenance()
        self._trails.begin(utterance, provenance)
        return AudioEncoder.of(utterance.voice.request, provenance)

    async def _be_silent(self, utterance: Utterance, encoder: AudioEncoder, piece: Piece) -> None:
        while (left_s := piece.silence_s - piece.audio_s) > 0:
            pcm = bytes(round(min(left_s, SILENCE_S) * SAMPLE_RATE_HZ) * 2)
            if not pcm:
                return
            await self._hand_out(utterance, encoder, piece, pcm)

    async def _speak_piece(
        self, utterance: Utterance, encoder: AudioEncoder, piece: Piece
    ) -> FinishReason:
        """All of its text, by as many sequences as that takes."""
        while True:
            reason = await self._speak_sequence(utterance, encoder, piece)
            if not piece.ids and not piece.is_whole:
                self._metrics.live_stalls.labels(self._dialect).inc()
                await self._until(utterance, lambda: bool(piece.ids) or piece.is_whole)
            if not piece.ids:
                return reason

    async def _speak_sequence(
        self, utterance: Utterance, encoder: AudioEncoder, piece: Piece
    ) -> FinishReason:
        await self._until_it_may_start(utterance, piece)
        await utterance.voice.check()
        is_open = False
        if not utterance.by_sentence:
            is_open = await self._open_texts.take(lambda: piece.is_whole, utterance.news)
        begun: asyncio.Future[SpeechStream] = asyncio.get_running_loop().create_future()

        def ids() -> tuple[tuple[int, ...], bool]:
            known, piece.ids = tuple(piece.ids), []
            return known, is_open and not piece.is_whole

        turn: Turn | None = None
        feeding: asyncio.Task[None] | None = None
        self._is_in_engine = True
        try:
            turn = utterance.voice.speak(piece.text, ids, begun.set_result)
            feeding = asyncio.create_task(self._feed(utterance, piece, begun))
            async for pcm in turn:
                await self._hand_out(utterance, encoder, piece, pcm)
            stream = begun.result()
            # Before what came since: the ids that the sequence had no use for.
            piece.ids = [*stream.unread_text, *piece.ids]
            assert stream.finished is not None
            return stream.finished.reason
        finally:
            self._is_in_engine = False
            if turn is not None:
                turn.abort()
            if feeding is not None:
                feeding.cancel()
            if is_open:
                self._open_texts.give_back()

    async def _feed(
        self, utterance: Utterance, piece: Piece, begun: asyncio.Future[SpeechStream]
    ) -> None:
        """What comes for the piece goes to its sequence, until it is whole or that has ended."""
        stream = await begun
        while stream.text_open and not stream.ended.is_set():
            utterance.news.clear()
            if piece.ids or piece.is_whole:
                known, piece.ids = tuple(piece.ids), []
                stream.append(known, final=piece.is_whole)
            else:
                await utterance.news.wait()

    async def _until_it_may_start(self, utterance: Utterance, piece: Piece) -> None:
        """The start rule: so many words, or the end of the text, or a while after the first."""
        if utterance.by_sentence:
            await self._until(utterance, lambda: piece.is_whole)
            return
        least = self.settings.start_words
        assert piece.began_at is not None
        wait_s = piece.began_at + self.settings.start_after_s - time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, wait_s)):
                await self._until(utterance, lambda: piece.is_whole or piece.num_words >= least)

    async def _until(self, utterance: Utterance, is_so: Callable[[], bool]) -> None:
        while not is_so():
            utterance.news.clear()
            await utterance.news.wait()

    async def _hand_out(
        self, utterance: Utterance, encoder: AudioEncoder, piece: Piece, pcm: bytes
    ) -> None:
        gain_db = utterance.voice.plan.gain_db
        if gain_db and not piece.silence_s:
            pcm = amplify(pcm, 10 ** (gain_db / 20))
        utterance.clock.hear(pcm)
        made_s = len(pcm) / BYTES_PER_S
        duration_s = made_s / utterance.voice.request.speed  # as it is heard
        cheap = encoder.is_cheap
        data = encoder.encode(pcm) if cheap else await asyncio.to_thread(encoder.encode, pcm)
        if utterance.as_file:
            utterance.file += data
            data = b""
        if not utterance.audio_s:
            self._count_first(utterance)
            self._tell(Started(utterance.index, utterance.text))
        piece.audio_s += made_s
        await self._send(utterance, data, duration_s)
        utterance.audio_s += duration_s

    def _count_first(self, utterance: Utterance) -> None:
        if utterance.first_text_at is not None:
            waited_s = time.monotonic() - utterance.first_text_at
            self._metrics.live_first_audio.labels(self._dialect).observe(waited_s)

    async def _send(self, utterance: Utterance, data: bytes, duration_s: float) -> None:
        """Wait until the client is no more than `ahead_s` behind, in what it has got and in what
        it has heard.
        """
        while self._unsent_s > self.settings.ahead_s:
            self._room.clear()
            await self._room.wait()
        until = self._playback.until
        ahead_s = until + self._unsent_s - time.monotonic() - self.settings.ahead_s
        if until and ahead_s > 0:
            await asyncio.sleep(ahead_s)
        words = utterance.clock.new_words()
        if data or duration_s or words:
            self._unsent_s += duration_s
            self._tell(Audio(utterance.index, data, utterance.audio_s, duration_s, words))

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._news.set()
