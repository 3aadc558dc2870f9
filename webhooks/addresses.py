"""Where a webhook may be sent, so that nobody has PayFlow speak to machines that only PayFlow can reach.

What must stay true: a URL that is taken reads the same to every parser, and no request goes to an address
that is not public (loopback in development excepted). A name may point elsewhere a moment later, so
registration asks only to tell the owner early; what counts is `is_address_allowed` on the very address that a
delivery connects to.

`parse_url` and `judge` are pure; `check_url` looks the host up between the two.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from django.conf import settings

from webhooks.errors import UrlRefused

URL_LENGTH_MAX = 2_048
HOST_LENGTH_MAX = 253
LOOKUPS_AT_ONCE_MAX = 4

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Sequence[Address]]

# RFC 3986, section 2, without `@` where it would end a userinfo, and without `#`: a fragment is never sent.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#@\\]*)(?P<rest>(?:[/?](?:[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)?)",
    re.ASCII | re.IGNORECASE,
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_LOCALHOST = "localhost"
# Names that mean something else on every network (RFC 6761, 6762, 7686, 8375; ICANN reserves `internal`).
_LOCAL_NAMES = frozenset(
    {_LOCALHOST, "local", "internal", "intranet", "lan", "home", "corp", "private", "onion", "arpa"}
)
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
# Of IPv6 only global unicast; that leaves out loopback, mapped, compatible and translated IPv4, unique local,
# link-local and multicast addresses.
_IPV6_GLOBAL = ipaddress.ip_network("2000::/3")
# What the IANA special-purpose registries keep from being global. Not Python's `is_global`, which has changed
# between its patch releases.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; some clouds' metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's agent, though the number is public
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; some clouds' metadata
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)

_lookups = ThreadPoolExecutor(LOOKUPS_AT_ONCE_MAX, thread_name_prefix="webhook-lookup")


@dataclass(frozen=True, slots=True)
class Policy:
    """What is allowed here; an empty `ports` stands for any."""

    allow_http: bool = False
    allow_localhost: bool = False
    ports: tuple[int, ...] = (80, 443)


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL points at; `host` is in lower case, and without brackets when it is an address."""

    scheme: str
    host: str
    port: int
    address: Address | None


def current_policy() -> Policy:
    """Return what the settings allow."""
    return Policy(
        allow_http=settings.WEBHOOK_ALLOW_HTTP,
        allow_localhost=settings.WEBHOOK_ALLOW_LOCALHOST,
        ports=tuple(settings.WEBHOOK_PORTS),
    )


def check_url(url: str, policy: Policy) -> Target:
    """Return what a URL points at, if PayFlow may send there now. Raises UrlRefused with the reason."""
    target = parse_url(url, policy)
    judge(target, resolve(target.host, target.port) if target.address is None else [target.address], policy)
    return target


def parse_url(url: str, policy: Policy) -> Target:
    """Take a URL apart, as strictly as it can be read in one way only. Raises UrlRefused."""
    if len(url) > URL_LENGTH_MAX:
        raise UrlRefused(f"The URL is longer than {URL_LENGTH_MAX} characters.")
    if not url.isascii():
        raise UrlRefused("Write the URL in ASCII: the host in Punycode (xn--...), the rest percent-encoded.")
    whole = _URL.fullmatch(url)
    if whole is None:
        raise UrlRefused(_fault_of_form(url))
    scheme = whole["scheme"].lower()
    if scheme == "http" and not policy.allow_http:
        raise UrlRefused("The URL must begin with https://.")
    authority = _AUTHORITY.fullmatch(whole["authority"])
    if authority is None:
        raise UrlRefused("The URL's host is a name or an address, with or without a port.")
    port = int(authority["port"]) if authority["port"] else {"http": 80, "https": 443}[scheme]
    if not 1 <= port <= 65_535 or (policy.ports and port not in policy.ports):
        allowed = " or ".join(str(each) for each in policy.ports) or "from 1 to 65535"
        raise UrlRefused(f"The URL's port must be {allowed}.")
    host = authority["host"].lower()
    address = _address_of(host)
    if address is None:
        _check_name(host, policy)
    return Target(scheme, host.strip("[]"), port, address)


def judge(target: Target, addresses: Sequence[Address], policy: Policy) -> None:
    """Raise UrlRefused unless every address that the host has may be sent to."""
    if target.address is not None and not is_address_allowed(target.address, policy):
        raise UrlRefused("The URL's address is not a public one.")
    # One private address among public ones is enough to refuse. A name that leads nowhere is told the same:
    # the answer must not say which names exist on the inside.
    if not addresses or not all(is_address_allowed(address, policy) for address in addresses):
        raise UrlRefused("The URL's host has no public address.")


def is_address_allowed(address: Address | str, policy: Policy) -> bool:
    """Say whether a request may go to this address. A text that is no address is not allowed."""
    try:
        ip = ipaddress.ip_address(address) if isinstance(address, str) else address
    except ValueError:
        return False
    if _is_in(ip, _LOOPBACK):
        return policy.allow_localhost
    if ip.version == 6 and ip not in _IPV6_GLOBAL:
        return False
    return not _is_in(ip, _NOT_PUBLIC)


def resolve(host: str, port: int) -> Sequence[Address]:
    """Return a name's addresses, none if it has none. Raises UrlRefused when that takes too long."""
    lookup = _lookups.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = lookup.result(timeout=settings.WEBHOOK_LOOKUP_SECONDS_MAX)
    except TimeoutError:
        lookup.cancel()
        raise UrlRefused("The URL's host could not be looked up in time. Try again.") from None
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(entry[4][0]) for entry in found]


def _fault_of_form(url: str) -> str:
    if re.search(r"[\x00-\x20\x7f\\]", url):
        return "The URL holds a space, a control character or a backslash."
    if "#" in url:
        return "The URL must have no fragment: it would never be sent."
    if re.match(r"https?://[^/?#]*@", url, re.IGNORECASE):
        return "The URL must hold no user name or password."
    return "This is not a URL such as https://example.com/hooks."


def _address_of(host: str) -> Address | None:
    """Return the address that a host is written as, or None for a name. Raises UrlRefused.

    Whatever a parser could take for a number is one (WHATWG URL, "ends in a number"), and then it must be
    written in the one form that all of them read alike.
    """
    if host.startswith("["):
        try:
            return IPv6Address(host[1:-1])
        except ValueError:
            raise UrlRefused("The URL's host is not an IPv6 address.") from None
    labels = host.removesuffix(".").split(".")
    if not _NUMBER.fullmatch(labels[-1]):
        return None
    try:
        return IPv4Address(host)
    except ValueError:
        raise UrlRefused("An IPv4 address has four decimal numbers without leading zeros.") from None


def _check_name(host: str, policy: Policy) -> None:
    labels = host.split(".")
    if len(host) > HOST_LENGTH_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlRefused("The URL's host is not a valid name; it has no dot at its end.")
    if labels[-1] == _LOCALHOST and policy.allow_localhost:
        return
    if len(labels) == 1 or labels[-1] in _LOCAL_NAMES:
        raise UrlRefused("The URL's host has no public address.")


def _is_in(address: Address, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    # `in` compares the versions by itself.
    return any(address in network for network in networks)
