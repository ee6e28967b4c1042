"""config.yaml -> frozen structs. Every default lives here; config.yaml repeats them with comments.

An unknown key or a wrong value is a SettingsError that names its path, the allowed keys and the
file.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from engine import RENAMED_KEYS, EngineConfig, ModelSpec
from qtts_openai.voices import OPENAI_NAMES, VoiceEntry

MIB = 1 << 20

PositiveInt = Annotated[int, Meta(gt=0)]
Seconds = Annotated[float, Meta(ge=0)]
SegmentChars = Annotated[int, Meta(ge=50)]


class SettingsError(Exception):
    """The configuration cannot be used; the message names the file, the key and the fix."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ServerSettings(Section, frozen=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # On SIGTERM: how long running answers may take to end.
    drain_s: Seconds = 30.0
    # Origins a browser page may call from, or ["*"].
    cors_origins: tuple[str, ...] = ()


class ModelSettings(Section, frozen=True):
    """One checkpoint, and the other names a request may use for it."""

    id: str
    checkpoint: str
    revision: str | None = None
    aliases: tuple[str, ...] = ()
    # Longer texts are spoken in pieces of whole sentences; null: in one.
    segment_chars: SegmentChars | None = None

    def spec(self) -> ModelSpec:
        return ModelSpec(id=self.id, checkpoint=self.checkpoint, revision=self.revision)


class Limits(Section, frozen=True):
    max_input_chars: PositiveInt = 4096
    max_instructions_chars: PositiveInt = 4096
    max_body_bytes: PositiveInt = 20 * MIB
    max_batch_items: Annotated[int, Meta(ge=1, le=32)] = 32
    # Per key, or per address where there are no keys; 0: no limit.
    max_concurrent_per_key: Annotated[int, Meta(ge=0)] = 0
    chars_per_minute: Annotated[int, Meta(ge=0)] = 0


class Defaults(Section, frozen=True):
    """What a request that leaves out `model` or `voice` gets; null keeps OpenAI's 400."""

    model: str | None = None
    voice: str | None = None


class AuthSettings(Section, frozen=True):
    """Keys also come from $QTTS_API_KEYS; without any key the server is open."""

    # A file with one key a line.
    keys_file: str | None = None


class VoiceSettings(Section, frozen=True):
    # Where voices that users make are kept.
    directory: str = "data"
    max_voices: PositiveInt = 200
    # OpenAI's 13 names -> speakers of CustomVoice checkpoints.
    aliases: dict[str, str] = msgspec.field(default_factory=lambda: dict(OPENAI_NAMES))
    # More voices, or other ones under known names; see voices.yaml of the package for the fields.
    extra: tuple[VoiceEntry, ...] = ()


class RefAudioSettings(Section, frozen=True):
    """Reference audio of requests, and samples of stored voices."""

    max_bytes: PositiveInt = 10 * MIB
    min_s: Seconds = 0.5
    max_s: Seconds = 60.0
    # Fetch http and https URLs, from public addresses only.
    allow_http: bool = False
    http_timeout_s: Seconds = 10.0
    # Read file: URLs, below this directory only.
    files_directory: str | None = None


class TextSettings(Section, frozen=True):
    # "qwen" is what the models were trained with; "mistral" is what the official package uses
    # on a local directory.
    pretokenizer: Literal["qwen", "mistral"] = "qwen"
    # Input beyond limits.max_input_chars is accepted up to here and cut at sentences; 0: off.
    max_long_chars: Annotated[int, Meta(ge=0)] = 0
    # Such input is spoken in pieces of whole sentences, at most this long.
    segment_chars: SegmentChars = 400
    # Read `[pause:500ms]` as silence in every request, not only in those with pause_tags: true.
    pause_tags: bool = False
    max_pause_s: Seconds = 10.0
    # Words and how to say them, in every request.
    pronunciations: dict[str, str] = msgspec.field(default_factory=dict)


EMBEDDED = ModelSettings(
    id="qtts-embedded",
    checkpoint="embedded",
    aliases=(
        "tts-1",
        "tts-1-1106",
        "tts-1-hd",
        "tts-1-hd-1106",
        "gpt-4o-mini-tts",
        "gpt-4o-mini-tts-2025-03-20",
        "gpt-4o-mini-tts-2025-12-15",
    ),
    segment_chars=150,
)


class Settings(Section, frozen=True):
    server: ServerSettings = ServerSettings()
    engine: EngineConfig = EngineConfig()
    models: Annotated[tuple[ModelSettings, ...], Meta(min_length=1)] = (EMBEDDED,)
    defaults: Defaults = Defaults()
    auth: AuthSettings = AuthSettings()
    limits: Limits = Limits()
    voices: VoiceSettings = VoiceSettings()
    ref_audio: RefAudioSettings = RefAudioSettings()
    text: TextSettings = TextSettings()

    def specs(self) -> list[ModelSpec]:
        return [model.spec() for model in self.models]


def load_settings(path: str | None = None) -> Settings:
    """From `path`, else $QTTS_CONFIG, else ./config.yaml where there is one, else the defaults."""
    chosen = path or os.environ.get("QTTS_CONFIG")
    if chosen is None:
        if not Path("config.yaml").is_file():
            return Settings()
        chosen = "config.yaml"
    try:
        text = Path(chosen).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{chosen}: cannot be read: {error}") from error
    return parse_settings(text, chosen)


def parse_settings(text: str, name: str = "config.yaml") -> Settings:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}: not valid YAML: {error}") from error
    try:
        settings = msgspec.convert({} if tree is None else tree, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{name}: {_explain(str(error))}") from error
    _check_names(settings, name)
    return settings


def _check_names(settings: Settings, name: str) -> None:
    seen: set[str] = set()
    for model in settings.models:
        for word in (model.id, *model.aliases):
            if word.lower() in seen:
                raise SettingsError(f"{name}: models: the name {word!r} is used twice")
            seen.add(word.lower())


def _explain(message: str) -> str:
    """msgspec's text with the path first, and for an unknown key the keys that exist there."""
    what, _, path = message.partition(" - at `$")
    where = path.rstrip("`").lstrip(".")
    unknown = re.search(r"unknown field `(.+)`", what)
    if unknown is not None:
        key = f"{where}.{unknown[1]}" if where else unknown[1]
        if where == "engine" and unknown[1] in RENAMED_KEYS:
            return f"{key} is called engine.{RENAMED_KEYS[unknown[1]]} now"
        known = [field.encode_name for field in _type_at(where).fields]
        return f"{key} is not a known key; known here: {', '.join(known)}"
    if "enum value" in what:
        kinds = getattr(_type_at(where), "types", [_type_at(where)])
        values = [repr(value) for kind in kinds for value in getattr(kind, "values", ())]
        also = " or a whole number" if len(kinds) > 1 else ""
        what += f"; use one of {', '.join(values)}{also}"
    return f"{where or 'top level'}: {what}"


def _type_at(where: str) -> Any:
    """The msgspec type behind a path such as `models[0].id`."""
    node: Any = msgspec.inspect.type_info(Settings)
    for part in filter(None, re.split(r"\.|\[\d+\]|\[\.\.\.\]", where)):
        node = next(field.type for field in node.fields if field.name == part)
        node = getattr(node, "item_type", node)
    return node
