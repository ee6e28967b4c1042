"""Who sends a request: auth.py's guard notes the caller of each; routes read it by `caller_of`
(the key, for what it may see) and `source_of` (key or address, for limits and turns).
"""

import ipaddress

import msgspec

from qtts_openai.http.asgi import Connection


class Caller(msgspec.Struct, frozen=True):
    """`id` is a short hash of the key, the same after every restart, so records may hold it as
    their owner; `name` is the key's label, for logs. Admins may do what others may only do to what
    is theirs.
    """

    id: str
    name: str
    is_admin: bool = False


# Everybody on a server without keys, and who sends no known key to a route that needs none.
ANONYMOUS = Caller("anonymous", "anonymous")


def caller_of(connection: Connection) -> Caller:
    """ANONYMOUS before the guard has run, as in the answer to an unknown URL."""
    caller: Caller = connection.scope.get("state", {}).get("caller", ANONYMOUS)
    return caller


def source_of(connection: Connection) -> str:
    """Whose limits and turns count: the caller's, or the address's where there is no key.

    An IPv6 customer has a whole /64 to send from, so that counts as one address.
    """
    caller = caller_of(connection)
    if caller is not ANONYMOUS:
        return caller.id
    return _network(connection.client.host) if connection.client else "local"


def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
