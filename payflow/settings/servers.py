"""What production refuses about the addresses of MongoDB and Redis. Pure: it reads no environment by itself.

Invariants:
- a reason names the variable and never repeats a part of its value;
- an address that passes carries credentials, is encrypted or stays where `UNENCRYPTED_SERVERS` allows it, and
  never leads to a standalone MongoDB server: a driver that was given a replica set's name or several servers
  leaves a standalone server out (Server Discovery and Monitoring specification).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from payflow import safety

SRV_PREFIX = "mongodb+srv://"
# Mechanisms that identify the client by its certificate or its machine, not by a user in the address.
_WITHOUT_USER = frozenset({"MONGODB-X509", "MONGODB-AWS", "MONGODB-OIDC"})
_UNVERIFIED = ("tlsinsecure", "tlsallowinvalidcertificates", "tlsallowinvalidhostnames")
# What an address of Redis may say besides host and database. Others could lead elsewhere or check less.
_REDIS_OPTIONS = frozenset(
    {
        "db",
        "password",
        "username",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_keyfile",
    }
)
_PASSWORD_LENGTH_MIN = 12
# Names that no public registry hands out (RFC 6762, 8375 and ICANN's reservation of `internal`).
_PRIVATE_DOMAINS = (".internal", ".local", ".lan", ".localdomain", ".home.arpa", ".test")
_ENCRYPT = "use TLS, or name the host or its network in UNENCRYPTED_SERVERS"


def mongodb_faults(uri: str, *, unencrypted: Sequence[str]) -> list[str]:
    """Return why production must not use this MongoDB address."""
    is_srv = uri.startswith(SRV_PREFIX)
    try:
        # The servers of an SRV record are looked up later; nothing else of the address depends on them.
        parsed = parse_uri(f"mongodb://{uri.removeprefix(SRV_PREFIX)}" if is_srv else uri, warn=False)
    except (PyMongoError, ValueError):
        return ["MONGODB_URI cannot be read"]
    options: dict[str, Any] = {str(name).lower(): value for name, value in parsed["options"].items()}
    hosts = [host for host, _ in parsed["nodelist"]]
    faults = []
    has_identity = options.get("authmechanism") in _WITHOUT_USER or bool(
        parsed["username"] and parsed["password"]
    )
    if not has_identity:
        faults.append("MONGODB_URI has no user and password")
    if parsed["password"] and (
        fault := safety.fault_of_secret(parsed["password"], length_min=_PASSWORD_LENGTH_MIN)
    ):
        faults.append(f"the password in MONGODB_URI {fault}")
    if any(options.get(name) for name in _UNVERIFIED):
        faults.append("MONGODB_URI does not verify the server's certificate")
    if not options.get("tls", is_srv) and not all(_may_be_plain(host, unencrypted) for host in hosts):
        faults.append(f"MONGODB_URI is not encrypted: {_ENCRYPT}")
    names_many = is_srv or len(hosts) > 1 or options.get("replicaset") or options.get("loadbalanced")
    if str(options.get("readpreference", "primary")).lower() != "primary":
        faults.append("MONGODB_URI reads from secondaries, which may not know the newest entries")
    if options.get("directconnection") or not names_many:
        faults.append(
            "MONGODB_URI may lead to a standalone server: name the replica set (?replicaSet=...),"
            " or two or more routers of a sharded cluster"
        )
    return faults


def redis_faults(url: str, *, unencrypted: Sequence[str]) -> list[str]:
    """Return why production must not use this Redis address."""
    try:
        parsed = urlsplit(url)
        host, options = parsed.hostname or "", parse_qs(parsed.query)
    except ValueError:
        return ["REDIS_URL cannot be read"]
    if parsed.scheme not in ("redis", "rediss", "unix"):
        return ["REDIS_URL must begin with rediss://, redis:// or unix://"]
    faults = []
    password = unquote(parsed.password or "") or next(iter(options.get("password", ())), "")
    if not password:
        faults.append("REDIS_URL has no password")
    elif fault := safety.fault_of_secret(password, length_min=_PASSWORD_LENGTH_MIN):
        faults.append(f"the password in REDIS_URL {fault}")
    if unknown := options.keys() - _REDIS_OPTIONS:
        faults.append(
            f"REDIS_URL has options that are not for PayFlow to be given there ({len(unknown)} of them)"
        )
    if parsed.scheme == "rediss" and _is_unverified(options):
        faults.append("REDIS_URL does not verify the server's certificate")
    if parsed.scheme == "redis" and not _may_be_plain(host, unencrypted):
        faults.append(f"REDIS_URL is not encrypted: {_ENCRYPT}")
    return faults


def _is_unverified(options: dict[str, list[str]]) -> bool:
    requirements = [value.lower() for value in options.get("ssl_cert_reqs", ())]
    return any(value.removeprefix("cert_") != "required" for value in requirements)


def _may_be_plain(host: str, allowed: Sequence[str]) -> bool:
    """Say whether a connection to this host may be unencrypted: it stays on this machine, or it is allowed.

    An entry of `allowed` is a host, a domain with everything below it (`.internal`), or a network (CIDR).
    """
    host = unquote(host).lower().strip("[]")
    if host.startswith("/") or host == "localhost":
        return True
    address = _address(host)
    if address is not None and address.is_loopback:
        return True
    return any(_covers(entry.strip().lower(), host, address) for entry in allowed)


def _covers(entry: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if not entry:
        return False
    if address is None:
        return host.endswith(entry) if entry.startswith(".") else host == entry
    try:
        return address in ipaddress.ip_network(entry)
    except ValueError:
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def unusable_exemptions(entries: Sequence[str]) -> list[str]:
    """Return why UNENCRYPTED_SERVERS cannot be used: each entry is a host, a domain or a private network."""
    for position, entry in enumerate(entries, 1):
        text = entry.strip()
        address = _address(text)
        if address is not None and not address.is_private:
            return [f"UNENCRYPTED_SERVERS entry {position} is no private address"]
        is_named = text.lower().endswith(_PRIVATE_DOMAINS) or safety.names_a_service(text)
        if "/" not in text and address is None and not is_named:
            return [f"UNENCRYPTED_SERVERS entry {position} is no host, domain or network"]
        if "/" in text:
            try:
                network = ipaddress.ip_network(text)
            except ValueError:
                return [f"UNENCRYPTED_SERVERS entry {position} is no network in CIDR notation"]
            if not network.is_private:
                return [f"UNENCRYPTED_SERVERS entry {position} is no private network"]
    return []
