"""/v1/audio/voices: OpenAI's create and delete, the list that Open WebUI and others read, and what
a store needs beside: new names, and voices as files.
"""

import asyncio
import logging
import secrets
from typing import Any, Literal

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import OpenAPIMediaType
from litestar.params import FromPath, FromQuery

from engine import SAMPLE_RATE_HZ, ReferenceAudio
from qtts_openai import schemas as s
from qtts_openai.answers import CreatedVoice, DeletedVoice, VoiceAnswer, VoiceList, VoiceNames
from qtts_openai.decoding.turns import current_caller
from qtts_openai.errors import ApiError, invalid
from qtts_openai.http.asgi import Request
from qtts_openai.http.auth import OPEN
from qtts_openai.http.callers import ANONYMOUS, Caller, caller_of, source_of
from qtts_openai.http.request_body import Upload, read_fields, take_upload
from qtts_openai.routes.openapi import BINARY, errors, form_body, json_body, operation
from qtts_openai.speech.planner import check_length
from qtts_openai.speech.response import while_connected
from qtts_openai.state import AppState
from qtts_openai.voices import names
from qtts_openai.voices.archive import archive_of
from qtts_openai.voices.records import StoredVoice, owner_of, unknown_voice

logger = logging.getLogger(__name__)


@get(
    "/v1/audio/voices",
    operation_id="listVoices",
    summary="All voices",
    opt=OPEN,
    responses=errors(503, 507),
)
async def list_voices(
    request: Request,
    service: NamedDependency[AppState],
    names_only: FromQuery[bool] = False,
    legacy: FromQuery[bool] = False,
    available: FromQuery[Literal["now", "all"]] = "now",
) -> VoiceList | VoiceNames:
    """`names_only` or `legacy`: plain strings, as some servers list them. Who sends no key to a
    server that has keys sees its presets only.
    """
    everything = available == "all"
    presets = service.presets(everything=everything)
    uploaded: list[VoiceAnswer] = []
    if not _is_stranger(request):
        uploaded = await asyncio.to_thread(
            service.stored, caller_of(request), everything=everything
        )
    voices = presets + uploaded
    if names_only or legacy:
        uploaded_names = [voice.name for voice in uploaded]
        return VoiceNames(voices=[voice.name for voice in voices], uploaded_voices=uploaded_names)
    return VoiceList(voices=voices, data=voices, uploaded_voices=uploaded)


def _is_stranger(request: Request) -> bool:
    return caller_of(request) == ANONYMOUS and not request.app.state.key_ring.is_open


_FORM: dict[str, object] = {"name": "Ada", "consent": "Ada allowed it for this server."}
_JSON: dict[str, object] = {"name": "Ada", "type": "prompt", "prompt": "A calm, low voice."}


@post(
    "/v1/audio/voices",
    status_code=200,
    operation_id="createVoice",
    summary="Make a voice",
    operation_class=operation(form_body(s.VoiceRequest, "audio_sample", _FORM, _JSON)),
    responses=errors(409, 429, 503, 507),
)
async def create_voice(request: Request, service: NamedDependency[AppState]) -> CreatedVoice:
    """From a sample (a form) or from a description (JSON or a form)."""
    fields = await read_fields(request, service.settings.ref_audio.max_bytes)
    upload = take_upload(fields, "audio_sample")
    _refuse_embedding(fields)
    _read_flags(fields)
    wanted, caller = s.to_struct(fields, s.VoiceRequest), caller_of(request)
    owner = _owner(wanted, caller)
    name = names.clean(wanted.name)
    names.check_free(name, service.table.voices)
    if wanted.kind(upload is not None) == "prompt":
        voice, sample = _from_prompt(service, wanted, name, owner), None
    else:
        current_caller.set(source_of(request))
        making = _from_sample(service, wanted, upload, name, owner, caller)
        voice, sample = await while_connected(request, making)
    samples = sample.samples if sample is not None else None
    said: dict[str, Any] = {"key": caller.id, "voice": voice.id, "consent": voice.consent}
    said |= {"consent_similarity": voice.consent_similarity}
    await service.audit.note("voice.created", **said, reference_sha256=voice.reference_key)
    await asyncio.to_thread(service.store.add, voice, samples, overwrite=wanted.overwrite)
    logger.info("voice %s was made by %s", voice.id, caller.name)
    shown = await asyncio.to_thread(service.describe_stored, voice)
    return CreatedVoice(**msgspec.structs.asdict(shown), voice=shown)


def _refuse_embedding(fields: dict[str, Any]) -> None:
    if "speaker_embedding" in fields:
        message = "speaker_embedding: voices are stored as samples; send it in speech requests."
        raise invalid(message, "speaker_embedding")


def _read_flags(fields: dict[str, Any]) -> None:
    """A form has words only."""
    for name in ("overwrite", "shared"):
        word = str(fields.get(name)).lower()
        if word in ("true", "1", "false", "0"):
            fields[name] = word in ("true", "1")
    if isinstance(fields.get("seed"), str) and fields["seed"].isdecimal():
        fields["seed"] = int(fields["seed"])


def _owner(wanted: s.VoiceRequest, caller: Caller) -> str | None:
    if not wanted.shared:
        return owner_of(caller)
    if not caller.is_admin and caller != ANONYMOUS:
        message = "shared: only an admin key may make voices for everybody."
        raise ApiError(403, message, param="shared", code="not_an_admin")
    return None


def _from_prompt(
    service: AppState, wanted: s.VoiceRequest, name: str, owner: str | None
) -> StoredVoice:
    if wanted.prompt is None:
        raise s.missing_parameter("prompt")
    check_length(wanted.prompt, service.settings.limits.max_instructions_chars, "prompt")
    model = service.catalog.need("voice_design", "A voice from a description", "prompt")
    service.catalog.check_description(model, wanted.prompt, "prompt")
    return service.store.new_voice(
        name,
        owner,
        type="prompt",
        prompt=wanted.prompt,
        seed=secrets.randbits(31) if wanted.seed is None else wanted.seed,
        ref_text=wanted.script_hint,
        speaker_description=wanted.speaker_description,
    )


async def _from_sample(
    service: AppState,
    wanted: s.VoiceRequest,
    upload: Upload | None,
    name: str,
    owner: str | None,
    caller: Caller,
) -> tuple[StoredVoice, ReferenceAudio]:
    if upload is None:
        raise s.missing_parameter("audio_sample")
    if wanted.consent is None:
        raise s.missing_parameter("consent")
    await asyncio.to_thread(service.store.check_consent, wanted.consent, caller)
    base = service.catalog.need("base", "A voice from a sample", "audio_sample")
    sample = await service.references.read(upload.data, "audio_sample")
    likeness = await service.references.likeness.check(
        base.id, sample, wanted.consent, "audio_sample"
    )
    voice = service.store.new_voice(
        name,
        owner,
        type="audio_sample",
        reference_key=sample.key,
        consent=wanted.consent,
        consent_similarity=likeness,
        ref_text=wanted.ref_text,
        mime_type=upload.content_type[:100] or "application/octet-stream",
        file_size=len(upload.data),
        duration=round(len(sample.samples) / 4 / SAMPLE_RATE_HZ, 3),
        speaker_description=wanted.speaker_description,
    )
    return voice, sample


@get(
    "/v1/audio/voices/{voice_id:path}",
    operation_id="retrieveVoice",
    summary="One voice",
    responses=errors(404, 503, 507),
)
async def retrieve_voice(
    voice_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> VoiceAnswer:
    """By id or by name."""
    name = voice_id.removeprefix("/")
    stored = await asyncio.to_thread(service.store.find, name, caller_of(request))
    if stored is not None:
        return service.describe_stored(stored)
    preset = service.table.get(name)
    if preset is None:
        raise unknown_voice(name)
    return service.describe(preset)


@post(
    "/v1/audio/voices/{voice_id:path}",
    status_code=200,
    operation_id="updateVoice",
    summary="Rename a voice",
    operation_class=operation(json_body(s.VoiceUpdate, name="Ada L.")),
    responses=errors(404, 409, 503, 507),
)
async def rename_voice(
    voice_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> VoiceAnswer:
    """By id or by name. Id, sample and consent stay."""
    fields = await read_fields(request, service.settings.ref_audio.max_bytes)
    new_name = names.clean(s.to_struct(fields, s.VoiceUpdate).name)
    names.check_free(new_name, service.table.voices)
    name, caller = voice_id.removeprefix("/"), caller_of(request)
    voice = await asyncio.to_thread(service.store.rename_voice, name, new_name, caller)
    await service.audit.note("voice.renamed", key=caller.id, voice=voice.id)
    logger.info("voice %s was renamed by %s", voice.id, caller.name)
    return await asyncio.to_thread(service.describe_stored, voice)


_ZIP = "application/zip"


# Not below the voice's own path, whose last part may be a name with slashes.
@get(
    "/v1/audio/voice_archives/{voice_id:path}",
    operation_id="exportVoice",
    summary="A voice as a file",
    operation_class=operation(content={_ZIP: OpenAPIMediaType(schema=BINARY)}, kind="A zip"),
    responses=errors(404, 500, 503, 507),
)
async def export_voice(
    voice_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> Response[bytes]:
    """By id or by name, with its sample and the consent it rests on, for whoever may delete them.
    `qtts voices import` takes it in.
    """
    name, caller = voice_id.removeprefix("/"), caller_of(request)
    index, archive = await asyncio.to_thread(archive_of, service.store, name, caller)
    voices, consents = ([one.record.id for one in kind] for kind in (index.voices, index.consents))
    await service.audit.note("voice.exported", key=caller.id, voices=voices, consents=consents)
    logger.info("voice %s was exported by %s", voices[0], caller.name)
    headers = {"content-disposition": f'attachment; filename="{voices[0]}.zip"'}
    return Response(archive, media_type=_ZIP, headers=headers | {"cache-control": "no-store"})


@delete(
    "/v1/audio/voices/{voice_id:path}",
    status_code=200,
    operation_id="deleteVoice",
    summary="Delete a voice",
    responses=errors(404, 503, 507),
)
async def delete_voice(
    voice_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> DeletedVoice:
    """By id or by name."""
    name, caller = voice_id.removeprefix("/"), caller_of(request)
    voice = await asyncio.to_thread(service.store.delete_voice, name, caller)
    service.forget_speech([voice])
    await service.audit.note("voice.deleted", key=caller.id, voice=voice.id)
    logger.info("voice %s was deleted by %s", voice.id, caller.name)
    return DeletedVoice(id=voice.id)


handlers = [list_voices, create_voice, retrieve_voice, rename_voice, delete_voice, export_voice]
