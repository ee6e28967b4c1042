"""The dialect of /api-ws/v1/realtime: the hosted API of these models, as DashScope's SDK speaks it.

    session.update | input_text_buffer.append | .commit | .clear | response.cancel | session.finish
    session.created | session.updated | input_text_buffer.committed | .cleared
    response.created ... response.audio.delta ... response.done | session.finished | error

In `server_commit` text is spoken as it comes, in `commit` once it was committed.
"""

import base64
import secrets
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from qtts_openai.errors import ApiError, invalid
from qtts_openai.live import events as s
from qtts_openai.live.dialect import Dialect, Visit, unknown_message
from qtts_openai.live.session import LiveSession
from qtts_openai.live.socket import NORMAL, Closing
from qtts_openai.schemas import to_struct


class Config(msgspec.Struct, frozen=True):
    """What session.update may hold; names of theirs that change nothing here are let through."""

    voice: str | None = None
    mode: Literal["server_commit", "commit"] = "server_commit"
    language_type: str | None = None
    response_format: str = "pcm"
    sample_rate: int = 24_000
    speech_rate: float = 1.0
    volume: int = 50
    pitch_rate: float = 1.0
    instructions: str | None = None
    enable_tn: bool | None = None


class DashScopeSession(Dialect):
    """`query`: of the URL."""

    name = "dashscope"

    def __init__(self, visit: Visit, query: Mapping[str, str]) -> None:
        super().__init__(visit)
        self.query, self.config = query, Config()
        self.id = f"sess_{secrets.token_hex(12)}"
        self._held = ""  # text that was not committed
        self._open_response: int | None = None  # the utterance that is told
        self._clears: deque[bool] = deque()  # cancels under way, and which were clears
        self._last: int | None = None  # the utterance that ends the session

    # ---- in ----

    async def begin(self) -> None:
        await self._say("session.created", session=self._described())

    async def take(self, message: dict[str, Any]) -> None:
        if message.get("type") == "session.update":
            await self._update(message.get("session"))
            return
        session = self.session or await self._configure(self.config)
        if self._last is not None:
            raise invalid("The session was finished.", "type")
        match message.get("type"):
            case "input_text_buffer.append":
                await self._append(session, await self.text_of(message))
            case "input_text_buffer.commit":
                index = self._commit(session)
                await self._say("input_text_buffer.committed", item_id=self._ids(index)["item_id"])
            case "input_text_buffer.clear" | "response.cancel" as kind:
                self._held = self._held if kind == "response.cancel" else ""
                self._clears.append(kind != "response.cancel")
                session.cancel()
            case "session.finish":
                self._last = self._commit(session)
            case kind:
                raise unknown_message(kind)

    async def _update(self, fields: Any) -> None:
        if not isinstance(fields, dict):
            raise invalid("session.update: `session` must be an object.", "session")
        given = {name: value for name, value in fields.items() if value is not None}
        await self._configure(to_struct({**msgspec.structs.asdict(self.config), **given}, Config))
        await self._say("session.updated", session=self._described())

    async def _configure(self, config: Config) -> LiveSession:
        for name, usual in (("volume", 50), ("pitch_rate", 1.0)):
            if getattr(config, name) != usual:
                raise invalid(f"{name}: cannot be changed here; leave it out.", name)
        request = self.request(
            {
                "model": self.model_name(self.query.get("model")),
                "voice": self.voice_name(config.voice),
                "language": config.language_type,
                "response_format": config.response_format,
                "sample_rate": config.sample_rate,
                "speed": config.speech_rate,
                "instructions": config.instructions,
                "normalize": {True: "full", False: "clean", None: None}[config.enable_tn],
            }
        )
        voice = await self.voice(request)
        self.config = config
        if self.session is None:
            self.session = self.open(voice)
        else:
            self.session.reconfigure(voice, by_sentence=False)
        return self.session

    async def _append(self, session: LiveSession, text: str) -> None:
        if self.config.mode == "server_commit":
            if text:
                session.append(text)
            return
        if len(self._held) + len(text) > self.settings.max_held_chars:
            raise invalid("text: too much waits to be committed.", "text", "text_too_long")
        self._held += text

    def _commit(self, session: LiveSession) -> int:
        held, self._held = self._held, ""
        if held:
            session.append(held)
        return session.flush()

    # ---- out ----

    async def tell(self, event: s.Event) -> None:
        match event:
            case s.Started(index):
                await self._begin_response(index)
            case s.Audio(index, data):
                if data:
                    delta = base64.b64encode(data).decode()
                    await self._say("response.audio.delta", **self._part(index), delta=delta)
            case s.Finished(index, text):
                await self._end_response("completed", len(text))
                await self._end(index)
            case s.Failed(index, error):
                await self._send(self.error(error))
                await self._end_response("failed")
                await self._end(index)
            case s.Cancelled():
                await self._end_response("cancelled")
                if self._clears.popleft():
                    await self._say("input_text_buffer.cleared")

    async def _begin_response(self, index: int) -> None:
        self._open_response = index
        part = self._part(index)
        ids = {"response_id": part["response_id"], "output_index": 0}
        assert self.session is not None
        response = self._response(index, "in_progress") | self.session.voice.marked()
        await self._say("response.created", response=response)
        item = self._item(index, "in_progress")
        await self._say("response.output_item.added", **ids, item=item)
        await self._say("response.content_part.added", **part, part={"type": "audio", "text": ""})

    async def _end_response(self, status: str, num_chars: int = 0) -> None:
        index, self._open_response = self._open_response, None
        if index is None:
            return
        part = self._part(index)
        ids = {"response_id": part["response_id"], "output_index": 0}
        await self._say("response.audio.done", **part)
        await self._say("response.content_part.done", **part, part={"type": "audio", "text": ""})
        await self._say("response.output_item.done", **ids, item=self._item(index, status))
        response = self._response(index, status)
        response["usage"] = {"characters": num_chars}
        await self._say("response.done", response=response)

    async def _end(self, index: int) -> None:
        if self._last is not None and index >= self._last:
            await self._say("session.finished")
            raise Closing(NORMAL)

    def _ids(self, index: int) -> dict[str, str]:
        return {"response_id": f"resp_{self.id}_{index}", "item_id": f"item_{self.id}_{index}"}

    def _part(self, index: int) -> dict[str, Any]:
        return {**self._ids(index), "output_index": 0, "content_index": 0}

    def _item(self, index: int, status: str) -> dict[str, Any]:
        kind = {"object": "realtime.item", "type": "message", "role": "assistant"}
        return {"id": self._ids(index)["item_id"], **kind, "status": status, "content": []}

    def _response(self, index: int, status: str) -> dict[str, Any]:
        response = {"id": self._ids(index)["response_id"], "object": "realtime.response"}
        return {**response, "status": status, "modalities": ["text", "audio"]} | self._sound()

    def _sound(self) -> dict[str, Any]:
        config = self.config
        sound = {"voice": config.voice or "default", "response_format": config.response_format}
        return {**sound, "sample_rate": config.sample_rate}

    def _described(self) -> dict[str, Any]:
        model = self.query.get("model", "")[:200]
        session = {"id": self.id, "object": "realtime.session", "model": model}
        return {**session, "mode": self.config.mode, **self._sound()}

    async def _say(self, kind: str, **fields: Any) -> None:
        await self._send({"type": kind, **fields})

    async def _send(self, message: dict[str, Any]) -> None:
        await self.socket.send({"event_id": f"event_{secrets.token_hex(12)}", **message})

    def error(self, error: ApiError) -> dict[str, Any]:
        detail = {"type": error.type, "code": error.code or error.type, "message": error.message}
        return {"type": "error", "error": {**detail, "param": error.param}}
