"""What the routes answer with: one struct a JSON body, from which /openapi.json is made.

In: values of the server's own, already checked. Out: JSON as OpenAI's clients read it, with the
fields in the order they have here. A field that is UNSET is left out; one that is None is null.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

TaskType = Literal["CustomVoice", "VoiceDesign", "Base"]
Seconds = Annotated[float, Meta(description="seconds", examples=[3.2])]
UnixTime = Annotated[int, Meta(description="seconds since 1970", examples=[1767225600])]


class Answer(Struct, frozen=True):
    """Fields are written in this order."""


# ---- errors ----


ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class ErrorDetail(Answer, frozen=True, kw_only=True):
    message: Annotated[str, Meta(description="what is wrong and what to do about it")]
    type: ErrorType
    param: Annotated[str | None, Meta(description="the field it is about")]
    code: Annotated[str | None, Meta(description="for programs; docs/api.md lists them")]


class ErrorAnswer(Answer, frozen=True, kw_only=True):
    """OpenAI's error envelope, the body of every answer that is not a success."""

    error: ErrorDetail


# ---- models ----


class ModelVoice(Answer, frozen=True, kw_only=True):
    name: str
    language: str


class ModelAnswer(Answer, frozen=True, kw_only=True):
    """A loaded checkpoint under its id or one of its aliases; `root` is the id."""

    id: Annotated[str, Meta(examples=["tts-1"])]
    object: Literal["model"] = "model"
    created: UnixTime
    owned_by: str = "qtts"
    shutdown_date: None = None
    root: str
    task_type: TaskType
    languages: Annotated[list[str], Meta(examples=[["english", "german"]])]
    voices: list[ModelVoice]
    sample_rate: int
    random_weights: Annotated[bool, Meta(description="true: it makes noise, for tests")]


class ModelList(Answer, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class SpeechModel(Answer, frozen=True, kw_only=True):
    id: str
    name: str


class SpeechModelList(Answer, frozen=True, kw_only=True):
    models: list[SpeechModel]


# ---- voices ----


class VoiceAnswer(Answer, frozen=True, kw_only=True):
    """A voice. The fields from `created_at` on are those of stored voices, as they were sent."""

    id: Annotated[str, Meta(examples=["alloy"])]
    object: Literal["audio.voice"] = "audio.voice"
    name: Annotated[str, Meta(examples=["alloy"])]
    language: Annotated[str, Meta(description="one that its models speak, or Auto")]
    gender: Literal["female", "male", "neutral"]
    description: str
    type: Literal["speaker", "prompt", "audio_sample"]
    available: Annotated[bool, Meta(description="a model that can speak it is loaded")]
    models: Annotated[list[str], Meta(description="the loaded models that can speak it")]
    needs: Annotated[list[TaskType], Meta(description="the families that can speak it")]
    created_at: UnixTime | UnsetType = UNSET
    shared: Annotated[bool, Meta(description="everybody may use it")] | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    consent: str | UnsetType = UNSET
    consent_similarity: (
        Annotated[float, Meta(description="to the voice of its consent, at most 1")] | UnsetType
    ) = UNSET
    ref_text: str | UnsetType = UNSET
    mime_type: str | UnsetType = UNSET
    file_size: Annotated[int, Meta(description="bytes")] | UnsetType = UNSET
    duration: Seconds | UnsetType = UNSET
    speaker_description: str | UnsetType = UNSET
    disabled: Annotated[bool, Meta(description="its consent was withdrawn")] | UnsetType = UNSET


class CreatedVoice(VoiceAnswer, frozen=True, kw_only=True):
    """The voice itself, and once more under `voice`, where other servers have it."""

    success: bool = True
    voice: VoiceAnswer


class VoiceList(Answer, frozen=True, kw_only=True):
    """`voices` and `data` are the same; `uploaded_voices` are the stored ones of them."""

    object: Literal["list"] = "list"
    voices: list[VoiceAnswer]
    data: list[VoiceAnswer]
    uploaded_voices: list[VoiceAnswer]


class VoiceNames(Answer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The list with `names_only` or `legacy`."""

    voices: list[str]
    uploaded_voices: list[str]


class DeletedVoice(Answer, frozen=True, kw_only=True):
    id: str
    deleted: bool = True
    object: Literal["audio.voice.deleted"] = "audio.voice.deleted"


# ---- consents ----


class ConsentAnswer(Answer, frozen=True, kw_only=True):
    id: Annotated[str, Meta(examples=["cons_1234"])]
    object: Literal["audio.voice_consent"] = "audio.voice_consent"
    created_at: UnixTime
    name: str
    language: Annotated[str, Meta(examples=["en-US"])]
    expires_at: UnixTime | UnsetType = UNSET


class ConsentList(Answer, frozen=True, kw_only=True):
    """A page; `last_id` is the next page's `after`."""

    object: Literal["list"] = "list"
    data: list[ConsentAnswer]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedConsent(Answer, frozen=True, kw_only=True):
    """`disabled_voices`: ids of those that were disabled with it, where there are any."""

    id: str
    deleted: bool = True
    object: Literal["audio.voice_consent"] = "audio.voice_consent"
    disabled_voices: list[str] | UnsetType = UNSET


# ---- batches ----


class UsageAnswer(Answer, frozen=True, kw_only=True):
    """`input_tokens`: ids of the prompt; `output_tokens`: frames of 80 ms."""

    input_tokens: int
    output_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, num_ids: int, num_frames: int) -> "UsageAnswer":
        total = num_ids + num_frames
        return cls(input_tokens=num_ids, output_tokens=num_frames, total_tokens=total)


class SpokenItem(Answer, frozen=True, kw_only=True, tag_field="status", tag="success"):
    index: Annotated[int, Meta(ge=0)]
    media_type: Annotated[str, Meta(examples=["audio/mpeg"])]
    finish_reason: Annotated[str, Meta(extra_json_schema={"enum": ["stop", "length"]})]
    usage: UsageAnswer
    ignored_fields: list[str]
    # What made it; see docs/safety.md.
    synthetic_speech: dict[str, str] | UnsetType = UNSET
    audio_data: Annotated[str, Meta(extra_json_schema={"contentEncoding": "base64"})]


class FailedItem(Answer, frozen=True, kw_only=True, tag_field="status", tag="error"):
    """`error` is the message of `error_detail`."""

    index: Annotated[int, Meta(ge=0)]
    error: str
    error_detail: ErrorDetail


class BatchAnswer(Answer, frozen=True, kw_only=True):
    """`results` are in the order of the items."""

    id: Annotated[str, Meta(examples=["batch_0123"])]
    object: Literal["audio.speech.batch"] = "audio.speech.batch"
    results: list[SpokenItem | FailedItem]
    total: int
    succeeded: int
    failed: int
    ignored_fields: list[str]


# ---- where a file is from ----


class Finding(Answer, frozen=True, kw_only=True):
    """`untrusted`: unchanged since it was signed, by somebody whom no given root vouches for.
    `unchecked`: the server lacks what reads it.
    """

    what: Literal["mark", "c2pa", "statement", "watermark"]
    verdict: Literal["present", "absent", "valid", "untrusted", "invalid", "unchecked"]
    detail: Annotated[str, Meta(max_length=600, description="for people")] = ""


class VerifyAnswer(Answer, frozen=True, kw_only=True):
    """`right`: something was found and nothing speaks against it; `nothing`: no mark and no
    signature; `wrong`: a signature that does not fit.
    """

    object: Literal["audio.verification"] = "audio.verification"
    verdict: Literal["right", "nothing", "wrong"]
    findings: list[Finding]

    def with_finding(self, finding: Finding) -> "VerifyAnswer":
        return answer_of([*self.findings, finding])


def answer_of(findings: list[Finding]) -> VerifyAnswer:
    verdicts = {finding.verdict for finding in findings}
    if "invalid" in verdicts:
        return VerifyAnswer(verdict="wrong", findings=findings)
    is_there = verdicts & {"present", "valid", "untrusted"}
    return VerifyAnswer(verdict="right" if is_there else "nothing", findings=findings)


# ---- monitors ----

EngineStatus = Literal["starting", "ready", "restarting", "draining", "dead"]


class Alive(Answer, frozen=True, kw_only=True):
    status: Literal["alive"] = "alive"


class Readiness(Answer, frozen=True, kw_only=True):
    status: EngineStatus


class Health(Answer, frozen=True, kw_only=True):
    status: EngineStatus
    models: Annotated[list[str], Meta(description="ids of the loaded models")]
