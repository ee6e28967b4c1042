"""Nari's dialect, at /v1/audio/speech/ws: one text, under the sub-protocol nari.speech.v1.

    request.start | input_text.append | input_text.end | response.cancel
    session.created | request.configured | input_text.ack | response.started | binary
    response.done | error

Types are strict and unknown fields refused; every error ends the connection. An acknowledgement
never waits for the engine.
"""

import secrets
from typing import Any, Literal

import msgspec

from qtts_openai.errors import ApiError, invalid
from qtts_openai.live import events as s
from qtts_openai.live.dialect import Dialect, Visit, unknown_message
from qtts_openai.live.socket import FAILED, NORMAL, POLICY, PROTOCOL, TOO_BIG, Closing
from qtts_openai.schemas import to_struct

PROTOCOL_NAME = "nari.speech.v1"
AUDIO = {"encoding": "pcm_s16le", "sample_rate": 24_000, "channels": 1}
MAX_MESSAGE_BYTES, MAX_CHARS, MAX_APPENDS = 65_536, 65_536, 1024
# Errors have these, or invalid_request, or generation_failed.
CODES = (
    "invalid_sequence",
    "unknown_event",
    "empty_input",
    "invalid_text",
    "too_many_input_events",
    "input_too_large",
)


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["request.start"]
    model: str | None = None
    voice: str = "aiden"
    language: str = "auto"
    seed: int | None = None
    do_sample: bool = True
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    ignore_eos: Literal[False] = False
    subtalker_dosample: bool | None = None
    subtalker_do_sample: bool | None = None
    subtalker_temperature: float | None = None
    subtalker_top_k: int | None = None
    subtalker_top_p: float | None = None
    skip_fixed_bootstrap_audio: bool = True
    stream_chunk_frames: int | None = None
    stream_chunk_size: int | None = None
    instruction: str | None = None
    instruct: str | None = None
    instructions: str | None = None
    response_format: Literal["pcm", "pcm16", "pcm_s16le"] = "pcm"

    def fields(self) -> dict[str, Any]:
        """Of a speech request."""
        given = {name: getattr(self, name) for name in ("seed", "top_k", "top_p", "model")}
        given |= {"repetition_penalty": self.repetition_penalty, "language": self.language}
        instructions = self.instruction or self.instruct or self.instructions
        temperature = self.temperature if self.do_sample else 0.0
        given |= {"temperature": temperature, "max_new_tokens": self.max_new_tokens}
        return given | {"instructions": instructions, "response_format": "pcm"}


class Append(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["input_text.append"]
    sequence: int
    text: str


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["input_text.end"]
    sequence: int


class NariSession(Dialect):
    name = "nari"

    def __init__(self, visit: Visit, is_offered: bool) -> None:
        super().__init__(visit)
        self.is_offered, self.max_message_bytes = is_offered, MAX_MESSAGE_BYTES
        self.id = f"speech-{secrets.token_hex(12)}"
        self._num_appends = self._num_text_chars = self._num_binary = 0
        self._has_ended = False

    # ---- in ----

    async def begin(self) -> None:
        if not self.is_offered:
            raise Closing(PROTOCOL)
        created = {"type": "session.created", "protocol": PROTOCOL_NAME, "audio": AUDIO}
        await self.socket.send(created)

    async def take(self, message: dict[str, Any]) -> None:
        if self._has_ended:  # nothing is read any more
            return
        kind = message.get("type")
        if self.session is None:
            await self._start(message)
        elif kind == "input_text.append":
            await self._append(to_struct(message, Append))
        elif kind == "input_text.end":
            await self._end(to_struct(message, End))
        elif kind == "response.cancel":
            self._has_ended = True
            self.session.cancel()
        else:
            raise unknown_message(kind, "unknown_event")

    async def _start(self, message: dict[str, Any]) -> None:
        start = to_struct(message, Start)
        unsupported = [n for n in Start.__struct_fields__ if n.startswith("subtalker")]
        if names := [name for name in unsupported if getattr(start, name) is not None]:
            raise invalid(f"{names[0]}: cannot be set here; leave it out.", names[0])
        fields = start.fields() | {"voice": self.voice_name(start.voice)}
        fields["model"] = self.model_name(start.model)
        self.session = self.open(await self.voice(self.request(fields)))
        await self.socket.send({"type": "request.configured"})

    async def _append(self, message: Append) -> None:
        assert self.session is not None
        self._check_sequence(message.sequence)
        self._num_appends += 1
        self._num_text_chars += len(message.text)
        if self._num_appends > MAX_APPENDS:
            raise invalid("Too many appends.", "sequence", "too_many_input_events")
        if self._num_text_chars > MAX_CHARS:
            raise invalid("The text is too long.", "text", "input_too_large")
        if not message.text:
            raise invalid("text: must not be empty.", "text", "invalid_text")
        await self.charge(message.text)
        self.session.append(message.text)
        await self._ack("input_text.append", message.sequence)

    async def _end(self, message: End) -> None:
        assert self.session is not None
        self._check_sequence(message.sequence)
        if not self._num_appends:
            raise invalid("There is no text.", "sequence", "empty_input")
        self._has_ended = True
        await self._ack("input_text.end", message.sequence)
        self.session.flush()

    def _check_sequence(self, sequence: int) -> None:
        if sequence != self._num_appends:
            message = f"sequence: {self._num_appends} is next."
            raise invalid(message, "sequence", "invalid_sequence")

    async def _ack(self, event: str, sequence: int) -> None:
        ack = {"type": "input_text.ack", "event": event, "sequence": sequence}
        await self.socket.send({**ack, "request_id": self.id})

    # ---- out ----

    async def tell(self, event: s.Event) -> None:
        match event:
            case s.Started():
                started = {"type": "response.started", "request_id": self.id, "audio": AUDIO}
                await self.socket.send(started)
            case s.Audio(_, data):
                if data:
                    self._num_binary += 1
                    await self.socket.send(data)
            case s.Failed(_, error):
                await self.socket.send(self.error(error))
                raise Closing(FAILED)
            case s.Finished(_, text):
                if not text:
                    await self.refuse(invalid("There is nothing to say.", "text", "empty_input"))
                await self._done("stop")
            case s.Cancelled():
                await self._done("cancelled")

    async def _done(self, reason: str) -> None:
        done = {"type": "response.done", "request_id": self.id, "stop_reason": reason}
        await self.socket.send({**done, "audio_chunks": self._num_binary})
        raise Closing(NORMAL)

    async def refuse(self, error: ApiError) -> None:
        await self.socket.send(self.error(error))
        raise Closing(TOO_BIG if error.code == "input_too_large" else POLICY)

    def error(self, error: ApiError) -> dict[str, Any]:
        code = error.code if error.code in CODES else "invalid_request"
        code = "generation_failed" if error.status >= 500 else code
        detail = {"type": error.type, "code": code, "message": error.message}
        return {"type": "error", "request_id": self.id, "error": detail}
