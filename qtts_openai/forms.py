"""The fields of a request that may be JSON, multipart or urlencoded, with files as Upload."""

from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import UploadFile
from litestar.exceptions import HTTPException

from qtts_openai.errors import ApiError, invalid
from qtts_openai.schemas import parse_json


class Upload(msgspec.Struct, frozen=True):
    data: bytes
    content_type: str


async def read_fields(request: Request, max_file_bytes: int) -> dict[str, Any]:
    """null and repeated fields: null means absent, the last one wins."""
    if request.content_type[0] not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        body = parse_json(await request.body())
        return {name: value for name, value in body.items() if value is not None}
    try:
        form = await request.form()
    except HTTPException as error:
        if error.status_code == 413:
            raise
        raise ApiError(400, f"The form cannot be read: {error.detail}.") from error
    except UnicodeDecodeError as error:
        message = "The form cannot be read: a part is not text and has no filename; audio_sample"
        raise ApiError(400, f"{message} and recording must be files (with a filename).") from error
    except LookupError as error:
        raise ApiError(400, f"The form cannot be read: {error}.") from error
    return {name: await _value(name, value, max_file_bytes) for name, value in form.multi_items()}


async def _value(name: str, value: Any, max_bytes: int) -> Any:
    if not isinstance(value, UploadFile):
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
