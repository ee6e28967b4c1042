"""/v1/audio/voice_consents: kept as OpenAI's API has them. A voice may name one, or any text."""

import asyncio
from typing import Any

import msgspec
from litestar import Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from qtts_openai import schemas as s
from qtts_openai.errors import invalid
from qtts_openai.forms import read_fields, take_upload
from qtts_openai.service import Service


@post("/v1/audio/voice_consents", status_code=200, operation_id="createVoiceConsent")
async def create_consent(request: Request, service: NamedDependency[Service]) -> dict[str, Any]:
    fields = await read_fields(request, service.settings.ref_audio.max_bytes)
    recording = take_upload(fields, "recording")
    wanted = s.to_struct(fields, s.ConsentRequest)
    if recording is None:
        raise s.missing_parameter("recording")
    consent = await asyncio.to_thread(
        service.store.add_consent, wanted.name, wanted.language, recording.data
    )
    return consent.answer()


@get("/v1/audio/voice_consents", operation_id="listVoiceConsents")
async def list_consents(
    service: NamedDependency[Service],
    after: FromQuery[str | None] = None,
    limit: FromQuery[int] = 20,
) -> dict[str, Any]:
    if not 1 <= limit <= 100:
        raise invalid(f"limit: 1 to 100, not {limit}.", "limit")
    consents = list(service.store.consents)
    if after is not None:
        service.store.consent(after)
        place = [consent.id for consent in consents].index(after)
        consents = consents[place + 1 :]
    page = [consent.answer() for consent in consents[:limit]]
    return {
        "object": "list",
        "data": page,
        "has_more": len(consents) > limit,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


@get("/v1/audio/voice_consents/{consent_id:str}", operation_id="retrieveVoiceConsent")
async def retrieve_consent(
    consent_id: FromPath[str], service: NamedDependency[Service]
) -> dict[str, Any]:
    return service.store.consent(consent_id).answer()


@post(
    "/v1/audio/voice_consents/{consent_id:str}", status_code=200, operation_id="updateVoiceConsent"
)
async def update_consent(
    consent_id: FromPath[str], request: Request, service: NamedDependency[Service]
) -> dict[str, Any]:
    consent = service.store.consent(consent_id)
    fields = await read_fields(request, service.settings.ref_audio.max_bytes)
    update = s.to_struct(fields, s.ConsentUpdate)
    renamed = msgspec.structs.replace(consent, name=update.name)
    await asyncio.to_thread(service.store.consents.put, renamed)
    return renamed.answer()


@delete(
    "/v1/audio/voice_consents/{consent_id:str}",
    status_code=200,
    operation_id="deleteVoiceConsent",
)
async def delete_consent(
    consent_id: FromPath[str], service: NamedDependency[Service]
) -> dict[str, Any]:
    consent = service.store.consent(consent_id)
    await asyncio.to_thread(service.store.consents.delete, consent)
    return {"id": consent.id, "deleted": True, "object": "audio.voice_consent"}


handlers = [create_consent, list_consents, retrieve_consent, update_consent, delete_consent]
