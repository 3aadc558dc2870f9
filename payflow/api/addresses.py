"""Whose address a request comes from, as far as it can be believed.

What must stay true: what a client writes into X-Forwarded-For never chooses its address. Only the entries
that our own proxies have added count, and TRUSTED_PROXY_HOPS says how many those are. For that the proxy
must drop headers with underscores in their names: WSGI cannot tell X_Forwarded_For from X-Forwarded-For.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

from django.conf import settings

UNKNOWN = "unknown"
# Whoever has one IPv6 address has its /64 (RFC 6177), so that counts as one.
_IPV6_PREFIX_BITS = 64


def client_network(meta: Mapping[str, Any]) -> str:
    """Return the client's IPv4 address, or the /64 that its IPv6 address is in.

    Behind N trusted proxies that is the Nth entry of X-Forwarded-For from the right, else the peer. An entry
    that is missing or no address means that something is not set up as the setting says: then the peer, which
    nobody can choose, counts for all who come that way.
    """
    hops = settings.TRUSTED_PROXY_HOPS
    address = None
    if hops:
        # Granian joins several header lines by commas, in their order (RFC 9110, 5.3).
        entries = meta.get("HTTP_X_FORWARDED_FOR", "").rsplit(",", hops)
        address = _read(entries[-hops]) if len(entries) >= hops else None
    address = address or _read(meta.get("REMOTE_ADDR", ""))
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
