"""Bearer keys. They come from $QTTS_API_KEYS or from a file, never from config.yaml itself; they
are kept as hashes and never printed.

A line of the file, or a part of the variable between commas, is `key` or `name: key`. Where keys
are configured and none is found the server does not start; once it runs, a file that is emptied or
cannot be read lets no caller in.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec
from litestar.connection import WebSocket
from litestar.handlers import BaseRouteHandler

from qtts_openai.errors import ApiError
from qtts_openai.http.asgi import Connection
from qtts_openai.http.callers import ANONYMOUS, Caller
from qtts_openai.http.origins import is_loopback
from qtts_openai.settings import AuthSettings, SettingsError

logger = logging.getLogger(__name__)

Guard = Callable[[Connection, BaseRouteHandler], Awaitable[None]]

# Routes with this option answer without a key.
OPEN = {"open": True}

VARIABLE = "QTTS_API_KEYS"
KEY_PROTOCOL = "openai-insecure-api-key."
# How often the file is looked at: a key that was taken out of it works no longer than this.
WATCH_S = 1.0

_LABELLED = re.compile(r"(?P<name>[^:]*\S)\s*:\s+(?P<key>.+)")


class Key(msgspec.Struct, frozen=True):
    digest: bytes
    caller: Caller


def read_keys(lines: Iterable[str], where: str, admins: tuple[str, ...]) -> list[Key]:
    """Keys of `lines`, in which # begins a comment line; SettingsError names the line."""
    keys = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        labelled = _LABELLED.fullmatch(text)
        name, key = labelled.group("name", "key") if labelled else ("", text)
        if re.search(r"\s", key) or not name.isprintable() or len(name) > 100:
            message = "write `key` or `name: key`; a key has no spaces, a name at most 100 letters"
            raise SettingsError(f"{where}, entry {number}: {message}")
        keys.append(_key(name, key.encode(), admins))
    return keys


def _key(name: str, key: bytes, admins: tuple[str, ...]) -> Key:
    # Not the digest that is compared, so that an owner in a record says nothing about it.
    owner = hashlib.sha256(b"qtts caller\0" + key).hexdigest()[:16]
    return Key(hashlib.sha256(key).digest(), Caller(owner, name or owner, name in admins))


def client_key() -> str | None:
    """The first key of $QTTS_API_KEYS, for the commands that call a server."""
    for part in os.environ.get(VARIABLE, "").split(","):
        if text := part.strip():
            labelled = _LABELLED.fullmatch(text)
            return labelled["key"] if labelled else text
    return None


class KeyRing:
    """The keys that are let in now. SettingsError where keys are configured and there is none."""

    def __init__(self, settings: AuthSettings) -> None:
        self._file = Path(settings.keys_file) if settings.keys_file is not None else None
        self._admins = settings.admin_keys
        self._stamp: tuple[int, ...] | None = None
        variable = os.environ.get(VARIABLE)
        self._fixed = read_keys((variable or "").split(","), f"${VARIABLE}", self._admins)
        self._keys = [*self._fixed, *self._read_file()]
        if self._file is not None and len(self._keys) == len(self._fixed):
            raise SettingsError(f"auth.keys_file: {self._file} holds no key; write one a line")
        if variable is not None and not self._keys:
            message = "is set and holds no key; set it to one, or unset it for an open server"
            raise SettingsError(f"${VARIABLE} {message}")
        # Decided once: a running server never becomes an open one.
        self.is_open = not self._keys
        self._check_admins()

    def _check_admins(self) -> None:
        known = {key.caller.name for key in self._keys}
        unknown = [name for name in self._admins if name not in known and name != "admin"]
        if unknown:
            raise SettingsError(f"auth.admin_keys: no key has the name {unknown[0]!r}")

    def announce(self, host: str) -> None:
        """Say who can use the server, which is listening at `host`."""
        if self.is_open:
            logger.warning(
                "no API keys: %s can use this server; set $%s or auth.keys_file to ask for keys",
                "everybody on this machine" if is_loopback(host) else "everybody who reaches it",
                VARIABLE,
            )
        else:
            names = ", ".join(key.caller.name for key in self._keys)
            logger.info("%d API keys: %s", len(self._keys), names[:500])

    def find(self, sent: bytes) -> Caller | None:
        """The caller with this key, in a time that says nothing about the keys."""
        digests = [hashlib.sha256(form).digest() for form in _forms(sent)]
        found = [
            key.caller
            for key in self._keys
            if any([hmac.compare_digest(digest, key.digest) for digest in digests])
        ]
        return found[0] if found else None

    def reload(self) -> None:
        """Read the file again, whatever its date says. Keys of the variable stay."""
        if self._file is None:
            logger.info("there is no auth.keys_file to read again")
            return
        before = {key.digest for key in self._keys}
        try:
            read = self._read_file()
        except SettingsError as error:
            read = []
            logger.error("%s; its keys are refused until it is mended", error)
        self._keys = [*self._fixed, *read]
        now = {key.digest for key in self._keys}
        logger.info(
            "auth.keys_file was read: %d keys, %d new, %d gone",
            len(now),
            len(now - before),
            len(before - now),
        )
        if not now:
            logger.error("auth.keys_file holds no key now: every request is refused")

    async def watch(self) -> None:
        """Read the file again whenever it changes, until cancelled."""
        while self._file is not None:
            await asyncio.sleep(WATCH_S)
            # A network file system may take its time.
            if await asyncio.to_thread(self._stamp_now) != self._stamp:
                self.reload()

    def _stamp_now(self) -> tuple[int, ...] | None:
        assert self._file is not None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

    def _read_file(self) -> list[Key]:
        if self._file is None:
            return []
        # Taken before the file is read: what is written meanwhile is noticed next time.
        self._stamp = self._stamp_now()
        try:
            lines = self._file.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"auth.keys_file: {self._file} cannot be read: {error}") from error
        return read_keys(lines, f"auth.keys_file: {self._file}", self._admins)


def _forms(sent: bytes) -> tuple[bytes, ...]:
    """A key beyond ASCII comes in UTF-8 or, as HTTP libraries like to send it, in Latin-1."""
    return (sent, sent.decode("latin-1").encode()) if not sent.isascii() else (sent,)


def _bearer(connection: Connection) -> bytes:
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip().encode("latin-1")
    if isinstance(connection, WebSocket):
        return _socket_key(connection)
    return b""


def _socket_key(connection: Connection) -> bytes:
    """As the dialects of live text send it: another scheme, another header, or, where a browser can
    set none, a sub-protocol.
    """
    headers = connection.headers
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("token", "api-key"):
        return key.strip().encode("latin-1")
    offered = offered_protocols(connection)
    if len(offered) == 2 and offered[0].lower() in ("token", "bearer"):
        key = offered[1]
    else:
        key = next((o.partition(".")[2] for o in offered if o.startswith(KEY_PROTOCOL)), "")
    sent = headers.get("xi-api-key") or headers.get("x-api-key") or key
    return sent.strip().encode("latin-1")


def offered_protocols(connection: Connection) -> list[str]:
    sent = connection.headers.get("sec-websocket-protocol", "")
    return [name.strip() for name in sent.split(",") if name.strip()]


def chosen_protocol(connection: Connection) -> str | None:
    """To answer with: never what holds the key."""
    offered = offered_protocols(connection)
    return next((name for name in offered if not name.startswith(KEY_PROTOCOL)), None)


def require_key(ring: KeyRing) -> Guard:
    """A guard that lets everybody in where there are no keys; it notes the caller."""

    # A plain function would be run in a thread for every request.
    async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
        connection.state.caller = ANONYMOUS
        if ring.is_open:
            return
        key = _bearer(connection)
        caller = ring.find(key) if key else None
        if caller is not None:
            connection.state.caller = caller
        elif not handler.opt.get("open"):
            raise _refusal(key)

    return guard


def _refusal(key: bytes) -> ApiError:
    headers = {"www-authenticate": "Bearer"}
    if not key:
        message = "No API key was sent. Send it as 'Authorization: Bearer KEY'."
        return ApiError(401, message, headers=headers)
    return ApiError(401, "The API key is not known here.", code="invalid_api_key", headers=headers)
