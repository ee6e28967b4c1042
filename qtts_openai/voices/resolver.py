"""Which model and which voice speak a request, and which recording the voice is cloned from.

In: the fields `model`, `voice`, `task_type`, `instructions`, `ref_audio` and `speaker_embedding` of
a request, and who sends it. Out: a ResolvedVoice, or a 400 or 404 that names the field. A voice is
looked for among the presets, then among the stored voices the caller may use, then as a mix.
"""

import asyncio

import msgspec

from engine import ModelInfo, ReferenceAudio
from qtts_openai.errors import invalid
from qtts_openai.http.callers import Caller
from qtts_openai.schemas import SpeechRequest, missing_parameter
from qtts_openai.settings import Defaults
from qtts_openai.voices import names
from qtts_openai.voices.model_registry import FAMILIES, Catalog, NamedModel
from qtts_openai.voices.presets import Voice, VoiceTable
from qtts_openai.voices.records import StoredVoice
from qtts_openai.voices.references import References

# A name that SDKs send which need some voice: the default one of the settings.
DEFAULT_VOICE = "default"
# The default voice where the settings name none.
FIRST_VOICE = "alloy"

_FAMILY_OF_TASK = {task: family for family, task in FAMILIES.items()}


class ResolvedVoice(msgspec.Struct, frozen=True):
    """`voice` is None where reference audio or a description in the request says how it sounds.
    `reference_text`: what the reference says, if the clone is to use it.
    """

    model: ModelInfo
    voice: Voice | None
    reference: ReferenceAudio | None = None
    reference_text: str | None = None


class VoiceResolver:
    def __init__(
        self, defaults: Defaults, catalog: Catalog, table: VoiceTable, references: References
    ) -> None:
        self.defaults = defaults
        self.catalog = catalog
        self.table = table
        self.references = references

    async def resolve(self, request: SpeechRequest, caller: Caller) -> ResolvedVoice:
        named = self._named_model(request)
        voice = await self._voice(request, named, caller)
        model = self._route(request, named, voice)
        if model.model_type != "base":
            return ResolvedVoice(model, voice)
        if request.speaker_embedding is not None:
            size = model.embedding_size
            audio = self.references.of_embedding(request.speaker_embedding, size)
            await self._check(model, audio, request, "speaker_embedding")
            return ResolvedVoice(model, None, audio)
        if request.ref_audio is not None:
            audio, text = await self.references.of_request(request.ref_audio), request.ref_text
            await self._check(model, audio, request, "ref_audio")
        else:
            assert voice is not None
            audio, text = await self.references.of_voice(voice.id)
        in_context = model.uses_ref_text and not request.x_vector_only_mode
        return ResolvedVoice(model, voice, audio, text if in_context else None)

    async def _check(
        self, model: ModelInfo, audio: ReferenceAudio, request: SpeechRequest, param: str
    ) -> None:
        await self.references.likeness.check(model.id, audio, request.consent, param)

    def _named_model(self, request: SpeechRequest) -> NamedModel:
        name = request.model or self.defaults.model
        if name is None:
            raise missing_parameter("model")
        return self.catalog.find(name)

    async def _voice(
        self, request: SpeechRequest, named: NamedModel, caller: Caller
    ) -> Voice | None:
        if request.ref_audio is not None or request.speaker_embedding is not None:
            _check_clone(request)
            store = self.references.store
            await asyncio.to_thread(store.check_reference, request.consent, caller)
            return None
        name = request.voice_name
        task = request.task_type or FAMILIES[named.info.model_type]
        if task == "VoiceDesign" and (request.instructions or (not name and request.task_type)):
            return await self._described(name, caller)
        if name is None or names.key(name) == DEFAULT_VOICE:
            name = self._default_voice(name, task, request.instructions)
        voice = await self._find(name, caller)
        if voice is None:
            raise self.table.unknown(name)
        return voice

    async def _described(self, name: str | None, caller: Caller) -> Voice | None:
        """The voice of a request that also describes one: only a stored description counts. Any
        other name is ignored, because some SDKs cannot leave the voice out.
        """
        voice = await self._find(name, caller) if name else None
        return voice if voice is not None and not voice.speakers and voice.prompt else None

    def _default_voice(self, name: str | None, task: str, instructions: str | None) -> str:
        chosen = self.defaults.voice
        if chosen is None and task == "Base":
            raise missing_parameter("ref_audio")
        if chosen is None and name is None:
            hint = " With task_type 'VoiceDesign' the instructions describe it."
            raise missing_parameter("voice", hint if instructions else "")
        is_known = name is not None and self.table.get(name) is not None
        return name if name is not None and is_known else chosen or FIRST_VOICE

    async def _find(self, name: str, caller: Caller) -> Voice | None:
        """A preset, a stored voice by id or name, or a mix."""
        voice = self.table.get(name)
        if voice is not None:
            return voice
        stored = await asyncio.to_thread(self._stored, name, caller)
        if stored is not None:
            return self.stored_voice(stored)
        return self.table.mix(name) if "+" in name or "(" in name else None

    def _stored(self, name: str, caller: Caller) -> StoredVoice | None:
        """Reads the disk."""
        stored = self.references.store.find(name, caller)
        if stored is not None:
            self.references.store.check_may_speak(stored)
        return stored

    def preset(self, name: str) -> Voice:
        """A voice that everybody has: a preset, or a mix of such. ApiError where there is none."""
        voice = self.table.get(name)
        if voice is None and ("+" in name or "(" in name):
            voice = self.table.mix(name)
        if voice is None:
            raise self.table.unknown(name)
        return voice

    def stored_voice(self, stored: StoredVoice) -> Voice:
        """A described voice can be cloned if a recording of it exists, or if a VoiceDesign model is
        loaded that can make one.
        """
        voice = stored.voice()
        can_speak = stored.prompt is not None and self.catalog.of_family("voice_design") is not None
        return msgspec.structs.replace(voice, can_clone=voice.can_clone or can_speak)

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
            family = _FAMILY_OF_TASK[request.task_type]
            return family, f"task_type {request.task_type!r}", "task_type"
        for field in ("speaker_embedding", "ref_audio"):
            if getattr(request, field) is not None:
                return "base", field, field
        if voice is None:
            return "voice_design", "a voice description", "instructions"
        able = voice.families()
        # A stored voice that is asked for by alias is cloned where it can be: the steadiest way.
        free = voice.is_stored and named.is_alias
        if named.info.model_type in able and not free:
            return named.info.model_type, "", "voice"
        family = next((known for known in able if self.catalog.of_family(known)), able[0])
        return family, f"Voice {voice.name!r}", "voice"


def _check_clone(request: SpeechRequest) -> None:
    field = "ref_audio" if request.speaker_embedding is None else "speaker_embedding"
    if request.task_type not in (None, "Base"):
        message = f"{field} goes with task_type 'Base', not with {request.task_type!r}."
        raise invalid(message, field, "unsupported_by_model")
    if request.ref_audio is not None and request.speaker_embedding is not None:
        message = "speaker_embedding: it stands in the place of ref_audio; send one of them."
        raise invalid(message, "speaker_embedding")
