"""Deepgram's dialects: /v1/speak (Aura) and /v2/speak (Flux TTS).

    Speak | Flush | Clear (v1) | Interrupt (v2) | Configure (v2) | Close
    v1: Metadata | binary | Flushed | Cleared
    v2: Connected | SpeechStarted | binary | SpeechMetadata | Flushed | SpeechInterrupted

The query says how it sounds: `model` is the voice. v1 clients end a turn at `Flushed`, v2 clients
at `SpeechMetadata`, so each comes once a flush and behind the last sound.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from qtts_openai.errors import ApiError, invalid
from qtts_openai.live import events as s
from qtts_openai.live.dialect import Dialect, Visit, unknown_message
from qtts_openai.live.socket import NORMAL, Closing

# Clients give up after 10 s without a message.
HEART_BEAT_S = 4.0
ENCODINGS = {"linear16": "pcm", "mulaw": "ulaw", "alaw": "alaw"}


class DeepgramSession(Dialect):
    """`query`: of the URL."""

    name = "deepgram"

    def __init__(self, visit: Visit, query: Mapping[str, str], version: int) -> None:
        super().__init__(visit)
        self.query, self.version = query, version
        self.id = secrets.token_hex(16)
        self._speeches: dict[int, str] = {}  # v2: ids of turns
        self._flushed: list[int] = []
        self._num_flushes = self._num_clears = 0
        self._total_s = 0.0
        self._is_closing = False
        self._told_at = time.monotonic()

    # ---- in ----

    async def begin(self) -> None:
        voice = await self.voice(self.request(self._fields()))
        self.session = self.open(voice)
        opening = self._metadata("Metadata" if self.version == 1 else "Connected")
        await self._tell(opening | voice.marked())

    def _fields(self) -> dict[str, Any]:
        encoding = self.query.get("encoding", "linear16")
        if encoding not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            raise invalid(f"encoding: {encoding!r} is not known; use one of {known}.", "encoding")
        container = self.query.get("container", "none")
        if container != "none":
            raise invalid("container: only none can be streamed.", "container")
        return {
            "voice": self.voice_name(self.query.get("model")),
            "response_format": ENCODINGS[encoding],
            "sample_rate": _number(self.query, "sample_rate", int),
            "speed": _number(self.query, "speed", float),
        }

    async def take(self, message: dict[str, Any]) -> None:
        assert self.session is not None
        match message.get("type"):
            case "Speak":
                if text := await self.text_of(message):
                    self.session.append(text)
            case "Flush":
                self._flushed.append(self.session.flush())
            case "Clear" if self.version == 1:
                self._flushed.clear()
                self.session.cancel()
            case "Interrupt" if self.version == 2:
                self._flushed.clear()
                self.session.cancel(self._played_s(message))
            case "Configure" if self.version == 2:
                await self._configure(message)
            case "Close":
                await self._close()
            case kind:
                raise unknown_message(kind)

    def _played_s(self, message: dict[str, Any]) -> float | None:
        """Of the utterance that is heard: the offset counts from the start of the session."""
        assert self.session is not None
        offset = message.get("playback_offset")
        if offset is None:
            return None
        value = offset.get("value") if isinstance(offset, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise invalid("playback_offset: {type: time_ms, value} is meant.", "playback_offset")
        return self.session.within_heard(value / 1000)

    async def _configure(self, message: dict[str, Any]) -> None:
        assert self.session is not None
        speed = message.get("speed")
        try:
            request = self.request({**self._fields(), "speed": speed})
            self.session.reconfigure(await self.voice(request), by_sentence=False)
        except ApiError as error:
            failure = {"type": "ConfigureFailure", "code": "DATA-0000", "field": error.param}
            await self._tell({**failure, "value": speed, "description": error.message})
        else:
            await self._tell({"type": "ConfigureSuccess", "applied": {"speed": speed}})

    async def _close(self) -> None:
        """What was flushed is spoken to its end; what was not is spoken, too."""
        assert self.session is not None
        if self.session.is_idle:
            await self._bye()
        elif not self._is_closing:
            self._is_closing = True
            self._flushed.append(self.session.flush())

    async def _bye(self) -> None:
        if self.version == 2:
            await self._tell(self._session_metadata())
        raise Closing(NORMAL)

    # ---- out ----

    async def _tell(self, message: dict[str, Any] | bytes) -> None:
        self._told_at = time.monotonic()
        await self.socket.send(message)

    async def beat(self) -> None:
        """While an utterance is open and silent, so that the client does not give up."""
        assert self.session is not None
        if self.session.is_idle or time.monotonic() - self._told_at < HEART_BEAT_S:
            return
        is_v1 = self.version == 1
        await self._tell(self._metadata("Metadata") if is_v1 else self._session_metadata())

    def _metadata(self, kind: str) -> dict[str, Any]:
        name = self.query.get("model", "default")
        message = {"type": kind, "request_id": self.id, "model_name": name, "model_version": "1"}
        uuid = "00000000-0000-0000-0000-000000000000"
        return message | ({"model_uuid": uuid} if self.version == 1 else {"model_uuids": [uuid]})

    def _session_metadata(self) -> dict[str, Any]:
        total_ms = round(self._total_s * 1000)
        return {"type": "SessionMetadata", "total_audio_duration_ms": total_ms}

    async def tell(self, event: s.Event) -> None:
        match event:
            case s.Started(index) if self.version == 2:
                await self._tell({"type": "SpeechStarted", "speech_id": self._speech(index)})
            case s.Audio(_, data):
                if data:
                    await self._tell(data)
            case s.Finished():
                self._total_s += event.audio_s
                await self._finished(event)
            case s.Failed(index, error):
                await self._tell(self.error(error))
                await self._finished(s.Finished(index, "", 0.0, "error"))
            case s.Cancelled():
                await self._cancelled(event)

    def _speech(self, index: int) -> str:
        return self._speeches.setdefault(index, f"{self.id}-{index}")

    async def _finished(self, event: s.Finished) -> None:
        if self.version == 1:
            await self._tell({"type": "Flushed", "sequence_id": self._num_flushes})
            self._num_flushes += 1
        else:
            speech_id = self._speech(event.index)
            await self._tell(self._speech_metadata(speech_id, event))
            await self._tell({"type": "Flushed", "speech_id": speech_id})
        if self._is_closing and self._flushed and event.index >= self._flushed[-1]:
            await self._bye()

    def _speech_metadata(self, speech_id: str, event: s.Finished) -> dict[str, Any]:
        count = len(event.text)
        return {
            "type": "SpeechMetadata",
            "speech_id": speech_id,
            "audio_duration_ms": round(event.audio_s * 1000),
            "input_character_count": count,
            "billable_character_count": count,
            "controls_applied": {"pronunciations_applied": 0, "breaks_applied": 0},
        }

    async def _cancelled(self, event: s.Cancelled) -> None:
        if self.version == 1:
            await self._tell({"type": "Cleared", "sequence_id": self._num_clears})
            self._num_clears += 1
        elif event.index is None:
            description = "Nothing was being spoken."
            warning = {"type": "Warning", "code": "NO_ACTIVE_SPEECH", "description": description}
            await self._tell(warning)
        else:
            interrupted: dict[str, Any] = {
                "type": "SpeechInterrupted",
                "speech_id": self._speech(event.index),
                "audio_played_ms": round(event.played_s * 1000),
                "text_spoken": event.text_spoken,
                "text_remaining": event.text_remaining,
                "metadata": {"estimated": True},
            }
            await self._tell(interrupted)
        if self._is_closing:
            await self._bye()

    def error(self, error: ApiError) -> dict[str, Any]:
        code = "NET-0000" if error.status >= 500 else "DATA-0000"
        return {"type": "Error", "code": code, "description": error.message}


def _number(query: Mapping[str, str], name: str, kind: type[int] | type[float]) -> Any:
    if name not in query:
        return None
    try:
        return msgspec.convert(query[name], kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(f"{name}: {query[name][:40]!r} is no number.", name) from error
