"""Whose address a request comes from: what proxies of ours say is believed, what clients write is not."""

from __future__ import annotations

import pytest
from django.conf import LazySettings

from payflow.api.addresses import client_network

PROXY = "192.0.2.1"

# Trusted hops, X-Forwarded-For, the peer, who it is.
TABLE = [
    (0, None, "198.51.100.7", "198.51.100.7"),
    (0, "1.2.3.4", "198.51.100.7", "198.51.100.7"),
    (1, "1.2.3.4", PROXY, "1.2.3.4"),
    (1, "6.6.6.6, 1.2.3.4", PROXY, "1.2.3.4"),
    (1, "6.6.6.6,7.7.7.7,1.2.3.4", PROXY, "1.2.3.4"),
    (2, "1.2.3.4, 10.0.0.1", PROXY, "1.2.3.4"),
    (2, "6.6.6.6, 1.2.3.4, 10.0.0.1", PROXY, "1.2.3.4"),
    # Several header lines reach us as one.
    (2, "6.6.6.6,1.2.3.4,10.0.0.1", PROXY, "1.2.3.4"),
    # Fewer entries than hops: somebody came past a proxy. Nothing that they wrote is believed.
    (1, None, PROXY, PROXY),
    (1, "", PROXY, PROXY),
    (2, "1.2.3.4", PROXY, PROXY),
    (3, "1.2.3.4, 5.6.7.8", PROXY, PROXY),
    # No addresses.
    (1, "1.2.3.4, unknown", PROXY, PROXY),
    (1, "_hidden", PROXY, PROXY),
    (1, "1.2.3.4,", PROXY, PROXY),
    (1, "1.2.3.4.5", PROXY, PROXY),
    (1, "01.2.3.4", PROXY, PROXY),
    (1, "1.2.3.4\x00", PROXY, PROXY),
    (1, "\u0661.2.3.4", PROXY, PROXY),
    (1, "x" * 10_000, PROXY, PROXY),
    (1, "," * 10_000, PROXY, PROXY),
    (1, "[", PROXY, PROXY),
    (1, "::1::2", PROXY, PROXY),
    # Ports, spaces, brackets.
    (1, "1.2.3.4:5678", PROXY, "1.2.3.4"),
    (1, "  1.2.3.4\t", PROXY, "1.2.3.4"),
    (1, "[2001:db8:1:2::9]:443", PROXY, "2001:db8:1:2::/64"),
    (1, "[2001:db8:1:2::9]", PROXY, "2001:db8:1:2::/64"),
    # IPv6: a /64 is one; IPv4 in IPv6 is IPv4.
    (0, None, "2001:db8:1:2::9", "2001:db8:1:2::/64"),
    (0, None, "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
    (0, None, "2001:db8:1:3::9", "2001:db8:1:3::/64"),
    (0, None, "fe80::1%eth0", "fe80::/64"),
    (0, None, "::ffff:198.51.100.7", "198.51.100.7"),
    (1, "::ffff:1.2.3.4", PROXY, "1.2.3.4"),
    # A Unix socket has no peer.
    (0, None, "", "unknown"),
    (1, "1.2.3.4", "", "1.2.3.4"),
    (1, "junk", "", "unknown"),
]


@pytest.mark.parametrize(("hops", "forwarded", "peer", "expected"), TABLE)
def test_believes_only_what_our_own_proxies_have_added(
    settings: LazySettings, hops: int, forwarded: str | None, peer: str, expected: str
) -> None:
    settings.TRUSTED_PROXY_HOPS = hops
    meta = {"REMOTE_ADDR": peer, **({} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded})}
    assert client_network(meta) == expected


def test_a_request_without_a_peer_is_somebody_unknown(settings: LazySettings) -> None:
    assert client_network({}) == "unknown"
