"""A SpeechRequest -> what the engine is asked to do: which model, which voice, which prompt."""

import asyncio

import msgspec

from engine import ModelInfo, Prompt, ReferenceAudio, SamplingParams
from qtts_openai.catalog import FAMILIES, Catalog, NamedModel
from qtts_openai.encoders import check_rate
from qtts_openai.errors import invalid
from qtts_openai.prompting import find_language
from qtts_openai.reference_audio import decode_base64, read_reference
from qtts_openai.schemas import SpeechRequest, missing_parameter
from qtts_openai.settings import Settings
from qtts_openai.voices import Voice, VoiceTable

_FAMILY_OF_TASK = {task: family for family, task in FAMILIES.items()}


class Utterance(msgspec.Struct, frozen=True):
    """Ready for EngineClient.submit. `ignored` names fields of the request that this model has no
    use for.
    """

    model: ModelInfo
    prompt: Prompt
    params: SamplingParams
    reference: ReferenceAudio | None
    ignored: tuple[str, ...]


class Planner:
    def __init__(self, settings: Settings, catalog: Catalog, table: VoiceTable) -> None:
        self.settings = settings
        self.catalog = catalog
        self.table = table

    async def plan(self, request: SpeechRequest) -> Utterance:
        """Raises a 400 or 404 for everything that can be known before the engine starts."""
        self._check_text(request)
        check_rate(request.response_format, request.sample_rate)
        named = self._named_model(request)
        voice = self._voice(request, named)
        model = self._route(request, named, voice)
        reference = await self._reference(request, model)
        return self._utterance(request, model, voice, reference)

    def _check_text(self, request: SpeechRequest) -> None:
        if not request.input.strip():
            raise invalid("input: there is no text to speak.", "input", "empty_string")
        limits = self.settings.limits
        _check_length(request.input, limits.max_input_chars, "input")
        _check_length(request.instructions or "", limits.max_instructions_chars, "instructions")
        _check_length(request.ref_text or "", limits.max_input_chars, "ref_text")

    def _named_model(self, request: SpeechRequest) -> NamedModel:
        name = request.model or self.settings.defaults.model
        if name is None:
            raise missing_parameter("model")
        return self.catalog.find(name)

    def _voice(self, request: SpeechRequest, named: NamedModel) -> Voice | None:
        """None where something else says how it shall sound: reference audio or a description."""
        if request.ref_audio is not None:
            return None
        name = request.voice_name
        if name is None and _is_design(request, named):
            return None
        name = name or self.settings.defaults.voice
        if name is None:
            raise missing_parameter("voice")
        return self.find_voice(name)

    def find_voice(self, name: str) -> Voice:
        voice = self.table.get(name)
        if voice is not None:
            return voice
        if "+" in name or "(" in name:
            return self.table.mix(name)
        raise self.table.unknown(name)

    def _route(self, request: SpeechRequest, named: NamedModel, voice: Voice | None) -> ModelInfo:
        family, reason, param = self._family(request, named, voice)
        if voice is not None and family not in voice.families():
            able = " or ".join(FAMILIES[known] for known in voice.families())
            message = f"Voice {voice.name!r} speaks with {able}, not with {FAMILIES[family]}."
            raise invalid(message, "voice", "unsupported_by_model")
        return self.catalog.pick(named, family, reason, param)

    def _family(
        self, request: SpeechRequest, named: NamedModel, voice: Voice | None
    ) -> tuple[str, str, str]:
        """(model type, why in words, the field that asks for it)."""
        if request.task_type is not None:
            return (
                _FAMILY_OF_TASK[request.task_type],
                f"task_type {request.task_type!r}",
                "task_type",
            )
        if request.ref_audio is not None:
            return "base", "ref_audio", "ref_audio"
        if voice is None:
            return "voice_design", "a voice description", "instructions"
        able = voice.families()
        if named.info.model_type in able:
            return named.info.model_type, "", "voice"
        family = next((known for known in able if self.catalog.of_family(known)), able[0])
        return family, f"Voice {voice.name!r}", "voice"

    async def _reference(self, request: SpeechRequest, model: ModelInfo) -> ReferenceAudio | None:
        if model.model_type != "base":
            return None
        if request.ref_audio is None:
            raise missing_parameter("ref_audio")
        data = decode_base64(request.ref_audio)
        return await asyncio.to_thread(read_reference, data, min_s=0.5, max_s=60.0)

    def _utterance(
        self,
        request: SpeechRequest,
        model: ModelInfo,
        voice: Voice | None,
        reference: ReferenceAudio | None,
    ) -> Utterance:
        instruct = _instruct(request, model, voice)
        streaming = request.non_streaming_mode is False or (
            request.non_streaming_mode is None and model.model_type == "base"
        )
        prompt = self.catalog.builders[model.id].build(
            request.input,
            language=self._language(request, model),
            instruct=instruct,
            speakers=self.table.rows(voice, model)
            if voice and model.model_type == "custom_voice"
            else (),
            reference=reference.key if reference else None,
            reference_text=None
            if request.x_vector_only_mode or not reference
            else request.ref_text,
            streaming_text=streaming,
        )
        return Utterance(
            model, prompt, _sampling(request), reference, _unused(request, model, instruct)
        )

    def _language(self, request: SpeechRequest, model: ModelInfo) -> str:
        if request.language is not None:
            return find_language(request.language, model)
        return find_language(request.lang_code or "auto", model, lenient=True)


def _check_length(text: str, limit: int, param: str) -> None:
    if len(text) > limit:
        message = f"{param}: {len(text)} characters, and at most {limit} are accepted."
        raise invalid(message, param, "string_above_max_length")


def _is_design(request: SpeechRequest, named: NamedModel) -> bool:
    if request.task_type is not None:
        return request.task_type == "VoiceDesign"
    return named.info.model_type == "voice_design" and request.instructions is not None


def _instruct(request: SpeechRequest, model: ModelInfo, voice: Voice | None) -> str | None:
    """The instruct block: a style for CustomVoice, the description of the voice for VoiceDesign."""
    if model.model_type == "base":
        return None
    if model.model_type == "custom_voice":
        return request.instructions if model.supports_instruct else None
    parts = [part for part in (voice.prompt if voice else None, request.instructions) if part]
    if not parts:
        message = (
            "instructions: describe the voice; a VoiceDesign request without a voice needs it."
        )
        raise invalid(message, "instructions", "missing_required_parameter")
    return ". ".join(parts)


def _unused(request: SpeechRequest, model: ModelInfo, instruct: str | None) -> tuple[str, ...]:
    unused = []
    if request.instructions is not None and instruct is None:
        unused.append("instructions")
    if model.model_type != "base":
        unused += [name for name in ("ref_audio", "ref_text") if getattr(request, name) is not None]
    if request.ref_audio is not None and request.voice is not None:
        unused.append("voice")
    return tuple(unused)


def _sampling(request: SpeechRequest) -> SamplingParams:
    return SamplingParams(
        temperature=request.temperature,
        top_k=None if request.top_k is None else max(0, request.top_k),
        top_p=request.top_p,
        repetition_penalty=request.repetition_penalty,
        seed=None if request.seed == -1 else request.seed,
        max_new_tokens=request.max_new_tokens,
    )
