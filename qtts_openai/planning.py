"""A SpeechRequest -> what the engine is asked to do: prompts, pauses between them, sampling."""

from functools import partial

import msgspec

from engine import ModelInfo, Prompt, ReferenceAudio, SamplingParams
from qtts_openai.casting import Cast, Casting
from qtts_openai.encoders import check_rate
from qtts_openai.errors import invalid
from qtts_openai.prompting import find_language
from qtts_openai.schemas import SpeechRequest
from qtts_openai.script import Part, pronounce, split_pauses, split_sentences
from qtts_openai.settings import Settings


class Utterance(msgspec.Struct, frozen=True):
    """Ready for the engine. `parts` are prompts and seconds of silence, at least one prompt.
    `ignored` names fields of the request that this model has no use for.
    """

    model: ModelInfo
    parts: tuple[Prompt | float, ...]
    params: SamplingParams
    reference: ReferenceAudio | None
    ignored: tuple[str, ...]


class Planner:
    def __init__(self, settings: Settings, casting: Casting) -> None:
        self.settings = settings
        self.casting = casting

    async def plan(self, request: SpeechRequest) -> Utterance:
        """Raises a 400 or 404 for everything that can be known before the engine starts."""
        script = self._script(request)
        check_rate(request.response_format, request.sample_rate)
        cast = await self.casting.cast(request)
        script = self._cut(request, cast.model, script)
        instruct = _instruct(request, cast)
        parts = self._prompts(request, cast, instruct, script)
        params = _sampling(request, cast)
        return Utterance(
            cast.model, parts, params, cast.reference, _unused(request, cast, instruct)
        )

    def _script(self, request: SpeechRequest) -> list[Part]:
        """Texts and pauses. A plain request is one text, exactly as it was sent."""
        limits, options = self.settings.limits, self.settings.text
        longest = max(limits.max_input_chars, options.max_long_chars)
        check_length(request.input, longest, "input")
        check_length(request.instructions or "", limits.max_instructions_chars, "instructions")
        check_length(request.ref_text or "", limits.max_input_chars, "ref_text")
        text = pronounce(request.input, {**options.pronunciations, **request.pronunciations})
        check_length(text, 2 * longest, "pronunciations")
        use_tags = options.pause_tags if request.pause_tags is None else request.pause_tags
        parts: list[Part] = split_pauses(text, options.max_pause_s) if use_tags else [text]
        if not any(isinstance(part, str) and part.strip() for part in parts):
            raise invalid("input: there is no text to speak.", "input", "empty_string")
        return parts

    def _cut(self, request: SpeechRequest, model: ModelInfo, script: list[Part]) -> list[Part]:
        """Long texts at sentences: those beyond the limit for one text, and those that are long for
        this model, unless the request says how long its one utterance may be.
        """
        sizes = []
        if len(request.input) > self.settings.limits.max_input_chars:
            sizes.append(self.settings.text.segment_chars)
        for_model = self.casting.catalog.segment_chars.get(model.id)
        if for_model is not None and request.max_new_tokens is None:
            sizes.append(for_model)
        return split_sentences(script, min(sizes)) if sizes else script

    def _prompts(
        self, request: SpeechRequest, cast: Cast, instruct: str | None, script: list[Part]
    ) -> tuple[Prompt | float, ...]:
        model, voice = cast.model, cast.voice
        builder = self.casting.catalog.builders[model.id]
        has_speaker = voice is not None and model.model_type == "custom_voice"
        whole = request.non_streaming_mode
        build = partial(
            builder.build,
            language=_language(request, model),
            instruct=instruct,
            speakers=self.casting.table.rows(voice, model) if voice and has_speaker else (),
            reference=cast.reference.key if cast.reference else None,
            reference_text=cast.reference_text,
            streaming_text=model.model_type == "base" if whole is None else not whole,
        )
        return tuple(part if isinstance(part, float) else build(part) for part in script)


def check_length(text: str, limit: int, param: str) -> None:
    if len(text) > limit:
        message = f"{param}: {len(text)} characters, and at most {limit} are accepted."
        raise invalid(message, param, "string_above_max_length")


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
        "voice": request.voice is not None and request.ref_audio is not None,
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
