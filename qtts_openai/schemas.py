"""What a request may hold, and how it is read.

In: the bytes of a body, or the fields of a form. Out: a struct whose fields have their types and
are in their ranges, and the names of fields that nothing reads. The fields are OpenAI's and, on the
same level, those of other speech servers. null and "" mean absent (but for `input`); unknown fields
are ignored and reported; a known field of the wrong type or range is a 400 that names it.
"""

import codecs
import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from qtts_openai.answers import TaskType
from qtts_openai.errors import ApiError, invalid

Level = Literal["none", "clean", "full"]
AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm", "ulaw", "alaw"]

# Sent by openai-agents for OpenAI's own model; neither a style nor a description of a voice.
_AGENTS_INSTRUCTION = "you will receive partial sentences"

_ALIASES = {"speaker": "voice", "instruct": "instructions"}

# G.711 by the names that telephony, RTP, FFmpeg and other speech APIs have for it.
_FORMAT_ALIASES = {
    **dict.fromkeys(
        ("mulaw", "mu-law", "mu_law", "g711_ulaw", "g711_mulaw", "pcmu", "pcm_mulaw", "ulaw_8000"),
        "ulaw",
    ),
    **dict.fromkeys(("a-law", "a_law", "g711_alaw", "pcma", "pcm_alaw", "alaw_8000"), "alaw"),
}

T = TypeVar("T")


# Shown to people and found again by it; what one may be: names.clean.
Name = Annotated[
    str,
    Meta(
        max_length=100,
        extra_json_schema={"minLength": 1, "pattern": r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$"},
    ),
]

Word = Annotated[str, Meta(min_length=1, max_length=100)]


class VoiceId(msgspec.Struct, frozen=True):
    id: Annotated[str, Meta(max_length=200)]


class SpeechRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/audio/speech."""

    input: Annotated[str, Meta(extra_json_schema={"minLength": 1, "pattern": r"\S"})]
    model: str | None = None
    voice: Annotated[str, Meta(max_length=200)] | VoiceId | None = None
    instructions: str | None = None
    response_format: AudioFormat = "mp3"
    speed: Annotated[float, Meta(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    # Among server-sent events: when each word is heard.
    timestamps: Literal["word"] | None = None
    # null: as the settings say.
    stream: bool | None = None
    # null: 24000, or what the format has.
    sample_rate: Annotated[int, Meta(ge=8000, le=48000)] | None = None
    task_type: TaskType | None = None
    language: str | None = None
    lang_code: str | None = None
    ref_audio: str | None = None
    ref_text: str | None = None
    x_vector_only_mode: bool = False
    # The id of a consent to clone, beside ref_audio or speaker_embedding.
    consent: Annotated[str, Meta(max_length=2000)] | None = None
    # What a Base model's encoder makes of a recording, in place of ref_audio.
    speaker_embedding: Annotated[list[float], Meta(min_length=1, max_length=16384)] | None = None
    non_streaming_mode: bool | None = None
    seed: Annotated[int, Meta(ge=-1, le=2**63 - 1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=100_000)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    max_new_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    # What is done to the text before it is tokenised; null: as the settings say.
    normalize: Level | None = None
    # `[pause:500ms]` in the input; null: as the settings say.
    pause_tags: bool | None = None
    # Words and how to say them, on top of those of the settings.
    pronunciations: Annotated[dict[Word, Word], Meta(max_length=200)] = {}

    @property
    def voice_name(self) -> str | None:
        name = self.voice.id if isinstance(self.voice, VoiceId) else self.voice
        return name.strip() or None if name else None


class VoiceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What POST /v1/audio/voices holds beside the file `audio_sample`.

    `ref_text` is what the sample says. `script_hint` is what a described voice says first.
    `overwrite`: false keeps a voice that has the name already. `shared`: for everybody, not for the
    own key only; an admin key may.
    """

    name: Name
    type: Literal["audio_sample", "prompt"] | None = None
    prompt: str | None = None
    # A voice consent's id, or 10 to 2,000 characters.
    consent: Annotated[str, Meta(max_length=2000)] | None = None
    speaker_description: Annotated[str, Meta(max_length=500)] | None = None
    overwrite: bool = True
    shared: bool = False
    ref_text: Annotated[str, Meta(max_length=2000)] | None = None
    script_hint: Annotated[str, Meta(max_length=500)] | None = None
    # Of a described voice, to keep the very one that was heard; null: a new one.
    seed: Annotated[int, Meta(ge=0, lt=2**31)] | None = None

    def kind(self, has_sample: bool) -> str:
        return self.type or ("prompt" if self.prompt and not has_sample else "audio_sample")


class ConsentRequest(msgspec.Struct, frozen=True):
    """What POST /v1/audio/voice_consents holds beside the file `recording`."""

    name: Name
    language: Annotated[str, Meta(min_length=2, max_length=35, pattern=r"^[A-Za-z0-9-]+$")]


class VoiceUpdate(msgspec.Struct, frozen=True):
    name: Name


class ConsentUpdate(msgspec.Struct, frozen=True):
    name: Name


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What POST /v1/audio/verify holds beside `file`; as text or as files.

    `manifest` is what GET /v1/audio/speech/{request_id}/manifest gave for the file. `root` is a
    certificate in PEM.
    """

    manifest: Annotated[str, Meta(max_length=64_000)] | None = None
    root: Annotated[str, Meta(max_length=16_000, pattern="-----BEGIN CERTIFICATE-----")] | None = (
        None
    )


class BatchRequest(msgspec.Struct, frozen=True):
    """Other fields of a speech request beside `items` are defaults for each item."""

    items: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=32)]


KNOWN_FIELDS = frozenset(SpeechRequest.__struct_fields__)
# What read_speech looks at.
READ_FIELDS = KNOWN_FIELDS | _ALIASES.keys() | {"references"}


# An escape in a JSON string; a pair of surrogates is one.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.S,
)
# More than that is no text that anybody would speak, and would hold the event loop.
_MAX_ESCAPES = 60_000


def _without_half_characters(raw: bytes) -> bytes:
    """Clients that cut text between two code units send half an emoji; it is left out."""
    return _ESCAPE.sub(lambda match: b"" if match[1] else match[0], raw)


# The decoder keeps the interpreter for as long as it makes values, in a thread too, so what may be
# made is bounded before: a batch of 32 items with an embedding of 2,048 numbers each has 66,000.
MAX_VALUES = 80_000
# Of objects, which cost most; 32 items with 200 pronunciations each have 7,000.
MAX_MEMBERS = 10_000
# Of strings; base64 of the largest recording with each line's end and slash escaped has 700,000.
MAX_ESCAPES = 1_000_000


def parse_json(raw: bytes, max_long_chars: int = 0) -> dict[str, Any]:
    """The body's object. `max_long_chars`: of text, whose commas look like those between values."""
    _check_values(raw, max_long_chars)
    try:
        body = _decode_json(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not raw.strip():
            raise ApiError(400, "The body of the request is empty; send a JSON object.") from None
        raise ApiError(400, f"The body of the request is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise ApiError(
            400, f"The body of the request must be a JSON object, not {type(body).__name__}."
        )
    return body


def _check_values(raw: bytes, max_long_chars: int) -> None:
    """A 400 where there may be too many values, going by the marks that stand before each."""
    if len(raw) <= MAX_MEMBERS:
        return
    letters, commas = np.frombuffer(raw, np.uint8), max_long_chars // 4
    for what, marks, most in (
        ("members", b":", MAX_MEMBERS + commas),
        ("values", b",[{", MAX_VALUES + commas),
        ("escapes", b"\\", MAX_ESCAPES + 2 * max_long_chars),
    ):
        if sum(np.count_nonzero(letters == mark) for mark in marks) > most:
            message = f"The body of the request holds more than {most} {what}."
            raise ApiError(400, message, code="too_many_values")


def _decode_json(raw: bytes) -> Any:
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        if raw.count(b"\\") > _MAX_ESCAPES or (whole := _without_half_characters(raw)) == raw:
            raise
        return msgspec.json.decode(whole)


def read_speech(body: dict[str, Any]) -> tuple[SpeechRequest, list[str]]:
    """The request in a JSON object, and the names of the fields that nothing here reads."""
    fields = {name: value for name, value in body.items() if is_given(name, value)}
    for alias, name in _ALIASES.items():
        if alias in fields:
            fields.setdefault(name, fields.pop(alias))
    audio_format = fields.get("response_format")
    if isinstance(audio_format, str):
        fields["response_format"] = _FORMAT_ALIASES.get(audio_format.lower(), audio_format)
    _take_references(fields)
    if not _are_instructions(fields.get("instructions")):
        fields.pop("instructions", None)
    ignored = sorted(fields.keys() - KNOWN_FIELDS)
    return to_struct(fields, SpeechRequest), ignored


def is_given(name: str, value: Any) -> bool:
    """Forms of clients send "" for what their user left blank."""
    return value is not None and (value != "" or name == "input")


def _are_instructions(value: Any) -> bool:
    """Clients that have none send "", "None" or a sentence of their framework."""
    if not isinstance(value, str):
        return True
    text = value.strip().lower()
    return text not in ("", "none") and not text.startswith(_AGENTS_INSTRUCTION)


def _take_references(fields: dict[str, Any]) -> None:
    """`references: [{audio_path | ref_audio | audio | data, text}]` and `ref_audio: [one]` ->
    ref_audio, ref_text.
    """
    audio = fields.get("ref_audio")
    if isinstance(audio, list):
        if len(audio) != 1:
            raise invalid("ref_audio: one reference per voice, not a list of several.", "ref_audio")
        fields["ref_audio"] = audio[0]
    if "references" not in fields:
        return
    references = fields.pop("references")
    if not (
        isinstance(references, list) and len(references) == 1 and isinstance(references[0], dict)
    ):
        raise invalid("references: a list of one object with `audio` and `text`.", "references")
    reference = references[0]
    found = next(
        (
            reference[key]
            for key in ("audio", "ref_audio", "audio_path", "data")
            if reference.get(key)
        ),
        None,
    )
    if found is None:
        raise invalid(
            "references[0]: `audio` is missing.", "references", "missing_required_parameter"
        )
    fields.setdefault("ref_audio", found)
    if reference.get("text") is not None:
        fields.setdefault("ref_text", reference["text"])


def to_struct(fields: dict[str, Any], struct: type[T]) -> T:
    try:
        return msgspec.convert(fields, struct)
    except msgspec.ValidationError as error:
        raise _from_validation(str(error), struct) from error


def _from_validation(message: str, struct: type) -> ApiError:
    """msgspec's message as a 400 with `param`: "Expected `float` <= 4.0 - at `$.speed`" and the
    like.
    """
    found = re.search(r" - at (?:`key` in )?`\$\.?([^`]*?)(?:\[\.\.\.\])?`\Z", message)
    what, param = (message[: found.start()], found[1] or None) if found else (message, None)
    missing = re.search(r"missing required field `(.+?)`", what)
    if missing:
        return missing_parameter(".".join(filter(None, (param, missing[1]))))
    if "Invalid enum value" in what:
        known = ", ".join(repr(choice) for choice in _choices(struct, param))
        return invalid(f"{param}: {what}; use one of {known}.", param)
    code = "invalid_value" if re.search(r"[<>]=? |length|range|regex", what) else "invalid_type"
    return invalid(f"{param}: {what}." if param else f"{what}.", param, code)


def _choices(struct: type, param: str | None) -> tuple[Any, ...]:
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    node = next(field.type for field in info.fields if field.encode_name == param)
    options = node.types if isinstance(node, msgspec.inspect.UnionType) else (node,)
    return next(
        option.values for option in options if isinstance(option, msgspec.inspect.LiteralType)
    )


def missing_parameter(name: str, hint: str = "") -> ApiError:
    message = f"Missing required parameter: {name!r}.{hint}"
    return invalid(message, name, "missing_required_parameter")


def shortened(names: list[str]) -> list[str]:
    """Names that a client chose: at most 20, none of them long."""
    return [name[:60] for name in names[:20]]


def header_list(names: list[str]) -> str:
    """Field names for a header: at most 20, of printable ASCII only."""
    return ", ".join(re.sub(r"[^\x21-\x7e]|,", "?", name) for name in shortened(names))
