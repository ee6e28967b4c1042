"""GET /openapi.json and the page /docs that shows it."""

from typing import Any

from litestar import MediaType, get

from qtts_openai.http.auth import OPEN
from qtts_openai.routes import docs_page, openapi


@get("/openapi.json", operation_id="openapi", opt=OPEN, sync_to_thread=False)
def openapi_document() -> dict[str, Any]:
    return openapi.document()


@get("/docs", operation_id="docs", opt=OPEN, media_type=MediaType.HTML, sync_to_thread=False)
def docs() -> str:
    return docs_page.render(openapi.document())


handlers = [openapi_document, docs]
