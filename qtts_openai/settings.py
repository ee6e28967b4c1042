"""config.yaml -> frozen structs. Every default lives here; config.yaml repeats them with comments.

An unknown key or a wrong value is a SettingsError that names its path, the allowed keys and the
file.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine import Backend, EngineConfig, ModelSpec
from qtts_openai.schemas import AudioFormat, Level

KIB = 1 << 10
MIB = 1 << 20

# Upper bounds are far beyond use: they catch slips of units, and infinity.
Chars = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=1 << 30)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=86_400)]
SegmentChars = Annotated[int, Meta(ge=50, le=100_000)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
# Of models and voices: what a request can name, and a header can hold.
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\s\x00-\x1f\x7f](.*\S)?\Z")]
Word = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"\S")]
PathName = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]*\Z")]
Origin = Annotated[str, Meta(max_length=300, pattern=r"^(\*|https?://[^/\s]+)\Z")]
StoreUrl = Annotated[str, Meta(max_length=1000, pattern=r"^(memory|(rediss?|unix)://\S+)\Z")]
_BUCKET = r"^(s3a?|gs|az|adl|abfss?)://[^\s/]+(/\S*)?\Z"
BucketUrl = Annotated[str, Meta(max_length=1000, pattern=_BUCKET)]
HostName = Annotated[str, Meta(min_length=1, max_length=300, pattern=r"^\S+\Z")]


# Steps of text/pipeline.py.
CleanStep = Literal[
    "line_ends", "emoji", "invisible", "letters", "control_tokens", "formulas", "markup",
    "spaces", "wrapped_lines", "line_marks",
]  # fmt: skip
FullStep = Literal["figures", "plain_marks", "last_mark", "one_line"]
Step = CleanStep | FullStep

Gender = Literal["female", "male", "neutral"]

OPENAI_NAMES = {
    "alloy": "vivian", "ash": "ryan", "ballad": "eric", "cedar": "uncle_fu", "coral": "serena",
    "echo": "aiden", "fable": "dylan", "marin": "serena", "nova": "vivian", "onyx": "uncle_fu",
    "sage": "sohee", "shimmer": "ono_anna", "verse": "ryan",
}  # fmt: skip


class VoiceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the table; the fields are explained in voices.yaml."""

    name: str
    gender: Gender = "neutral"
    language: str = "Auto"
    description: str = ""
    speaker: str | None = None
    prompt: str | None = None


class SettingsError(Exception):
    """The configuration cannot be used; the message names the file, the key and the fix."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ServerSettings(Section, frozen=True):
    host: Annotated[str, Meta(min_length=1, max_length=255)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # POST /admin/drain listens here, for $QTTS_ADMIN_KEY only; 0: off.
    admin_host: Annotated[str, Meta(min_length=1, max_length=255)] = "127.0.0.1"
    admin_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    # One JSON object a line, for log collectors.
    json_logs: bool = False
    # An OpenTelemetry collector that takes OTLP over HTTP; needs the extra `otel`.
    traces: Annotated[str, Meta(pattern="^https?://")] | None = None
    # On SIGTERM: how long running answers may take to end.
    drain_s: Seconds = 30.0
    # The page to try voices with, at / and /studio.
    page: bool = True
    # Origins a browser page may call from, or ["*"].
    cors_origins: tuple[Origin, ...] = ()
    # Names of this server, as in Host; "*.example.com" and "*" too. Empty: any name, but for a
    # server on loopback without keys: none. Addresses and names without a dot always pass.
    allowed_hosts: tuple[HostName, ...] = ()
    # Addresses or networks of proxies whose X-Forwarded-For and -Proto are believed.
    trusted_proxies: tuple[HostName, ...] = ()
    # How long a connection may wait for its next request.
    keep_alive_s: PositiveSeconds = 75.0
    # The first and the last byte of a request's head, and of its body (and 1 s per 64 KiB more).
    head_timeout_s: PositiveSeconds = 10.0
    body_timeout_s: PositiveSeconds = 60.0
    # A client that reads nothing for so long loses its answer.
    write_timeout_s: PositiveSeconds = 60.0
    max_head_bytes: Annotated[int, Meta(ge=4096, le=1 << 24)] = 64 * KIB
    # Of a WebSocket: room for reference audio; texts have less.
    max_message_bytes: Annotated[int, Meta(ge=4096, le=1 << 30)] = 16 * MIB
    # 0: by the limit of open files.
    max_connections: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class ModelSettings(Section, frozen=True):
    """One checkpoint, and the other names a request may use for it."""

    id: Name
    checkpoint: PathName
    revision: Name | None = None
    backend: Backend | None = None
    aliases: tuple[Name, ...] = ()
    # Longer texts are spoken in pieces of whole sentences; null: in one.
    segment_chars: SegmentChars | None = None
    # Longer instructions say it nothing: a style is ignored, a description is a 400; null: any do.
    instructions_chars: Chars | None = None
    # As in `text`; null: what is said there.
    normalize: Level | None = None

    def spec(self) -> ModelSpec:
        return ModelSpec(self.id, self.checkpoint, self.revision, self.backend)


class Limits(Section, frozen=True):
    max_input_chars: Chars = 4096
    max_instructions_chars: Chars = 4096
    # Of any route; most have less, by what their fields may hold.
    max_body_bytes: Bytes = 20 * MIB
    max_batch_items: Annotated[int, Meta(ge=1, le=32)] = 32
    # Per key, or per address where there are no keys; 0: no limit.
    max_concurrent_per_key: Count = 0
    chars_per_minute: Count = 0
    # Where those two are counted: in this process, or for several servers together in a Redis.
    # Its password may come from $QTTS_REDIS_PASSWORD instead.
    store: StoreUrl = "memory"


class Defaults(Section, frozen=True):
    """What a request that leaves a field out gets. `model` and `voice`: null keeps OpenAI's 400."""

    model: Name | None = None
    voice: Name | None = None
    # Audio as it is made; false: one body once it is whole, with exact sizes.
    stream: bool = True
    # Formats that are sent whole in any case, for clients that need to read their length.
    exact_sizes: tuple[AudioFormat, ...] = ()

    def streams(self, audio_format: AudioFormat) -> bool:
        return self.stream and audio_format not in self.exact_sizes


class LiveSettings(Section, frozen=True):
    """Speech of text that comes while it is spoken, over WebSockets."""

    # Speaking begins with so many whole words, at a flush, or this long after the first whole word.
    start_words: Annotated[int, Meta(ge=1, le=100)] = 1
    start_after_s: Seconds = 0.25
    # A turn that is longer goes on as a new utterance at the next end of a sentence.
    cut_after_s: Annotated[float, Meta(ge=5, le=60)] = 25.0
    ahead_s: Annotated[float, Meta(ge=1, le=3600)] = 10.0
    max_sessions: Annotated[int, Meta(ge=0, le=1_000_000)] = 256
    # The first message must come within so long; without text and speech a session ends after:
    config_timeout_s: PositiveSeconds = 10.0
    idle_timeout_s: PositiveSeconds = 30.0
    # A client that takes nothing for so long is disconnected.
    send_timeout_s: PositiveSeconds = 5.0
    max_text_message_bytes: Bytes = 128 * KIB
    # Voices of other vendors' dialects by their names there; a name that is neither one of these
    # nor ours is an error, or the default voice.
    voices: dict[Name, Name] = msgspec.field(default_factory=dict)
    unknown_voice: Literal["error", "default"] = "error"
    max_held_chars: Chars = 262_144


class AlignmentSettings(Section, frozen=True):
    """When words are heard: by a model for CTC over letters, or null: estimated."""

    checkpoint: PathName | None = None


class CacheSettings(Section, frozen=True):
    """Speech of requests with a seed, or temperature 0, is kept for the next one alike."""

    # Of PCM, 48,000 for a second of speech; 0: off.
    max_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 0


class ProvenanceSettings(Section, frozen=True):
    """What tells our speech from a person's."""

    # Say that a machine made it: in the file where its format has a place, in headers and events.
    mark: bool = True
    # In wav streams, too, where it must come before the samples: some clients know only 44 bytes
    # of header.
    mark_wav_streams: bool = False
    # In the sound itself, in every format; speech begins 0.3 s of audio later. Needs the extra
    # "watermark".
    watermark: bool = False
    # Sign answers: a C2PA manifest in whole mp3, wav and flac files, a statement by request id
    # beside every answer. Needs the extra "provenance", and what `qtts keys create` makes or an
    # authority gave: the signer's certificate and those above it, and its key, in PEM.
    c2pa: bool = False
    certificate: PathName | None = None
    key: PathName | None = None
    # A URL (RFC 3161) that is asked, for each file, to say when it was signed.
    time_authority: Annotated[str, Meta(max_length=2000, pattern=r"^https?://\S+\Z")] | None = None
    # How many statements are kept, and how long.
    max_manifests: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    manifest_keep_s: PositiveSeconds = 3600.0


class CloningSettings(Section, frozen=True):
    # off: voices from a sample come with any words; stored: with the id of a consent that is
    # there; all: reference audio in requests, too.
    require_consent: Literal["off", "stored", "all"] = "off"
    # A consent this old counts no more; 0: never.
    consent_days: Annotated[float, Meta(ge=0, le=36_500)] = 0.0
    # Where a Base model is loaded: the least cosine between what its speaker encoder hears in a
    # sample and in the recording of its consent; 0: not compared. What is less is refused, or told
    # of in the voice and the logs.
    consent_similarity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    on_mismatch: Literal["refuse", "flag"] = "refuse"
    # A directory of recordings whose voices are not cloned: those at least so like one of them.
    protected_voices: PathName | None = None
    protected_similarity: Annotated[float, Meta(gt=0, le=1)] = 0.75


class AuditSettings(Section, frozen=True):
    """A log of voices, consents and speech with cloned voices in which changes show."""

    path: PathName | None = None
    # Each line is on disk before what it tells of goes on.
    fsync: bool = True
    # Then the file is renamed, and the next goes on from it.
    max_bytes: Annotated[int, Meta(ge=1024, le=1 << 40)] = 64 * MIB
    # Renamed files; 0: all.
    keep_files: Count = 0


class AuthSettings(Section, frozen=True):
    """Keys also come from $QTTS_API_KEYS; without any key the server is open."""

    # A file with `key` or `name: key` in each line; read again when it changes and on SIGHUP.
    keys_file: PathName | None = None
    # Names of the keys that may do everything, also to what belongs to others.
    admin_keys: tuple[Name, ...] = ("admin",)


class VoiceSettings(Section, frozen=True):
    # Where voices that users make are kept.
    directory: PathName = "data"
    # A bucket that is used instead, where servers on several machines share their voices. Keys and
    # endpoints come from the environment, as the provider's own tools read them.
    object_store: BucketUrl | None = None
    # Of one owner; consents likewise.
    max_voices: Annotated[int, Meta(ge=1, le=1_000_000)] = 200
    # OpenAI's 13 names -> speakers of CustomVoice checkpoints.
    aliases: dict[Name, Name] = msgspec.field(default_factory=lambda: dict(OPENAI_NAMES))
    # More voices, or other ones under known names; see voices.yaml of the package for the fields.
    extra: tuple[VoiceEntry, ...] = ()


class RefAudioSettings(Section, frozen=True):
    """Reference audio of requests, and samples of stored voices."""

    max_bytes: Bytes = 10 * MIB
    min_s: Seconds = 0.5
    max_s: Seconds = 60.0
    # A file that takes longer to decode is a 400.
    decode_timeout_s: Annotated[float, Meta(gt=0)] = 10.0
    # Fetch http and https URLs, from public addresses only.
    allow_http: bool = False
    http_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    # Read file: URLs, below this directory only.
    files_directory: PathName | None = None


class TextSettings(Section, frozen=True):
    # "qwen" is what the models were trained with; "mistral" is what the official package uses
    # on a local directory.
    pretokenizer: Literal["qwen", "mistral"] = "qwen"
    # What is done to a text before it is tokenised, unless a model or a request says otherwise.
    # clean: characters, markup and lines; full: figures and signs as words, too.
    normalize: Level = "clean"
    # Steps that are left out.
    skip_steps: tuple[Step, ...] = ()
    # Left out, or said in words.
    emoji: Literal["drop", "name"] = "drop"
    code_blocks: Literal["speak", "drop"] = "speak"
    # A text of nothing but letters that the model has no language for: a 400, or tried.
    unknown_scripts: Literal["refuse", "speak"] = "refuse"
    # No utterance is expected to take longer than this; what would is cut at sentences.
    segment_s: Annotated[float, Meta(ge=5)] = 60.0
    # Input beyond limits.max_input_chars is accepted up to here and cut at sentences; 0: off.
    max_long_chars: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    # Such input is spoken in pieces of whole sentences, at most this long.
    segment_chars: SegmentChars = 400
    # Read `[pause:500ms]` as silence in every request, not only in those with pause_tags: true.
    pause_tags: bool = False
    max_pause_s: Seconds = 10.0
    # Of all pauses of one answer together.
    max_total_pause_s: Seconds = 60.0
    # Words and how to say them, in every request.
    pronunciations: dict[Word, Word] = msgspec.field(default_factory=dict)


OPENAI_MODELS = (
    "tts-1", "tts-1-1106", "tts-1-hd", "tts-1-hd-1106",
    "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-03-20", "gpt-4o-mini-tts-2025-12-15",
)  # fmt: skip


def _embedded(checkpoint: str, aliases: tuple[str, ...] = ()) -> ModelSettings:
    """It has learnt from short texts without figures, and from short instructions."""
    return ModelSettings(
        id=f"qtts-{checkpoint}",
        checkpoint=checkpoint,
        aliases=aliases,
        segment_chars=150,
        instructions_chars=200,
        normalize="full",
    )


DEFAULT_MODELS = (
    _embedded("embedded", OPENAI_MODELS),
    _embedded("embedded-voice-design"),
    _embedded("embedded-base"),
)


class Settings(Section, frozen=True):
    server: ServerSettings = ServerSettings()
    engine: EngineConfig = EngineConfig()
    models: Annotated[tuple[ModelSettings, ...], Meta(min_length=1)] = DEFAULT_MODELS
    defaults: Defaults = Defaults()
    auth: AuthSettings = AuthSettings()
    limits: Limits = Limits()
    voices: VoiceSettings = VoiceSettings()
    ref_audio: RefAudioSettings = RefAudioSettings()
    text: TextSettings = TextSettings()
    cache: CacheSettings = CacheSettings()
    provenance: ProvenanceSettings = ProvenanceSettings()
    cloning: CloningSettings = CloningSettings()
    audit: AuditSettings = AuditSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    live: LiveSettings = LiveSettings()

    def specs(self) -> list[ModelSpec]:
        return [model.spec() for model in self.models]
