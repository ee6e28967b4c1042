"""POST /v1/audio/verify: what tells where a file is from, as `qtts verify` says it."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from litestar import post
from litestar.di import NamedDependency

from qtts_openai import schemas as s
from qtts_openai.answers import VerifyAnswer
from qtts_openai.decoding.client import DecodeError
from qtts_openai.decoding.turns import current_caller
from qtts_openai.errors import invalid
from qtts_openai.http.asgi import Request
from qtts_openai.http.callers import source_of
from qtts_openai.http.request_body import Upload, read_fields, take_upload
from qtts_openai.provenance.watermark import heard
from qtts_openai.routes.openapi import errors, form_body, operation
from qtts_openai.speech.response import while_connected
from qtts_openai.state import AppState
from qtts_openai.voices.reference_audio import told_of

EXAMINE = "qtts_openai.provenance.verifying:examine_sent"
# How what is wrong with a root begins.
BAD_ROOT = "root: "


@post(
    "/v1/audio/verify",
    status_code=200,
    operation_id="verifyAudio",
    summary="Where a file is from",
    operation_class=operation(form_body(s.VerifyRequest, "file", {})),
    responses=errors(429, 503),
)
async def verify_audio(request: Request, service: NamedDependency[AppState]) -> VerifyAnswer:
    """The mark, a C2PA manifest, and the statement that a server gave for it (`manifest`). The
    certificate that signers must rest on is `root`, else the last of the server's own.
    """
    fields = await read_fields(request, service.settings.limits.max_body_bytes)
    file = take_upload(fields, "file")
    if file is None:
        raise s.missing_parameter("file")
    wanted = s.to_struct({name: _text(name, fields[name]) for name in fields}, s.VerifyRequest)
    own = await asyncio.to_thread(_own_root, service.settings.provenance.certificate)
    current_caller.set(source_of(request))
    sent = [text.encode() for text in (wanted.manifest or "", wanted.root or own)]
    examining = service.decoder.run(EXAMINE, [file.data, *sent])
    with told_of("file"):
        try:
            found = await while_connected(request, examining)
        except DecodeError as error:
            if str(error).startswith(BAD_ROOT):
                raise invalid(f"{error}.", "root") from error
            raise
        answer = msgspec.json.decode(found, type=VerifyAnswer)
        if service.watermark is not None:
            hearing = heard(service.watermark, service.decoder, file.data)
            answer = answer.with_finding(await while_connected(request, hearing))
    return answer


def _text(name: str, value: Any) -> Any:
    """Of what may come as a field or as a file."""
    if name == "file" or not isinstance(value, Upload):
        return value
    try:
        return value.data.decode()
    except UnicodeDecodeError as error:
        raise invalid(f"{name}: it is not text in UTF-8.", name) from error


def _own_root(certificate: str | None) -> str:
    if certificate is None:
        return ""
    begin = "-----BEGIN CERTIFICATE-----"
    return begin + Path(certificate).read_text().rpartition(begin)[2]


handlers = [verify_audio]
