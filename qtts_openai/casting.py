"""Who speaks a request: the model that answers, the voice, and what it is cloned from."""

import msgspec

from engine import ModelInfo, ReferenceAudio
from qtts_openai.catalog import FAMILIES, Catalog, NamedModel
from qtts_openai.errors import invalid
from qtts_openai.references import References
from qtts_openai.schemas import SpeechRequest, missing_parameter
from qtts_openai.settings import Defaults
from qtts_openai.voice_store import StoredVoice
from qtts_openai.voices import Voice, VoiceTable

_FAMILY_OF_TASK = {task: family for family, task in FAMILIES.items()}


class Cast(msgspec.Struct, frozen=True):
    """`voice` is None where reference audio or a description in the request says how it sounds.
    `reference_text`: what the reference says, where the clone shall use it.
    """

    model: ModelInfo
    voice: Voice | None
    reference: ReferenceAudio | None = None
    reference_text: str | None = None


class Casting:
    def __init__(
        self, defaults: Defaults, catalog: Catalog, table: VoiceTable, references: References
    ) -> None:
        self.defaults = defaults
        self.catalog = catalog
        self.table = table
        self.references = references

    async def cast(self, request: SpeechRequest) -> Cast:
        named = self._named_model(request)
        voice = self._voice(request, named)
        model = self._route(request, named, voice)
        if model.model_type != "base":
            return Cast(model, voice)
        if request.ref_audio is not None:
            audio, text = await self.references.of_request(request.ref_audio), request.ref_text
        else:
            assert voice is not None
            audio, text = await self.references.of_voice(voice.id)
        return Cast(model, voice, audio, None if request.x_vector_only_mode else text)

    def _named_model(self, request: SpeechRequest) -> NamedModel:
        name = request.model or self.defaults.model
        if name is None:
            raise missing_parameter("model")
        return self.catalog.find(name)

    def _voice(self, request: SpeechRequest, named: NamedModel) -> Voice | None:
        if request.ref_audio is not None:
            _check_task_of_clone(request)
            return None
        name = request.voice_name
        task = request.task_type or FAMILIES[named.info.model_type]
        if name is None and task == "VoiceDesign" and (request.task_type or request.instructions):
            return None
        name = name or self.defaults.voice
        if name is None:
            raise missing_parameter("ref_audio" if task == "Base" else "voice")
        return self.find_voice(name)

    def find_voice(self, name: str) -> Voice:
        """A preset, a stored voice by id or name, or a mix."""
        voice = self.table.get(name)
        if voice is not None:
            return voice
        stored = self.references.store.find(name)
        if stored is not None:
            return self.stored_voice(stored)
        if "+" in name or "(" in name:
            return self.table.mix(name)
        raise self.table.unknown(name)

    def stored_voice(self, stored: StoredVoice) -> Voice:
        """A described voice can be cloned once it has spoken, or where it can be made to speak."""
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
        if request.ref_audio is not None:
            return "base", "ref_audio", "ref_audio"
        if voice is None:
            return "voice_design", "a voice description", "instructions"
        able = voice.families()
        # A stored voice that is asked for by alias is cloned where it can be: the steadiest way.
        free = voice.is_stored and named.is_alias
        if named.info.model_type in able and not free:
            return named.info.model_type, "", "voice"
        family = next((known for known in able if self.catalog.of_family(known)), able[0])
        return family, f"Voice {voice.name!r}", "voice"


def _check_task_of_clone(request: SpeechRequest) -> None:
    if request.task_type not in (None, "Base"):
        message = f"ref_audio goes with task_type 'Base', not with {request.task_type!r}."
        raise invalid(message, "ref_audio", "unsupported_by_model")
