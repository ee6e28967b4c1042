"""Which hosts and origins may ask: the defence of a server without keys against web pages.

A page of any origin can send a browser's "simple" POST here, and a page whose name an attacker
points at this machine (DNS rebinding) can read the answers as well. What gives a page away is
`Origin` in the first case and `Host` in the second; other clients send the name they were given and
no origin.
"""

import ipaddress
from urllib.parse import urlsplit

from qtts_openai.errors import ApiError
from qtts_openai.settings import ServerSettings

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class OriginPolicy:
    def __init__(self, server: ServerSettings, is_keyless: bool) -> None:
        self._origins = {origin.rstrip("/").lower() for origin in server.cors_origins}
        self._checks_origin = is_keyless and "*" not in self._origins
        self._hosts = {host.lower().rstrip(".") for host in server.allowed_hosts}
        if not self._hosts and is_keyless and is_loopback(server.host):
            self._hosts = {""}

    def check(self, method: str, host: str | None, origin: str | None) -> None:
        """Raises a 403 that names the setting."""
        if host is not None and not self._knows_host(_name_of(f"//{host}")):
            raise ApiError(
                403,
                f"This server does not answer for the host {host!r}; name it in "
                "server.allowed_hosts.",
                code="host_not_allowed",
            )
        if origin is None or not self._checks_origin or method in _SAFE_METHODS:
            return
        if not self._knows_origin(origin.lower(), host):
            raise ApiError(
                403,
                f"Pages of {origin!r} may not use this server; name it in server.cors_origins.",
                code="origin_not_allowed",
            )

    def _knows_host(self, name: str) -> bool:
        """Rebinding needs a name of the public DNS: no address, and no name without a dot."""
        if not self._hosts or "*" in self._hosts or name in self._hosts or _is_local(name):
            return True
        domains = name.split(".")
        return any(f"*.{'.'.join(domains[i:])}" in self._hosts for i in range(1, len(domains)))

    def _knows_origin(self, origin: str, host: str | None) -> bool:
        """Other schemes (app:, tauri:, vscode-webview:) are programs, not pages of the web."""
        scheme, _, authority = origin.partition("://")
        if origin in self._origins or (authority and scheme not in ("http", "https", "file")):
            return True
        port = {"http": ":80", "https": ":443"}.get(scheme, "")
        same = {authority, authority.removesuffix(port)} if port else set()
        return host is not None and bool(same & {host.lower(), host.lower().removesuffix(port)})


def _name_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_local(name: str) -> bool:
    if "." not in name or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a server that listens at `host` is for this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
