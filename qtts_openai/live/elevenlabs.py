"""ElevenLabs' dialects: /v1/text-to-speech/{voice}/multi-stream-input and /stream-input.

    {text, context_id, flush?, voice_settings?} | {flush} | {close_context} | {close_socket}
    {audio, isFinal, contextId, alignment, normalizedAlignment} | {error, contextId}

A context is a live session of its own. The single form has one, ended by an empty text. Agents
close a context at the end of a turn and also when the user speaks: the first comes right behind a
flush without text, and is finished; anything else is cut short, unless nothing of it was sent yet.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any

from qtts_openai.errors import ApiError, invalid
from qtts_openai.live import events as s
from qtts_openai.live.dialect import Dialect, Visit
from qtts_openai.live.session import LiveSession
from qtts_openai.live.socket import NORMAL, Closing
from qtts_openai.schemas import SpeechRequest
from qtts_openai.speech.words import Word

_FORMAT = re.compile(r"(?P<name>mp3|pcm|opus|ulaw|alaw|wav)_(?P<rate>\d{4,5})(_\d{1,3})?")
_LEVELS = {"on": "full", "off": "clean"}
MAX_CONTEXTS = 10
MAX_IDLE_S = 180


class Context:
    """`id` is None in the single form."""

    def __init__(self, id_: str | None) -> None:
        self.id = id_
        self.session: LiveSession  # set as soon as it is open
        self.is_flushed = False  # by its last message, which had no text
        self.has_text = self.has_audio = False  # text since the last flush; audio at all
        self.last: int | None = None  # the utterance that ends it
        self.words: list[Word] = []  # that wait for audio to go with
        self.before_s = 0.0  # audio of the utterances before
        self.told_ms = 0  # the end of the last character that was told

    def alignment(self, is_absolute: bool) -> dict[str, Any] | None:
        """Times count from the end of the last message with any, or from the context's start."""
        if not self.words:
            return None
        chars: list[str] = []
        starts: list[int] = []
        for word in self.words:
            text, length_s = f"{word.text} ", word.end_s - word.start_s
            at_s = self.before_s + word.start_s
            chars += text
            starts += [round(1000 * (at_s + length_s * i / len(text))) for i in range(len(text))]
        base, end = self.told_ms, round(1000 * (self.before_s + self.words[-1].end_s))
        starts = [max(start, base) for start in starts]
        end = self.told_ms = max(end, starts[-1])
        durations = [b - a for a, b in zip(starts, [*starts[1:], end], strict=True)]
        if not is_absolute:
            starts = [start - base for start in starts]
        self.words = []
        return {"chars": chars, "charStartTimesMs": starts, "charDurationsMs": durations}


class ElevenLabsSession(Dialect):
    """`query`: of the URL."""

    name = "elevenlabs"

    def __init__(self, visit: Visit, voice_id: str, query: Mapping[str, str], multi: bool) -> None:
        super().__init__(visit)
        self.voice_id, self.query, self.is_multi = voice_id, query, multi
        self.contexts: dict[str | None, Context] = {}
        self._is_closing = False

    @property
    def sessions(self) -> list[LiveSession]:
        return [context.session for context in self.contexts.values()]

    # ---- in ----

    async def begin(self) -> None:
        """What the URL asks for has to be there."""
        await self.voice(self._wanted({}))
        idle_s = self.query.get("inactivity_timeout", "20")
        if not idle_s.isascii() or not idle_s.isdigit():
            raise invalid("inactivity_timeout: seconds are meant.", "inactivity_timeout")
        self.idle_s = min(max(1, int(idle_s[:6])), MAX_IDLE_S)

    def _wanted(self, message: dict[str, Any]) -> SpeechRequest:
        name = self.query.get("output_format", "mp3_44100_128")
        form = _FORMAT.fullmatch(name)
        if form is None:
            raise invalid(f"output_format: {name[:40]!r} is not known.", "output_format")
        voice_settings = message.get("voice_settings")
        tuned = voice_settings if isinstance(voice_settings, dict) else {}
        return self.request(
            {
                "model": self.model_name(self.query.get("model_id")),
                "voice": self.voice_name(self.voice_id),
                "response_format": form["name"],
                "sample_rate": int(form["rate"]),
                "lang_code": self.query.get("language_code"),
                "normalize": _LEVELS.get(self.query.get("apply_text_normalization", "")),
                "speed": tuned.get("speed"),
            }
        )

    async def take(self, message: dict[str, Any]) -> None:
        if message.get("close_socket"):
            self._is_closing = True
            for open_one in [*self.contexts.values()]:
                self._finish(open_one)
            self._end_if_done()
            return
        id_, text = message.get("context_id"), message.get("text")
        if id_ is not None and not isinstance(id_, str):
            raise invalid("context_id: a string is meant.", "context_id")
        if text is not None and not isinstance(text, str):
            raise invalid("`text` must be a string.", "text")
        key = (id_ or "default")[:200] if self.is_multi else None
        context = self.contexts.get(key)
        if text:
            context = context or await self._open(key, message)
            await self._append(context, message)
        elif context is not None and message.get("flush"):
            self._flush(context)
            context.is_flushed = True
        elif text == "" and not self.is_multi:
            context = context or await self._open(key, message)
            self._finish(context)
        if context is not None and message.get("close_context"):
            self._close(context)

    async def _open(self, key: str | None, message: dict[str, Any]) -> Context:
        if len(self.contexts) >= MAX_CONTEXTS:
            raise invalid(f"At most {MAX_CONTEXTS} contexts may be open.", "context_id")
        voice = await self.voice(self._wanted(message))
        context = Context(key)

        async def tell(event: s.Event) -> None:
            await self._tell(context, event)

        context.session = self.open(voice, tell=tell)
        self.contexts[key] = context
        return context

    async def _append(self, context: Context, message: dict[str, Any]) -> None:
        text = await self.text_of(message)
        if context.last is not None:
            raise invalid("The context was closed.", "context_id")
        context.is_flushed = False
        if context.has_text or text.strip():  # the space that opens a context says nothing
            context.session.append(text)
            context.has_text = True
        speaks_at_once = self.query.get("auto_mode") == "true" and text.strip()
        if message.get("flush") or message.get("try_trigger_generation") or speaks_at_once:
            self._flush(context)

    def _flush(self, context: Context) -> None:
        if context.has_text:
            context.session.flush()
            context.has_text = False

    def _finish(self, context: Context) -> None:
        """To its end, and the end is told."""
        if context.last is None:
            context.last = context.session.flush()

    def _close(self, context: Context) -> None:
        if context.is_flushed or (context.has_text and not context.has_audio):
            self._finish(context)
        else:
            context.last = context.last or 0
            context.session.cancel()

    # ---- out ----

    async def _tell(self, context: Context, event: s.Event) -> None:
        match event:
            case s.Audio(_, data, words=words):
                context.words += words
                if data:
                    await self._sound(context, data)
            case s.Finished(index, _, audio_s):
                context.before_s += audio_s
                await self._end(context, index)
            case s.Failed(index, error):
                await self.socket.send(self.error(error) | self._place(context))
                await self._end(context, index)
            case s.Cancelled():
                await self._end(context, context.last)

    async def _sound(self, context: Context, data: bytes) -> None:
        aligned = context.alignment(self.query.get("sync_alignment") == "true")
        audio = base64.b64encode(data).decode()
        message = {"audio": audio, "isFinal": None, **self._place(context)}
        message |= {} if context.has_audio else context.session.voice.marked()
        context.has_audio = True
        await self.socket.send(message | {"alignment": aligned, "normalizedAlignment": aligned})

    def _place(self, context: Context) -> dict[str, Any]:
        return {"contextId": context.id} if self.is_multi else {}

    async def _end(self, context: Context, index: int | None) -> None:
        if context.last is None or index is None or index < context.last:
            return
        self.contexts.pop(context.id, None)
        await self.socket.send({"audio": None, "isFinal": True, **self._place(context)})
        await context.session.close()
        self._is_closing = self._is_closing or not self.is_multi
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._is_closing and not self.contexts:
            raise Closing(NORMAL)

    def error(self, error: ApiError) -> dict[str, Any]:
        return {"error": error.message, "code": error.code or error.type}
