"""Together's dialect, at /v1/audio/speech/websocket.

tts_session.updated | input_text_buffer.append | .commit | .clear
session.created | session.updated | conversation.item.input_text.received
conversation.item.audio_output.delta | .done | conversation.item.tts.failed | error
"""

import base64
import secrets
from collections.abc import Mapping
from typing import Any

from qtts_openai.errors import ApiError, invalid
from qtts_openai.live import events as s
from qtts_openai.live.dialect import Dialect, Visit, unknown_message
from qtts_openai.live.voice import LiveVoice


class TogetherSession(Dialect):
    """`query`: of the URL."""

    name = "together"

    def __init__(self, visit: Visit, query: Mapping[str, str]) -> None:
        super().__init__(visit)
        self.query, self.voice_id = query, query.get("voice")
        self.id = secrets.token_hex(12)

    async def begin(self) -> None:
        voice = await self._spoken_by(self.voice_id)
        self.session = self.open(voice)
        session = self._described() | voice.marked()
        await self.socket.send({"type": "session.created", "session": session})

    async def _spoken_by(self, name: str | None) -> LiveVoice:
        fields = {
            "model": self.model_name(self.query.get("model")),
            "voice": self.voice_name(name),
            "lang_code": self.query.get("language"),
            "response_format": "pcm",
        }
        return await self.voice(self.request(fields))

    def _described(self) -> dict[str, Any]:
        kind = {"id": self.id, "object": "realtime.tts.session", "modalities": ["text", "audio"]}
        return {**kind, "model": self.query.get("model"), "voice": self.voice_id}

    async def take(self, message: dict[str, Any]) -> None:
        assert self.session is not None
        match message.get("type"):
            case "tts_session.updated":
                await self._update(message.get("session"))
            case "input_text_buffer.append":
                if text := await self.text_of(message):
                    self.session.append(text)
                received = {"type": "conversation.item.input_text.received", "text": text}
                await self.socket.send(received)
            case "input_text_buffer.commit":
                self.session.flush()
            case "input_text_buffer.clear":
                self.session.cancel()
            case kind:
                raise unknown_message(kind)

    async def _update(self, fields: Any) -> None:
        assert self.session is not None
        name = fields.get("voice", self.voice_id) if isinstance(fields, dict) else None
        if not isinstance(name, str):
            raise invalid("session: an object whose `voice` is a string is meant.", "session")
        self.session.reconfigure(await self._spoken_by(name), by_sentence=False)
        self.voice_id = name
        await self.socket.send({"type": "session.updated", "session": self._described()})

    async def tell(self, event: s.Event) -> None:
        kind = "conversation.item.audio_output"
        match event:
            case s.Audio(index, data):
                if data:
                    delta = base64.b64encode(data).decode()
                    message = {"type": f"{kind}.delta", "item_id": self._item(index)}
                    await self.socket.send({**message, "delta": delta})
            case s.Finished(index, text):
                if text:
                    await self.socket.send({"type": f"{kind}.done", "item_id": self._item(index)})
            case s.Failed(index, error):
                failed = {"type": "conversation.item.tts.failed", "item_id": self._item(index)}
                await self.socket.send({**self.error(error), **failed})
            case s.Cancelled():
                await self.socket.send({"type": "input_text_buffer.cleared"})

    def _item(self, index: int) -> str:
        return f"item_{self.id}_{index}"

    def error(self, error: ApiError) -> dict[str, Any]:
        detail = {"message": error.message, "code": error.code or error.type, "param": error.param}
        return {"type": "error", "error": {**detail, "type": error.type}}
