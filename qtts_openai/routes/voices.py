"""/v1/audio/voices: OpenAI's create and delete, and the list that Open WebUI and others read."""

import asyncio
import secrets
from typing import Any

from litestar import Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from qtts_openai import schemas as s
from qtts_openai.auth import OPEN, caller
from qtts_openai.decoding.turns import current_caller
from qtts_openai.errors import ApiError
from qtts_openai.forms import read_fields, take_upload
from qtts_openai.planning import check_length
from qtts_openai.service import Service
from qtts_openai.streaming import while_connected
from qtts_openai.voice_store import StoredVoice, unknown_voice


@get("/v1/audio/voices", operation_id="listVoices", opt=OPEN)
async def list_voices(
    service: NamedDependency[Service],
    names_only: FromQuery[bool] = False,
    legacy: FromQuery[bool] = False,
) -> dict[str, Any]:
    """`names_only` or `legacy`: plain strings, as some servers list them."""
    presets, stored = service.voices()
    if names_only or legacy:
        names = [voice.name for voice in (*presets, *stored)]
        return {"voices": names, "uploaded_voices": [voice.name for voice in stored]}
    uploaded = [service.describe(voice) for voice in stored]
    voices = [service.describe(voice) for voice in presets] + uploaded
    return {"object": "list", "voices": voices, "data": voices, "uploaded_voices": uploaded}


@post("/v1/audio/voices", status_code=200, operation_id="createVoice")
async def create_voice(request: Request, service: NamedDependency[Service]) -> dict[str, Any]:
    fields = await read_fields(request, service.settings.ref_audio.max_bytes)
    upload = take_upload(fields, "audio_sample")
    wanted = s.to_struct(fields, s.VoiceRequest)
    if service.table.get(wanted.name) is not None:
        message = f"name: {wanted.name!r} is a voice of the server; choose another name."
        raise ApiError(400, message, param="name", code="name_taken")
    if wanted.kind(upload is not None) == "prompt":
        voice = await _from_prompt(service, wanted)
    else:
        current_caller.set(caller(request))
        sample = _from_sample(service, wanted, upload.data if upload else None)
        voice = await while_connected(request, sample)
    shown = voice.answer()
    return {**shown, "success": True, "voice": shown}


async def _from_prompt(service: Service, wanted: s.VoiceRequest) -> StoredVoice:
    if wanted.prompt is None or not wanted.prompt.strip():
        raise s.missing_parameter("prompt")
    check_length(wanted.prompt, service.settings.limits.max_instructions_chars, "prompt")
    seed = secrets.randbits(31)
    return await asyncio.to_thread(
        service.store.add_prompt, wanted.name, wanted.prompt, seed, ref_text=wanted.script_hint
    )


async def _from_sample(service: Service, wanted: s.VoiceRequest, data: bytes | None) -> StoredVoice:
    if data is None:
        raise s.missing_parameter("audio_sample")
    if wanted.consent is None:
        raise s.missing_parameter("consent")
    sample = await service.references.read(data, "audio_sample")
    return await asyncio.to_thread(
        service.store.add_sample,
        wanted.name,
        sample,
        consent=wanted.consent,
        ref_text=wanted.ref_text,
    )


@get("/v1/audio/voices/{voice_id:path}", operation_id="retrieveVoice")
async def retrieve_voice(
    voice_id: FromPath[str], service: NamedDependency[Service]
) -> dict[str, Any]:
    name = voice_id.removeprefix("/")
    stored = service.store.find(name)
    voice = service.casting.stored_voice(stored) if stored else service.table.get(name)
    if voice is None:
        raise unknown_voice(name)
    return service.describe(voice)


@delete("/v1/audio/voices/{voice_id:path}", status_code=200, operation_id="deleteVoice")
async def delete_voice(
    voice_id: FromPath[str], service: NamedDependency[Service]
) -> dict[str, Any]:
    """By id or by name."""
    name = voice_id.removeprefix("/")
    voice = service.store.find(name)
    if voice is None:
        raise unknown_voice(name)
    await asyncio.to_thread(service.store.voices.delete, voice)
    return {"id": voice.id, "deleted": True, "object": "audio.voice.deleted"}


handlers = [list_voices, create_voice, retrieve_voice, delete_voice]
