"""GET / and /studio: a page to try voices with, in one file that may speak to this server only."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from litestar import MediaType, Response, get

from qtts_openai.http.auth import OPEN


@cache
def _page() -> tuple[str, dict[str, str]]:
    text = resources.files("qtts_openai").joinpath("static/index.html").read_text("utf-8")
    return text, {
        "content-security-policy": _policy(text),
        "permissions-policy": "microphone=(self)",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }


def _policy(text: str) -> str:
    """Nothing runs but the page's own script and style, and they speak to this server only."""
    rules = {
        "default-src": "'none'",
        "script-src": _hashes(text, "script"),
        "style-src": _hashes(text, "style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hashes(text: str, tag: str) -> str:
    blocks = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()) for block in blocks)
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)


@get(["/", "/studio"], operation_id="page", opt=OPEN, media_type=MediaType.HTML)
async def page() -> Response[str]:
    text, headers = _page()
    return Response(text, headers=headers)


handlers = [page]
