"""GET /openapi.json and the page /docs that shows it."""

from functools import cache
from typing import Any

from litestar import MediaType, get

from qtts_openai.http.auth import OPEN
from qtts_openai.routes import consents, docs_page, health, models, openapi, speech, verify, voices

DOCUMENTED = [
    *speech.handlers,
    *voices.handlers,
    *consents.handlers,
    *verify.handlers,
    *models.handlers,
    *health.handlers,
]


@cache
def document() -> dict[str, Any]:
    """Of all routes but those below; made when it is first asked for."""
    return openapi.document(DOCUMENTED)


@get("/openapi.json", operation_id="openapi", opt=OPEN, sync_to_thread=True)
def openapi_document() -> dict[str, Any]:
    return document()


@get("/docs", operation_id="docs", opt=OPEN, media_type=MediaType.HTML, sync_to_thread=True)
def docs() -> str:
    return docs_page.render(document())


handlers = [openapi_document, docs]
