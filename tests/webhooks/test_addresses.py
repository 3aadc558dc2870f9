"""Where a webhook may go. Every hostile URL here once worked against somebody."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import requests
import urllib3
from django.conf import LazySettings
from hypothesis import given
from hypothesis import strategies as st

from tests.webhooks.hostile import HOSTILE, NAMES, PUBLIC, PUBLIC_IPV6
from webhooks import addresses
from webhooks.addresses import Address, Policy, check_url, is_address_allowed, parse_url
from webhooks.errors import UrlRefused

PRODUCTION = Policy()
DEVELOPMENT = Policy(allow_http=True, allow_localhost=True, ports=())


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int) -> Sequence[Address]:
        local = ["127.0.0.1", "::1"] if host.endswith("localhost") else []
        # Everything unknown is public here, so that what is refused is refused for itself.
        return [ipaddress.ip_address(each) for each in NAMES.get(host, local or [PUBLIC])]

    monkeypatch.setattr(addresses, "resolve", resolve)


GOOD = [
    "https://hooks.example.com",
    "https://hooks.example.com/",
    "https://hooks.example.com:443/payflow?token=a%20b&x=[1]",
    "HTTPS://Hooks.Example.COM/Path/../%7Euser;v=1",
    "https://hooks.example.com:80/odd-but-public",
    "https://xn--bcher-kva.example/hooks",
    "https://a.b-c.example.co/hooks",
    f"https://{PUBLIC}/hooks",
    f"https://[{PUBLIC_IPV6}]:443/hooks",
    "https://hooks.example.com/?next=//10.0.0.1",
    "https://hooks.example.com/" + "x" * (2_048 - 26),
]


@pytest.mark.parametrize("url", GOOD, ids=lambda url: url[:40])
def test_takes_a_public_endpoint(url: str) -> None:
    assert check_url(url, PRODUCTION).scheme == "https"


def test_a_target_says_where_a_url_leads() -> None:
    target = parse_url("HTTPS://Hooks.Example.COM/x?y", PRODUCTION)
    assert (target.scheme, target.host, target.port, target.address) == (
        "https", "hooks.example.com", 443, None,
    )  # fmt: skip
    literal = parse_url("http://[2606:2800::1]:8080/", DEVELOPMENT)
    assert (literal.host, literal.port, str(literal.address)) == ("2606:2800::1", 8080, "2606:2800::1")


@pytest.mark.parametrize("url", HOSTILE, ids=lambda url: ascii(url)[:48])
def test_refuses_what_could_lead_inside(url: str) -> None:
    with pytest.raises(UrlRefused) as refused:
        check_url(url, PRODUCTION)
    assert refused.value.status == 400
    assert refused.value.errors[0].field == "url"
    # The reason does not send the URL back, nor what a name leads to.
    assert len(refused.value.detail) < 120
    assert not any(each in refused.value.detail for each in ("10.1.2.3", "169.254", "user:password"))


def test_the_answer_does_not_say_which_names_exist_inside() -> None:
    def reason(url: str) -> str:
        with pytest.raises(UrlRefused) as refused:
            check_url(url, PRODUCTION)
        return refused.value.detail

    hosts = ("nowhere.example", "inside.example", "metadata.example", "localhost", "db.internal", "intranet")
    assert len({reason(f"https://{host}/") for host in hosts}) == 1


LOCAL = [
    "http://localhost:8000/hooks", "http://127.0.0.1:5000/", "https://127.0.0.1/", "http://[::1]:9/",
    "http://a.localhost/", "http://127.8.8.8/", "http://localtest.example/",
    "http://hooks.example.com:8080/",
]  # fmt: skip


@pytest.mark.parametrize("url", LOCAL)
def test_development_may_send_to_this_machine(url: str) -> None:
    check_url(url, DEVELOPMENT)


@pytest.mark.parametrize("url", LOCAL)
def test_production_may_not(url: str) -> None:
    with pytest.raises(UrlRefused):
        check_url(url, PRODUCTION)


NOT_EVEN_IN_DEVELOPMENT = [
    "http://10.0.0.1/", "http://192.168.0.1/", "http://169.254.169.254/", "http://0.0.0.0/", "http://[::]/",
    "http://127.1/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/",
    "http://[::ffff:127.0.0.1]/", "http://inside.example/", "http://mixed.example/",
    "http://metadata.google.internal/", "http://user@127.0.0.1/", "http://127.0.0.1#x", "http://localhost./",
    "ftp://127.0.0.1/", "http://127.0.0.1:0/", "http://\uff11\uff12\uff17.0.0.1/", "http://intranet/",
    "http://[fd00::1]/",
]  # fmt: skip


@pytest.mark.parametrize("url", NOT_EVEN_IN_DEVELOPMENT, ids=ascii)
def test_development_opens_nothing_but_loopback(url: str) -> None:
    with pytest.raises(UrlRefused):
        check_url(url, DEVELOPMENT)


def test_localhost_that_leads_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "resolve", lambda host, port: [ipaddress.ip_address("10.0.0.1")])
    with pytest.raises(UrlRefused):
        check_url("http://localhost/", DEVELOPMENT)


@pytest.mark.parametrize(
    "text", ["", "x", "localhost", "127.1", "0x7f000001", "1.2.3.4.5", "93.184.215.14 ", "::g"]
)
def test_what_is_no_address_is_not_allowed(text: str) -> None:
    assert not is_address_allowed(text, DEVELOPMENT)


@given(st.ip_addresses())
def test_no_address_is_allowed_that_python_knows_to_be_special(address: Address) -> None:
    special = (
        address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
        or address.is_reserved or address.is_unspecified
    )  # fmt: skip
    assert not (special and is_address_allowed(address, PRODUCTION))


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_gets_in_by_way_of_ipv6(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    for wrapped in (
        number,
        0xFFFF << 32 | number,
        0x64FF9B << 96 | number,
        0x64FF9B0001 << 80 | number,
        0x2002 << 112 | number << 80,
        0x2001 << 112 | number << 64,
    ):
        assert not is_address_allowed(ipaddress.IPv6Address(wrapped), PRODUCTION)


@given(
    st.text(max_size=60).map("https://{}".format)
    | st.text("0123456789abfxABFX.-:[]%@", max_size=20).map("http://{}/".format)
    | st.from_regex(addresses._URL, fullmatch=True)
)
def test_whatever_is_sent_is_read_or_refused_and_read_as_requests_reads_it(url: str) -> None:
    try:
        target = parse_url(url, DEVELOPMENT)
    except UrlRefused:
        return
    prepared = requests.Request("POST", url).prepare()
    from_requests = urllib3.util.parse_url(prepared.url)
    assert (from_requests.host or "").strip("[]").lower() == target.host
    assert from_requests.port in (target.port, None)
    assert from_requests.auth is None


def test_a_lookup_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, settings: LazySettings) -> None:
    monkeypatch.undo()
    settings.WEBHOOK_LOOKUP_SECONDS_MAX = 0.05
    answered = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> list[Any]:
        answered.wait(30)
        return []

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", hang)
        for _ in range(2 * addresses.LOOKUPS_AT_ONCE_MAX):
            with pytest.raises(UrlRefused, match="in time"):
                addresses.resolve("slow.example", 443)
        answered.set()
    found = addresses.resolve("127.0.0.1", 443)
    assert [str(address) for address in found] == ["127.0.0.1"]


@pytest.mark.parametrize("error", [socket.gaierror(-2, "no"), UnicodeError("label too long"), OSError("no")])
def test_a_lookup_that_fails_finds_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.undo()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", fail)
        assert addresses.resolve("nowhere.example", 443) == []
