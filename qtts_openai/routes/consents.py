"""/v1/audio/voice_consents: kept as OpenAI's API has them. A voice may name one, or any text."""

import asyncio
import logging
from typing import Annotated

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter
from msgspec import UNSET

from qtts_openai import schemas as s
from qtts_openai.answers import ConsentAnswer, ConsentList, DeletedConsent
from qtts_openai.http.asgi import Request
from qtts_openai.http.callers import caller_of
from qtts_openai.http.request_body import read_fields, take_upload
from qtts_openai.routes.openapi import errors, form_body, json_body, operation
from qtts_openai.state import AppState
from qtts_openai.voices import names
from qtts_openai.voices.records import Consent, no_such_consent, owner_of

logger = logging.getLogger(__name__)

_EXAMPLE: dict[str, object] = {"name": "Ada", "language": "en-US"}


@post(
    "/v1/audio/voice_consents",
    status_code=200,
    operation_id="createVoiceConsent",
    summary="Keep a consent",
    operation_class=operation(form_body(s.ConsentRequest, "recording", _EXAMPLE)),
    responses=errors(503, 507),
)
async def create_consent(request: Request, service: NamedDependency[AppState]) -> ConsentAnswer:
    fields = await read_fields(request, service.settings.ref_audio.max_bytes)
    recording = take_upload(fields, "recording")
    wanted = s.to_struct(fields, s.ConsentRequest)
    if recording is None:
        raise s.missing_parameter("recording")
    caller, name = caller_of(request), names.clean(wanted.name)
    consent = await asyncio.to_thread(
        service.store.add_consent, name, wanted.language, recording.data, owner_of(caller)
    )
    await service.audit.note("consent.created", key=caller.id, consent=consent.id)
    logger.info("voice consent %s was made by %s", consent.id, caller.name)
    return _answer(service, consent)


@get(
    "/v1/audio/voice_consents",
    operation_id="listVoiceConsents",
    summary="Consents, in pages",
    responses=errors(404, 503, 507),
)
async def list_consents(
    request: Request,
    service: NamedDependency[AppState],
    after: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
) -> ConsentList:
    """In the order they were made, after the one whose id is `after`."""
    consents = await asyncio.to_thread(service.store.visible_consents, caller_of(request))
    if after is not None:
        ids = [consent.id for consent in consents]
        if after not in ids:
            raise no_such_consent(after)
        consents = consents[ids.index(after) + 1 :]
    page = [_answer(service, consent) for consent in consents[:limit]]
    return ConsentList(
        data=page,
        has_more=len(consents) > limit,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
    )


@get(
    "/v1/audio/voice_consents/{consent_id:str}",
    operation_id="retrieveVoiceConsent",
    summary="One consent",
    responses=errors(404, 503, 507),
)
async def retrieve_consent(
    consent_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> ConsentAnswer:
    consent = await asyncio.to_thread(service.store.consent, consent_id, caller_of(request))
    return _answer(service, consent)


@post(
    "/v1/audio/voice_consents/{consent_id:str}",
    status_code=200,
    operation_id="updateVoiceConsent",
    summary="Rename a consent",
    operation_class=operation(json_body(s.ConsentUpdate, name="Ada L.")),
    responses=errors(404, 503, 507),
)
async def update_consent(
    consent_id: FromPath[str], request: Request, service: NamedDependency[AppState]
) -> ConsentAnswer:
    fields = await read_fields(request, service.settings.ref_audio.max_bytes)
    update, caller = s.to_struct(fields, s.ConsentUpdate), caller_of(request)
    renamed = await asyncio.to_thread(
        service.store.rename_consent, consent_id, names.clean(update.name), caller
    )
    logger.info("voice consent %s was renamed by %s", consent_id, caller.name)
    return _answer(service, renamed)


@delete(
    "/v1/audio/voice_consents/{consent_id:str}",
    status_code=200,
    operation_id="deleteVoiceConsent",
    summary="Delete a consent",
    responses=errors(404, 409, 503, 507),
)
async def delete_consent(
    consent_id: FromPath[str],
    request: Request,
    service: NamedDependency[AppState],
    cascade: FromQuery[bool] = False,
) -> DeletedConsent:
    """`cascade`: although voices rest on it; they are disabled."""
    caller = caller_of(request)
    disabled = await asyncio.to_thread(
        service.store.delete_consent, consent_id, caller, cascade=cascade
    )
    service.forget_speech(disabled)
    voices = [voice.id for voice in disabled] or None
    await service.audit.note("consent.deleted", key=caller.id, consent=consent_id, voices=voices)
    logger.info("voice consent %s was deleted by %s", consent_id, caller.name)
    for voice in disabled:
        logger.info("voice %s was disabled with it", voice.id)
    ids = [voice.id for voice in disabled]
    return DeletedConsent(id=consent_id, disabled_voices=ids or UNSET)


def _answer(service: AppState, consent: Consent) -> ConsentAnswer:
    return consent.answer(service.settings.cloning.consent_days)


handlers = [create_consent, list_consents, retrieve_consent, update_consent, delete_consent]
