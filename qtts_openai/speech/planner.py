"""A SpeechRequest -> what the engine is asked to do: prompts, pauses between them, sampling."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from engine import ModelInfo, Prompt, ReferenceAudio, SamplingParams
from qtts_openai.errors import invalid
from qtts_openai.http.callers import ANONYMOUS, Caller
from qtts_openai.schemas import SpeechRequest
from qtts_openai.settings import Settings
from qtts_openai.speech.encoders import check_rate
from qtts_openai.text.prompt_builder import PromptBuilder, find_language
from qtts_openai.text.script import Preparer, Script, ScriptWriter
from qtts_openai.text.script import check_length as check_length  # for the routes
from qtts_openai.voices.resolver import Cast, Casting

# Longer texts are prepared in a thread: shorter ones take the event loop less than 10 ms.
INLINE_CHARS = 2000
MAX_THREADS = 2


class Utterance(msgspec.Struct, frozen=True):
    """Ready for the engine. `parts` are prompts and seconds of silence, at least one prompt.
    `ignored` names fields of the request that this model has no use for, `unspoken` scripts of the
    text that it has no sound for. `num_chars` is what it costs of the limit per minute.
    """

    model: ModelInfo
    parts: tuple[Prompt | float, ...]
    params: SamplingParams
    reference: ReferenceAudio | None
    ignored: tuple[str, ...]
    num_chars: int
    gain_db: float = 0.0  # for the PCM that the engine makes
    unspoken: tuple[str, ...] = ()


class LivePlan(msgspec.Struct, frozen=True):
    """All but the text. `build` makes a prompt of a whole text, `prepare` makes a segment
    speakable; `is_live`: text may come while it is spoken.
    """

    model: ModelInfo
    build: Callable[[str], Prompt]
    prepare: Preparer
    builder: PromptBuilder
    params: SamplingParams
    reference: ReferenceAudio | None
    gain_db: float
    is_live: bool


class Planner:
    def __init__(self, settings: Settings, casting: Casting) -> None:
        self.casting = casting
        self.writer = ScriptWriter(settings)
        self._threads = ThreadPoolExecutor(MAX_THREADS, "planning")

    async def plan(self, request: SpeechRequest, caller: Caller = ANONYMOUS) -> Utterance:
        """Raises a 400 or 404 for everything that can be known before the engine starts."""
        self.writer.check(request)
        check_rate(request.response_format, request.sample_rate)
        cast = await self.casting.cast(request, caller)
        if len(request.input) <= INLINE_CHARS:
            return self._utterance(request, cast)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._utterance, request, cast)

    async def plan_live(self, request: SpeechRequest, caller: Caller = ANONYMOUS) -> LivePlan:
        """As `plan`, for text that is still to come."""
        check_length(
            request.instructions or "", self.writer.limits.max_instructions_chars, "instructions"
        )
        check_rate(request.response_format, request.sample_rate)
        cast = await self.casting.cast(request, caller)
        language = _language(request, cast.model)
        is_live = not cast.reference_text and request.non_streaming_mode is not True
        if is_live:
            request = msgspec.structs.replace(request, non_streaming_mode=False)
        return LivePlan(
            model=cast.model,
            build=self._build(request, cast, language, _instruct(request, cast)),
            prepare=self.writer.preparer(request, cast.model, language),
            builder=self.casting.catalog.builders[cast.model.id],
            params=_sampling(request, cast),
            reference=cast.reference,
            gain_db=self._gain_db(cast),
            is_live=is_live,
        )

    def _utterance(self, request: SpeechRequest, cast: Cast) -> Utterance:
        language = _language(request, cast.model)
        instruct = _instruct(request, cast)
        script = self.writer.write(request, cast.model, language)
        parts = self._prompts(request, cast, language, instruct, script)
        params = _sampling(request, cast)
        return Utterance(
            cast.model,
            parts,
            params,
            cast.reference,
            _unused(request, cast, instruct),
            script.num_chars + len(instruct or ""),
            self._gain_db(cast),
            script.unspoken,
        )

    def _gain_db(self, cast: Cast) -> float:
        if cast.voice is None or cast.model.model_type != "custom_voice":
            return 0.0
        return self.casting.table.gain_db(cast.voice, cast.model)

    def _prompts(
        self,
        request: SpeechRequest,
        cast: Cast,
        language: str,
        instruct: str | None,
        script: Script,
    ) -> tuple[Prompt | float, ...]:
        build = self._build(request, cast, language, instruct)
        return tuple(part if isinstance(part, float) else build(part) for part in script.parts)

    def _build(
        self, request: SpeechRequest, cast: Cast, language: str, instruct: str | None
    ) -> Callable[[str], Prompt]:
        model, voice = cast.model, cast.voice
        builder = self.casting.catalog.builders[model.id]
        has_speaker = voice is not None and model.model_type == "custom_voice"
        whole = request.non_streaming_mode
        return partial(
            builder.build,
            language=language,
            instruct=instruct,
            speakers=self.casting.table.rows(voice, model) if voice and has_speaker else (),
            reference=cast.reference.key if cast.reference else None,
            reference_text=cast.reference_text,
            streaming_text=model.model_type == "base" if whole is None else not whole,
        )


def _language(request: SpeechRequest, model: ModelInfo) -> str:
    if request.language is not None:
        return find_language(request.language, model)
    return find_language(request.lang_code or "auto", model, lenient=True)


def _instruct(request: SpeechRequest, cast: Cast) -> str | None:
    """The instruct block: a style for CustomVoice, the description of the voice for VoiceDesign."""
    if cast.model.model_type == "base":
        return None
    if cast.model.model_type == "custom_voice":
        return request.instructions if cast.model.supports_instruct else None
    described = cast.voice.prompt if cast.voice else None
    parts = [part for part in (described, request.instructions) if part]
    if not parts:
        message = "instructions: describe the voice, since the request names none."
        raise invalid(message, "instructions", "missing_required_parameter")
    return ". ".join(parts)


def _unused(request: SpeechRequest, cast: Cast, instruct: str | None) -> tuple[str, ...]:
    unused = {
        "instructions": request.instructions is not None and instruct is None,
        "ref_text": request.ref_text is not None and request.ref_audio is None,
        "voice": request.voice is not None and cast.voice is None,
    }
    return tuple(name for name, is_unused in unused.items() if is_unused)


def _sampling(request: SpeechRequest, cast: Cast) -> SamplingParams:
    seed = None if request.seed == -1 else request.seed
    if seed is None and cast.voice is not None and cast.model.model_type == "voice_design":
        seed = cast.voice.seed
    return SamplingParams(
        temperature=request.temperature,
        top_k=None if request.top_k is None else max(0, request.top_k),
        top_p=request.top_p,
        repetition_penalty=request.repetition_penalty,
        seed=seed,
        max_new_tokens=request.max_new_tokens,
    )
