"""Whose address a request comes from: what proxies of ours say is believed, what clients write is not."""

from __future__ import annotations

import pytest
from django.conf import LazySettings

from payflow import redisdb
from payflow.api.addresses import AddressUnreadable, client_network
from payflow.rates import Rate
from tests.api.client import Api, Party, assert_problem, nothing_changes

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
    # No header at all: whoever asks past the proxies, from inside the network.
    (1, None, PROXY, PROXY),
    (2, None, PROXY, PROXY),
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
]

# Trusted hops, X-Forwarded-For.
UNREADABLE = [
    # Fewer entries than hops.
    (1, ""),
    (1, " "),
    (2, "1.2.3.4"),
    (3, "1.2.3.4, 5.6.7.8"),
    # No addresses.
    (1, "1.2.3.4, unknown"),
    (1, "_hidden"),
    (1, "1.2.3.4,"),
    (1, "1.2.3.4.5"),
    (1, "01.2.3.4"),
    (1, "1.2.3.4\x00"),
    (1, "\u0661.2.3.4"),
    (1, "x" * 10_000),
    (1, "," * 10_000),
    (1, "["),
    (1, "::1::2"),
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


@pytest.mark.parametrize(("hops", "forwarded"), UNREADABLE)
def test_refuses_who_comes_by_proxies_that_do_not_say_from_where(
    settings: LazySettings, hops: int, forwarded: str
) -> None:
    settings.TRUSTED_PROXY_HOPS = hops
    with pytest.raises(AddressUnreadable):
        client_network({"REMOTE_ADDR": PROXY, "HTTP_X_FORWARDED_FOR": forwarded})


@pytest.mark.parametrize("path", ["/auth/login", "/wallets", "/nothing", "/admin/login/", "/auth/api-keys"])
@pytest.mark.parametrize("token", [None, "nonsense", f"pk_{'0' * 32}_{'x' * 43}"])
def test_nobody_is_counted_as_the_proxy(settings: LazySettings, token: str | None, path: str) -> None:
    settings.TRUSTED_PROXY_HOPS = 1
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "global": Rate(1, 86_400), "auth": Rate(1, 86_400)}
    with nothing_changes():
        for _ in range(3):
            response = Api(token).post_json(path, {}, X_Forwarded_For="")
            assert_problem(response, 400, "validation_error")
    assert redisdb.client().keys("payflow:limits:*") == []
    assert Api().get("/").status_code == 200


def test_who_has_signed_in_needs_no_address(settings: LazySettings, anna: Party) -> None:
    settings.TRUSTED_PROXY_HOPS = 1
    assert anna.api.get("/wallets", headers={"X-Forwarded-For": ""}).status_code == 200
