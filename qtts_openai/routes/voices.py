"""GET /v1/audio/voices, in the shape Open WebUI and the community's clients read."""

from typing import Any

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from qtts_openai.auth import OPEN
from qtts_openai.service import Service


@get("/v1/audio/voices", operation_id="listVoices", opt=OPEN)
async def list_voices(
    service: NamedDependency[Service],
    names_only: FromQuery[bool] = False,
    legacy: FromQuery[bool] = False,
) -> dict[str, Any]:
    if names_only or legacy:
        return {
            "voices": [voice.name for voice in service.table.voices.values()],
            "uploaded_voices": [],
        }
    voices = [service.describe(voice) for voice in service.table.voices.values()]
    return {"object": "list", "voices": voices, "data": voices, "uploaded_voices": []}


handlers = [list_voices]
