"""ASGI's shapes, as loose as the specification has them."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import litestar
from litestar.connection import ASGIConnection

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

# Litestar's, for any user, session and state: what handlers and guards get.
Request = litestar.Request[Any, Any, Any]
Connection = ASGIConnection[Any, Any, Any, Any]
