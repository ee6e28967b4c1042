"""The loaded checkpoints: found by id or alias, and picked by family where an alias leaves the
choice.

An id is meant literally: a request that names one and asks for what it cannot do is a 400 that says
which loaded model would do. An alias such as tts-1 only asks for speech, so any loaded checkpoint
of the right family answers.
"""

from collections.abc import Mapping, Sequence

import msgspec

from engine import ModelInfo
from qtts_openai.answers import TaskType
from qtts_openai.errors import ApiError, invalid
from qtts_openai.settings import ModelSettings
from qtts_openai.text.characters import has_text
from qtts_openai.text.prompt_builder import Pretokenizer, PromptBuilder
from qtts_openai.voices import names

# What asks for speech alone, as an alias does: of the first model, or of the one that can.
ANY_MODEL = "default"

FAMILIES: dict[str, TaskType] = {
    "custom_voice": "CustomVoice",
    "voice_design": "VoiceDesign",
    "base": "Base",
}


class NamedModel(msgspec.Struct, frozen=True):
    """A model as a request named it."""

    name: str
    info: ModelInfo
    is_alias: bool


class Catalog:
    def __init__(
        self,
        configured: Sequence[ModelSettings],
        loaded: Mapping[str, ModelInfo],
        pretokenizer: Pretokenizer,
    ) -> None:
        self.models = dict(loaded)
        self.builders = {name: PromptBuilder(info, pretokenizer) for name, info in loaded.items()}
        self._longest = {model.id: model.instructions_chars for model in configured}
        self._named = {name: NamedModel(name, info, False) for name, info in loaded.items()}
        for model in configured:
            for alias in model.aliases:
                self._named[alias] = NamedModel(alias, loaded[model.id], True)
        first = configured[0].id
        anyone = NamedModel(first, loaded[first], True)
        self._by_key = {ANY_MODEL: anyone} | {
            names.key(name): named for name, named in self._named.items()
        }

    def all(self) -> list[NamedModel]:
        """Ids first, then aliases."""
        return sorted(self._named.values(), key=lambda named: named.is_alias)

    def find(self, name: str) -> NamedModel:
        found = self._by_key.get(names.key(name))
        if found is None:
            known = ", ".join(self._named)
            message = f"The model {name!r} does not exist here. Known models: {known}."
            raise ApiError(404, message, param="model", code="model_not_found")
        return found

    def reads(self, model: ModelInfo, instructions: str) -> bool:
        """Whether the model can make anything of instructions as long as these."""
        longest = self._longest.get(model.id)
        return longest is None or len(instructions) <= longest

    def check_description(self, model: ModelInfo, text: str, param: str) -> None:
        """A 400 where `model` cannot make a voice of `text`."""
        if not has_text(text):
            message = f"{param}: describe the voice in words."
            raise invalid(message, param, "missing_required_parameter")
        if not self.reads(model, text):
            message = (
                f"{param}: {len(text)} characters, and model {model.id!r} reads descriptions of"
                f" at most {self._longest[model.id]}."
            )
            raise invalid(message, param, "string_above_max_length")

    def of_family(self, family: str) -> ModelInfo | None:
        return next((info for info in self.models.values() if info.model_type == family), None)

    def need(self, family: str, what: str, param: str) -> ModelInfo:
        """A model of `family`, or a 400 that starts with `what`."""
        model = self.of_family(family)
        if model is None:
            name = FAMILIES[family]
            message = f"{what} needs a {name} model, and none is loaded; add one under models:."
            raise invalid(message, param, "unsupported_by_model")
        return model

    def pick(self, named: NamedModel, family: str, reason: str, param: str) -> ModelInfo:
        """The named model if it is of `family`, else a stand-in for an alias, else a 400 that
        starts with `reason`.
        """
        if named.info.model_type == family:
            return named.info
        other = self.of_family(family)
        if other is not None and named.is_alias:
            return other
        advice = (
            f"use model {other.id!r}"
            if other
            else f"load a {FAMILIES[family]} checkpoint to use it"
        )
        message = (
            f"{reason} needs a {FAMILIES[family]} model, and {named.name!r} is not one; {advice}."
        )
        raise invalid(message, param, "unsupported_by_model")
