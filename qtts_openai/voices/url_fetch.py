"""Reference audio by URL, for servers that allow it: public addresses only, bounded in size and
time, every redirect checked anew. The address that was checked is the one that is connected to.

Bytes are taken as they are sent: a body that is compressed for transport is refused, since its size
would be known only once it is unpacked.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from qtts_openai.errors import ApiError, invalid

MAX_REDIRECTS = 3
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses, reached through a gateway

Resolver = Callable[[str, int], Awaitable[list[str]]]


async def resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


async def fetch(
    url: str, *, max_bytes: int, timeout_s: float, resolver: Resolver = resolve
) -> bytes:
    """The body of a 200; a 400 for everything else, at the latest after `timeout_s`."""
    try:
        context = await asyncio.to_thread(_ssl_context)
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncClient(trust_env=False, verify=context) as client,
        ):
            for _ in range(MAX_REDIRECTS + 1):
                address = await _checked_address(url, resolver)
                answer = await _get(client, url, address, max_bytes)
                if isinstance(answer, bytes):
                    return answer
                url = answer
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        # ValueError: among others UnicodeError, of host names that are no names.
        raise _refused(f"cannot be fetched ({type(error).__name__})") from error
    raise _refused(f"redirects more than {MAX_REDIRECTS} times")


@cache
def _ssl_context() -> ssl.SSLContext:
    """Reading all certificates takes too long for the event loop, and for every request."""
    return httpx.create_ssl_context(trust_env=False)


def _refused(reason: str) -> ApiError:
    return invalid(f"ref_audio: the URL {reason}.", "ref_audio")


async def _checked_address(url: str, resolver: Resolver) -> str:
    """One of the host's addresses, when all of them are public."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise _refused("is not valid") from error
    if parts.scheme not in ("http", "https") or not host:
        raise _refused("must be http or https")
    addresses = await resolver(host, port)
    if not addresses or not all(_is_public(address) for address in addresses):
        raise _refused("does not lead to a public address")
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    if isinstance(ip, ipaddress.IPv6Address) and ip in NAT64:
        mapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if mapped is not None:
        ip = mapped
    return ip.is_global and not ip.is_multicast


async def _get(client: httpx.AsyncClient, url: str, address: str, max_bytes: int) -> bytes | str:
    """The body, or where a redirect leads."""
    target = httpx.URL(url)
    request = client.build_request(
        "GET",
        target.copy_with(host=address),
        headers={"host": target.netloc.decode(), "accept-encoding": "identity"},
        extensions={"sni_hostname": target.host},
    )
    answer = await client.send(request, stream=True)
    try:
        if answer.has_redirect_location:
            return str(target.join(answer.headers["location"]))
        if answer.status_code != 200:
            raise _refused(f"answers with status {answer.status_code}")
        if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise _refused("answers with a compressed body, though `identity` was asked for")
        body = bytearray()
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > max_bytes:
                raise _refused(f"holds more than {max_bytes} bytes")
        return bytes(body)
    finally:
        await answer.aclose()


def read_file_url(url: str, directory: str, max_bytes: int) -> bytes:
    """A file: URL below `directory`; links that lead out of it are refused too."""
    root = Path(directory).resolve()
    try:
        path = Path(unquote(urlsplit(url).path)).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise _refused("is not a file that may be read")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (ValueError, OSError) as error:
        raise _refused("is not valid, or its file cannot be read") from error
    if len(data) > max_bytes:
        raise _refused(f"holds more than {max_bytes} bytes")
    return data
