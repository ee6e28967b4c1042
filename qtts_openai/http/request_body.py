"""The fields of a request that may be JSON, multipart or urlencoded, with files as Upload."""

from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar.datastructures import UploadFile
from litestar.exceptions import HTTPException

from qtts_openai.errors import ApiError, invalid
from qtts_openai.http.asgi import Request
from qtts_openai.schemas import parse_json


class Upload(msgspec.Struct, frozen=True):
    data: bytes
    content_type: str


# Of a form: fields beside files.
MAX_TEXT_CHARS = 64_000
MAX_FIELDS = 100


async def read_fields(request: Request, max_file_bytes: int) -> dict[str, Any]:
    """null and repeated fields: null means absent, the last one wins."""
    kind = request.content_type[0]
    if kind == "multipart/form-data":
        return await _multipart(request, max_file_bytes)
    body = await request.body()
    # curl -d calls JSON urlencoded as well.
    if kind == "application/x-www-form-urlencoded" and not body.lstrip().startswith(b"{"):
        return _urlencoded(body)
    return {name: value for name, value in parse_json(body).items() if value is not None}


def _urlencoded(body: bytes) -> dict[str, Any]:
    """By the standard library, which counts fields before it makes them."""
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:
        raise _unreadable(str(error)) from error
    return dict(pairs)


async def _multipart(request: Request, max_file_bytes: int) -> dict[str, Any]:
    try:
        form = await request.form()
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise _unreadable(error.detail) from error
    except UnicodeDecodeError as error:
        message = "a part is neither text in UTF-8 nor a file; audio_sample, recording and"
        raise _unreadable(f"{message} file must be files (with a filename)") from error
    except LookupError as error:
        raise _unreadable(str(error)) from error
    return {name: await _value(name, value, max_file_bytes) for name, value in form.multi_items()}


def _unreadable(why: str) -> ApiError:
    return ApiError(400, f"The form cannot be read: {why}.")


async def _value(name: str, value: Any, max_bytes: int) -> Any:
    if not isinstance(value, UploadFile):
        if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
            raise invalid(f"{name}: longer than {MAX_TEXT_CHARS} characters.", name)
        return value
    data = await value.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise invalid(f"{name}: the file is larger than {max_bytes} bytes.", name, "file_too_large")
    return Upload(data, value.content_type)


def take_upload(fields: dict[str, Any], name: str) -> Upload | None:
    """The file `name`, which must not be plain text."""
    upload = fields.get(name)
    if upload is not None and not isinstance(upload, Upload):
        raise invalid(f"{name}: send a file, as multipart/form-data.", name, "invalid_type")
    return upload
