"""/v1/audio/voice_consents: kept as OpenAI's API has them. A voice may name one, or any text."""

import asyncio
import logging
from typing import Any

from litestar import Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from qtts_openai import schemas as s
from qtts_openai.errors import invalid
from qtts_openai.http.callers import caller_of
from qtts_openai.http.request_body import read_fields, take_upload
from qtts_openai.state import AppState
from qtts_openai.voices import names
from qtts_openai.voices.store import no_such_consent, owner_of

logger = logging.getLogger(__name__)


@post("/v1/audio/voice_consents", status_code=200, operation_id="createVoiceConsent")
async def create_consent(request: Request, service: NamedDependency[AppState]) -> dict[str, Any]:
    fields = await read_fields(request, service.settings.ref_audio.max_bytes)
    recording = take_upload(fields, "recording")
    wanted = s.to_struct(fields, s.ConsentRequest)
    if recording is None:
        raise s.missing_parameter("recording")
    caller, name = caller_of(request), names.clean(wanted.name)
    consent = await asyncio.to_thread(
        service.store.add_consent, name, wanted.language, recording.data, owner_of(caller)
    )
    logger.info("voice consent %s was made by %s", consent.id, caller.name)
    return consent.answer()


@get("/v1/audio/voice_consents", operation_id="listVoiceConsents")
async def list_consents(
    request: Request,
    service: NamedDependency[AppState],
    after: FromQuery[str | None] = None,
    limit: FromQuery[int] = 20,
) -> dict[str, Any]:
    if not 1 <= limit <= 100:
        raise invalid(f"limit: 1 to 100, not {limit}.", "limit")
    consents = await asyncio.to_thread(service.store.visible_consents, caller_of(request))
    if after is not None:
        ids = [consent.id for consent in consents]
        if after not in ids:
            raise no_such_consent(after)
        consents = consents[ids.index(after) + 1 :]
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
    consent_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> dict[str, Any]:
    consent = await asyncio.to_thread(service.store.consent, consent_id, caller_of(request))
    return consent.answer()


@post(
    "/v1/audio/voice_consents/{consent_id:str}", status_code=200, operation_id="updateVoiceConsent"
)
async def update_consent(
    consent_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> dict[str, Any]:
    fields = await read_fields(request, service.settings.ref_audio.max_bytes)
    update = s.to_struct(fields, s.ConsentUpdate)
    renamed = await asyncio.to_thread(
        service.store.rename_consent, consent_id, names.clean(update.name), caller_of(request)
    )
    return renamed.answer()


@delete(
    "/v1/audio/voice_consents/{consent_id:str}",
    status_code=200,
    operation_id="deleteVoiceConsent",
)
async def delete_consent(
    consent_id: FromPath[str],
    request: Request,
    service: NamedDependency[AppState],
    cascade: FromQuery[bool] = False,
) -> dict[str, Any]:
    """`cascade`: although voices rest on it; they are disabled."""
    caller = caller_of(request)
    disabled = await asyncio.to_thread(
        service.store.delete_consent, consent_id, caller, cascade=cascade
    )
    logger.info("voice consent %s was deleted by %s", consent_id, caller.name)
    for voice in disabled:
        logger.info("voice %s was disabled with it", voice.id)
    shown = {"id": consent_id, "deleted": True, "object": "audio.voice_consent"}
    return shown | ({"disabled_voices": [voice.id for voice in disabled]} if disabled else {})


handlers = [create_consent, list_consents, retrieve_consent, update_consent, delete_consent]
