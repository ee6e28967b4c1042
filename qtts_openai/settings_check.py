"""References of the settings that only loaded models can answer: voices and speakers.

A server whose settings hold a name that means nothing does not start: otherwise it would refuse
what relies on that name, or speak it with a stand-in.
"""

from collections.abc import Iterable

from engine import ModelInfo
from qtts_openai.errors import ApiError
from qtts_openai.settings import Settings, SettingsError
from qtts_openai.voices.presets import packaged_entries
from qtts_openai.voices.resolver import VoiceResolver


def check_references(settings: Settings, resolver: VoiceResolver) -> None:
    """SettingsError that names the key."""
    models = list(resolver.catalog.models.values())
    _check_speakers(settings, models)
    _check_default_voice(settings, resolver, models)


def _check_speakers(settings: Settings, models: Iterable[ModelInfo]) -> None:
    """Speakers of Qwen's checkpoints are known without one: another stands in for them."""
    known = {entry.speaker.lower() for entry in packaged_entries() if entry.speaker}
    known |= {speaker.lower() for model in models for speaker in model.speakers}
    named = {f"voices.aliases.{name}": to for name, to in settings.voices.aliases.items()}
    named |= {
        f"voices.extra[{at}].speaker": entry.speaker
        for at, entry in enumerate(settings.voices.extra)
        if entry.speaker
    }
    for key, speaker in named.items():
        if speaker.lower() not in known:
            names = ", ".join(sorted(known))
            raise SettingsError(f"there is no speaker {speaker!r}; speakers: {names}", key)


def _check_default_voice(
    settings: Settings, resolver: VoiceResolver, models: list[ModelInfo]
) -> None:
    name = settings.defaults.voice
    if name is None:
        return
    try:
        voice = resolver.preset(name)
    except ApiError as error:
        raise SettingsError(error.message, "defaults.voice") from error
    families = voice.families()
    if not any(model.model_type in families for model in models):
        raise SettingsError(f"no loaded model can speak with {name!r}", "defaults.voice")
