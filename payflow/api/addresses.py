"""Whose address a request comes from, as far as it can be believed.

What must stay true: what a client writes into X-Forwarded-For never chooses its address. Only the entries
that our own proxies have added count, and TRUSTED_PROXY_HOPS says how many those are. For that the web front
drops headers with underscores in their names (payflow/front/environ.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

from django.conf import settings

from payflow.errors import Refused

UNKNOWN = "unknown"
# Whoever has one IPv6 address has its /64 (RFC 6177), so that counts as one.
_IPV6_PREFIX_BITS = 64


class AddressUnreadable(Refused):
    """The proxies in front do not say whom they got the request from."""


def client_network(meta: Mapping[str, Any]) -> str:
    """Return the client's IPv4 address, or the /64 that its IPv6 address is in.

    Behind N trusted proxies that is the Nth entry of X-Forwarded-For from the right. Without that header it
    is the peer: somebody who asks past the proxies. Raises AddressUnreadable when the header has no such
    entry, or one that is no address: whatever a client did to that end, it is not to be counted as another.
    """
    hops = settings.TRUSTED_PROXY_HOPS
    forwarded = meta.get("HTTP_X_FORWARDED_FOR") if hops else None
    if forwarded is None:
        address = _read(meta.get("REMOTE_ADDR", ""))
    else:
        # Granian joins several header lines by commas, in their order (RFC 9110, 5.3).
        entries = forwarded.rsplit(",", hops)
        address = _read(entries[-hops]) if len(entries) >= hops else None
        if address is None:
            raise AddressUnreadable("X-Forwarded-For does not say where this comes from.")
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _IPV6_PREFIX_BITS), strict=False))
    return str(address) if address else UNKNOWN


def _read(entry: str) -> IPv4Address | IPv6Address | None:
    """Return the address in `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]` or `[::1]:80`; IPv4 in IPv6 is IPv4."""
    text = entry.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
