"""The dialect of /v1/audio/speech/stream: a superset of vllm-omni's, sglang-omni's and what
LiveKit's Baseten plugin speaks.

    session.config | input.text | input.done | input.commit | input.cancel | session.close
    session.configured | audio.start | binary or audio.chunk | audio.done | session.done
    input.committed | audio.cancelled | error

With `stream_audio` and no `split_granularity` text is spoken as it comes; else in sentences,
clauses or whole utterances, each a session utterance of its own here.
"""

import base64
import secrets
from collections import deque
from typing import Any

import msgspec

from qtts_openai.errors import ApiError, invalid
from qtts_openai.live import events as s
from qtts_openai.live.dialect import Dialect, Visit, unknown_message
from qtts_openai.live.socket import NORMAL, POLICY, Closing
from qtts_openai.live.units import Granularity, split
from qtts_openai.schemas import SpeechRequest, to_struct
from qtts_openai.speech.words import Word, alignment, times_ms


class Config(msgspec.Struct, frozen=True):
    """What a config says beside the fields of a speech request."""

    stream_audio: bool = False
    split_granularity: Granularity = "none"
    word_timestamps: bool = False
    timestamp_type: str | None = None  # Baseten's clients: times in audio.done, audio stays binary

    @property
    def is_live(self) -> bool:
        return self.stream_audio and self.split_granularity == "none"

    @property
    def has_words(self) -> bool:
        return self.word_timestamps or self.timestamp_type == "word"

    @property
    def has_chunks(self) -> bool:
        return self.word_timestamps and self.timestamp_type is None


class Mark(msgspec.Struct):
    """The end of an utterance of the dialect: after session utterance `last`."""

    last: int
    utterance: int
    num_sentences: int = 0
    is_commit: bool = False


class NativeSession(Dialect):
    name = "native"

    def __init__(self, visit: Visit) -> None:
        super().__init__(visit)
        self.id = f"sess_{secrets.token_hex(8)}"
        self.config = Config()
        self.wanted: SpeechRequest | None = None
        self._held = ""  # text of a unit that is not whole
        self._utterance = self._num_units = 0  # of the dialect
        self._segment = self._segment_begins = 0  # of the utterance; and its first unit
        self._marks: deque[Mark] = deque()
        self._first_of: dict[int, tuple[int, int]] = {}  # session index -> utterance, sentence
        self._sentence_bytes = 0
        self._words: list[Word] = []

    # ---- in ----

    async def begin(self) -> None:
        try:
            message = await self.socket.receive(
                self.settings.config_timeout_s, self.max_message_bytes
            )
        except TimeoutError:
            raise Closing(POLICY, "no session.config came in time") from None
        if message.get("type") != "session.config":
            raise invalid("The first message must be session.config.", "type")
        await self._configure(message)

    async def take(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "session.config":
            await self._configure(message)
            return
        match kind:
            case "input.text":
                await self._append(await self.text_of(message))
            case "input.done":
                self._finish(is_commit=False)
            case "input.commit":
                await self._commit()
            case "input.cancel":
                self._cancel(message.get("played_ms"))
            case "session.close":
                raise Closing(NORMAL)
            case _:
                raise unknown_message(kind)

    async def _configure(self, message: dict[str, Any]) -> None:
        nested = message.get("session")
        fields = dict(nested) if isinstance(nested, dict) else dict(message)
        fields.pop("type", None)
        if self.session is not None and not self.session.is_idle:
            raise invalid("session.config: an utterance is open; end it first.", "type")
        known = {n: fields[n] for n in Config.__struct_fields__ if fields.get(n) is not None}
        config = to_struct(known, Config)
        default = "pcm" if isinstance(nested, dict) else "wav"
        fields["response_format"] = fields.get("response_format") or default
        request = self.request(fields)
        if config.stream_audio and request.response_format != "pcm":
            raise invalid("stream_audio: response_format must be 'pcm'.", "response_format")
        voice = await self.voice(request)
        self.config, self.wanted = config, request
        by_sentence, as_file = not config.is_live, not config.stream_audio
        if self.session is None:
            self.session = self.open(voice, by_sentence, as_file=as_file)
        else:
            self.session.reconfigure(voice, by_sentence, as_file)
        await self.socket.send(
            {
                "type": "session.configured",
                "session_id": self.id,
                "response_format": request.response_format,
                "sample_rate": request.sample_rate or 24_000,
                "stream_audio": config.stream_audio,
                "split_granularity": config.split_granularity,
                "live": config.is_live and voice.is_live,
            }
        )

    async def _append(self, text: str) -> None:
        assert self.session is not None
        if self.config.is_live or self.config.split_granularity == "none":
            if text:
                self._note(self.session.index)
                self.session.append(text)
            return
        units, self._held = split(self._held + text, self.config.split_granularity)
        if len(self._held) > self.settings.max_held_chars:
            raise Closing(POLICY, "too much text without an end of a sentence")
        for unit in units:
            self._say_unit(unit)

    def _note(self, index: int) -> None:
        if index not in self._first_of:
            self._first_of[index] = (self._utterance, self._num_units)
            self._num_units += 1

    def _say_unit(self, unit: str) -> None:
        assert self.session is not None
        if unit.strip():
            self._note(self.session.index)
            self.session.append(unit)
            self.session.flush()

    def _finish(self, is_commit: bool) -> None:
        """The flush: what is held is spoken, and a mark tells when all of it was."""
        assert self.session is not None
        held, self._held = self._held, ""
        self._say_unit(held)
        last = self.session.flush()
        self._marks.append(Mark(last, self._utterance, is_commit=is_commit))
        if not is_commit:
            self._begin_utterance()

    def _begin_utterance(self) -> None:
        self._utterance, self._num_units = self._utterance + 1, 0
        self._segment = self._segment_begins = 0

    async def _commit(self) -> None:
        self._finish(is_commit=True)
        segment, num_before = self._segment, self._segment_begins
        self._segment, self._segment_begins = segment + 1, self._num_units
        await self.socket.send(
            {
                "type": "input.committed",
                "session_id": self.id,
                "utterance_index": self._utterance,
                "segment_index": segment,
                "segment_sentences": self._num_units - num_before,
                "total_sentences": self._num_units,
            }
        )

    def _cancel(self, played_ms: Any) -> None:
        assert self.session is not None
        if played_ms is not None and (
            isinstance(played_ms, bool) or not isinstance(played_ms, int | float) or played_ms < 0
        ):
            raise invalid("input.cancel: `played_ms` must be a number, not below 0.", "played_ms")
        self._held = ""
        self._marks.clear()
        self.session.cancel(None if played_ms is None else played_ms / 1000)
        if self._num_units:
            self._begin_utterance()

    # ---- out ----

    async def tell(self, event: s.Event) -> None:
        match event:
            case s.Started():
                await self._start(event)
            case s.Audio():
                await self._audio(event)
            case s.Words(_, words):
                self._words = words
            case s.Finished(index, _, audio_s):
                if audio_s:
                    await self._done(index, failed=False)
                await self._end(index)
            case s.Failed():
                await self._fail(event)
            case s.Cancelled():
                await self._cancelled(event)

    def error(self, error: ApiError) -> dict[str, Any]:
        return {
            "type": "error",
            "message": error.message,
            "error_type": error.type,
            "param": error.param,
            "code": error.code,
        }

    def _place(self, index: int) -> dict[str, Any]:
        utterance, sentence = self._first_of.get(index, (self._utterance, 0))
        place = {"utterance_index": utterance, "sentence_index": sentence}
        return {"id": f"{self.id}_{index}", "session_id": self.id, **place}

    async def _start(self, event: s.Started) -> None:
        assert self.wanted is not None and self.session is not None
        self._sentence_bytes, self._words = 0, []
        message = {"type": "audio.start", **self._place(event.index)}
        message |= {"sentence_text": event.text.strip(), "format": self.wanted.response_format}
        message["sample_rate"] = self.wanted.sample_rate or 24_000
        if self.config.has_words:
            message["word_timestamps"] = True
        await self.socket.send(message | self.session.voice.marked())

    async def _audio(self, event: s.Audio) -> None:
        if not event.data:
            return
        if self.config.has_chunks and self.config.stream_audio:
            await self._chunk(event)
        else:
            self._sentence_bytes += len(event.data)
            await self.socket.send(event.data)

    async def _chunk(self, event: s.Audio) -> None:
        assert self.wanted is not None
        self._sentence_bytes += len(event.data)
        await self.socket.send(
            {
                "type": "audio.chunk",
                **self._place(event.index),
                "chunk_id": round(event.start_s * 1000),
                "chunk_start_ms": round(event.start_s * 1000),
                "chunk_end_ms": round((event.start_s + event.duration_s) * 1000),
                "sample_rate": self.wanted.sample_rate or 24_000,
                "audio_b64": base64.b64encode(event.data).decode(),
                "timestamps": None,
            }
        )

    async def _done(self, index: int, failed: bool) -> None:
        message = {"type": "audio.done", **self._place(index)}
        message |= {"total_bytes": self._sentence_bytes, "error": failed}
        if self.config.has_chunks and self.config.stream_audio:
            await self.socket.send(
                {
                    "type": "audio.chunk",
                    **self._place(index),
                    "audio_b64": "",
                    "timestamps": [times_ms(word) for word in self._words],
                    "estimated": True,
                }
            )
        elif self.config.has_words:
            message["timestamp_info"] = {"word_alignment": alignment(self._words)}
            message["estimated"] = True
        await self.socket.send(message)

    async def _end(self, index: int) -> None:
        while self._marks and self._marks[0].last <= index:
            mark = self._marks.popleft()
            mine = [
                i for i, (utterance, _) in self._first_of.items() if utterance == mark.utterance
            ]
            if mark.is_commit:
                continue
            for known in mine:
                del self._first_of[known]
            await self.socket.send(
                {
                    "type": "session.done",
                    "session_id": self.id,
                    "utterance_index": mark.utterance,
                    "total_sentences": len(mine),
                }
            )

    async def _fail(self, event: s.Failed) -> None:
        message = self.error(event.error)
        if event.has_audio:
            message |= {"partial_audio": True, "action": "discard"}
        await self.socket.send(message)
        await self._done(event.index, failed=True)
        await self._end(event.index)

    async def _cancelled(self, event: s.Cancelled) -> None:
        place: dict[str, Any] = {"utterance_index": None, "sentence_index": None}
        if event.index is not None:
            place = self._place(event.index)
        self._first_of = {i: p for i, p in self._first_of.items() if p[0] >= self._utterance}
        await self.socket.send(
            {
                "type": "audio.cancelled",
                **place,
                "reason": "client" if event.index is not None else "nothing_to_cancel",
                "played_ms": round(event.played_s * 1000),
                "text_spoken": event.text_spoken,
                "text_remaining": event.text_remaining,
                "estimated": True,
            }
        )
