"""A SpeechRequest -> a SpeechPlan: all that the engine needs to know, or the 400 that says why not.

In: the request as it was read, and who sends it. Out: the model, prompts (token ids) with the
seconds of silence between them, sampling parameters, and the reference recording of a clone. The
resolver chooses model and voice; text.script cleans and cuts the text; nothing is spoken yet.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec

from engine import ModelInfo, Prompt, ReferenceAudio, SamplingParams
from qtts_openai.decoding.turns import current_caller
from qtts_openai.errors import invalid
from qtts_openai.http.callers import ANONYMOUS, Caller
from qtts_openai.schemas import SpeechRequest
from qtts_openai.settings import Settings
from qtts_openai.speech.encoders import check_rate
from qtts_openai.text import spoken
from qtts_openai.text.prompt_builder import PromptBuilder, find_language
from qtts_openai.text.script import Preparer, ScriptWriter
from qtts_openai.text.script import check_length as check_length  # for the routes
from qtts_openai.voices.resolver import ResolvedVoice, VoiceResolver

logger = logging.getLogger(__name__)

# Longer texts are prepared in a thread: shorter ones take the event loop less than 10 ms.
INLINE_CHARS = 2000
MAX_THREADS = 2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine needs to know beside the text."""

    model: ModelInfo
    params: SamplingParams
    reference: ReferenceAudio | None
    gain_db: float = 0.0  # for the PCM that the engine makes
    # Whose voice it is, where it is not a preset, and what allows it.
    voice_id: str | None = None
    consent: str | None = None


class SpeechPlan(Plan, frozen=True, kw_only=True):
    """Ready for the engine. `parts` are prompts and seconds of silence, at least one prompt.
    `ignored` names fields of the request that this model has no use for, `unspoken` scripts of the
    text that it has no sound for. `num_chars` is what it costs of the limit per minute.
    """

    parts: tuple[Prompt | float, ...]
    texts: tuple[str, ...]  # of the prompts, as they are spoken
    ignored: tuple[str, ...]
    unspoken: tuple[str, ...]
    num_chars: int


class LivePlan(Plan, frozen=True, kw_only=True):
    """For a text that is still to come. `build` makes a prompt of a whole text, `build_open` one
    that takes more text while it is spoken (where `is_live`), `prepare` makes a segment speakable.
    """

    build: Callable[[str], Prompt]
    build_open: Callable[[str], Prompt]
    prepare: Preparer
    builder: PromptBuilder
    is_live: bool


class Planner:
    def __init__(self, settings: Settings, resolver: VoiceResolver) -> None:
        self.resolver = resolver
        self.writer = ScriptWriter(settings)
        self._threads = ThreadPoolExecutor(MAX_THREADS, "planning")

    def warm_up(self) -> None:
        self._threads.submit(spoken.warm_up)

    async def plan(self, request: SpeechRequest, caller: Caller = ANONYMOUS) -> SpeechPlan:
        """Raises a 400 or 404 for everything that can be known before the engine starts."""
        self.writer.check(request)
        resolved = await self._resolve(request, caller)
        _note_use(resolved, caller)
        if len(request.input) <= INLINE_CHARS:
            return self._utterance(request, resolved)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._utterance, request, resolved)

    async def plan_live(self, request: SpeechRequest, caller: Caller = ANONYMOUS) -> LivePlan:
        """As `plan`, for text that is still to come."""
        check_length(
            request.instructions or "", self.writer.limits.max_instructions_chars, "instructions"
        )
        resolved = await self._resolve(request, caller)
        language, instruct = _language(request, resolved.model), self._instruct(request, resolved)
        row_by_row = msgspec.structs.replace(request, non_streaming_mode=False)
        return LivePlan(
            **self._common(request, resolved),
            build=self._build(request, resolved, language, instruct),
            build_open=self._build(row_by_row, resolved, language, instruct),
            prepare=self.writer.preparer(request, resolved.model, language),
            builder=self.resolver.catalog.builders[resolved.model.id],
            is_live=not resolved.reference_text and request.non_streaming_mode is not True,
        )

    async def _resolve(self, request: SpeechRequest, caller: Caller) -> ResolvedVoice:
        """Who speaks; before that, what fields say together is checked."""
        if request.timestamps and request.stream_format != "sse":
            message = "timestamps: they are server-sent events; set stream_format to 'sse'."
            raise invalid(message, "timestamps")
        check_rate(request.response_format, request.sample_rate)
        return await self.resolver.resolve(request, caller)

    def _utterance(self, request: SpeechRequest, resolved: ResolvedVoice) -> SpeechPlan:
        language, instruct = _language(request, resolved.model), self._instruct(request, resolved)
        script = self.writer.write(request, resolved.model, language)
        build = self._build(request, resolved, language, instruct)
        return SpeechPlan(
            **self._common(request, resolved),
            parts=tuple(part if isinstance(part, float) else build(part) for part in script.parts),
            texts=tuple(part for part in script.parts if isinstance(part, str)),
            ignored=_unused(request, resolved, instruct),
            unspoken=script.unspoken,
            num_chars=script.num_chars + len(instruct or ""),
        )

    def _common(self, request: SpeechRequest, resolved: ResolvedVoice) -> dict[str, Any]:
        """The fields of a Plan."""
        voice = resolved.voice
        return {
            "model": resolved.model,
            "params": _sampling(request, resolved),
            "reference": resolved.reference,
            "gain_db": self._gain_db(resolved),
            "voice_id": voice.id if voice and voice.is_stored else None,
            "consent": voice.consent if voice else request.consent,
        }

    def _instruct(self, request: SpeechRequest, resolved: ResolvedVoice) -> str | None:
        """The instruct block: a style for CustomVoice, the description of the voice for
        VoiceDesign.
        """
        model, asked, catalog = resolved.model, request.instructions, self.resolver.catalog
        if model.model_type == "voice_design":
            described = resolved.voice.prompt if resolved.voice else None
            text = ". ".join(part for part in (described, asked) if part)
            catalog.check_description(model, text, "instructions")
            return text
        has_use = model.model_type == "custom_voice" and model.supports_instruct
        return asked if has_use and asked and catalog.reads(model, asked) else None

    def _gain_db(self, resolved: ResolvedVoice) -> float:
        if resolved.voice is None or resolved.model.model_type != "custom_voice":
            return 0.0
        return self.resolver.table.gain_db(resolved.voice, resolved.model)

    def _build(
        self, request: SpeechRequest, resolved: ResolvedVoice, language: str, instruct: str | None
    ) -> Callable[[str], Prompt]:
        """Text -> prompt, everything else being known."""
        model, voice = resolved.model, resolved.voice
        builder = self.resolver.catalog.builders[model.id]
        has_speaker = voice is not None and model.model_type == "custom_voice"
        whole = request.non_streaming_mode
        # The official package's choice for clones that use the reference's text.
        row_by_row = model.model_type == "base" and model.uses_ref_text
        return partial(
            builder.build,
            language=language,
            instruct=instruct,
            speakers=self.resolver.table.rows(voice, model) if voice and has_speaker else (),
            reference=resolved.reference.key if resolved.reference else None,
            reference_text=resolved.reference_text,
            streaming_text=row_by_row if whole is None else not whole,
        )


def _note_use(resolved: ResolvedVoice, caller: Caller) -> None:
    """Log which caller uses a stored voice, which may be a person's."""
    if resolved.voice is not None and resolved.voice.is_stored:
        who = current_caller.get() if caller is ANONYMOUS else caller.name
        logger.info("voice %s is spoken by %s on %s", resolved.voice.id, who, resolved.model.id)


def _language(request: SpeechRequest, model: ModelInfo) -> str:
    if request.language is not None:
        return find_language(request.language, model)
    return find_language(request.lang_code or "auto", model, lenient=True)


def _unused(
    request: SpeechRequest, resolved: ResolvedVoice, instruct: str | None
) -> tuple[str, ...]:
    unused = {
        "instructions": request.instructions is not None and instruct is None,
        "consent": request.consent is not None and resolved.reference is None,
        "ref_text": request.ref_text is not None
        and (request.ref_audio is None or not resolved.model.uses_ref_text),
        "voice": request.voice is not None and resolved.voice is None,
    }
    return tuple(name for name, is_unused in unused.items() if is_unused)


def _sampling(request: SpeechRequest, resolved: ResolvedVoice) -> SamplingParams:
    seed = None if request.seed == -1 else request.seed
    if seed is None and resolved.voice is not None and resolved.model.model_type == "voice_design":
        seed = resolved.voice.seed
    return SamplingParams(
        temperature=request.temperature,
        top_k=None if request.top_k is None else max(0, request.top_k),
        top_p=request.top_p,
        repetition_penalty=request.repetition_penalty,
        seed=seed,
        max_new_tokens=request.max_new_tokens,
    )
