"""Bearer keys. They come from $QTTS_API_KEYS or from a file, never from config.yaml itself, and are
never printed.
"""

import hmac
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from qtts_openai.errors import ApiError
from qtts_openai.settings import SettingsError

Guard = Callable[[ASGIConnection, BaseRouteHandler], Awaitable[None]]

# Routes with this option answer without a key.
OPEN = {"open": True}


def load_keys(keys_file: str | None) -> tuple[str, ...]:
    """Keys of $QTTS_API_KEYS (comma separated) and of `keys_file` (one a line, # is a comment)."""
    keys = os.environ.get("QTTS_API_KEYS", "").split(",")
    if keys_file is not None:
        try:
            lines = Path(keys_file).read_text("utf-8").splitlines()
        except OSError as error:
            raise SettingsError(f"auth.keys_file: cannot be read: {error}") from error
        keys += [line for line in lines if not line.lstrip().startswith("#")]
    return tuple(dict.fromkeys(key.strip() for key in keys if key.strip()))


def caller(connection: ASGIConnection) -> str:
    """Whose limits count: the key's, or the address's where the server has no keys."""
    return connection.state.caller


def _bearer(connection: ASGIConnection) -> str:
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def require_key(keys: tuple[str, ...]) -> Guard:
    """A guard that lets everybody in where there are no keys; it notes the caller."""
    known = [key.encode() for key in keys]

    # A plain function would be run in a thread for every request.
    async def guard(connection: ASGIConnection, handler: BaseRouteHandler) -> None:
        connection.state.caller = connection.client.host if connection.client else ""
        if not known or handler.opt.get("open"):
            return
        key = _bearer(connection)
        if not key:
            message = "No API key was sent. Send it as 'Authorization: Bearer KEY'."
            raise ApiError(401, message, headers={"www-authenticate": "Bearer"})
        if not any([hmac.compare_digest(key.encode(), other) for other in known]):
            raise ApiError(401, "The API key is not known here.", code="invalid_api_key")
        connection.state.caller = key

    return guard
