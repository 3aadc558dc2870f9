"""Production uses MongoDB and Redis with passwords and TLS, and no standalone server."""

from __future__ import annotations

import pytest

from payflow import safety
from payflow.settings import servers

UNSAFE_MONGODB = [
    ("mongodb://db.example/?replicaSet=rs0&tls=true", "MONGODB_URI has no user and password"),
    ("mongodb://ledger@db.example/?replicaSet=rs0&tls=true", "MONGODB_URI has no user and password"),
    ("mongodb+srv://db.pay.example/", "MONGODB_URI has no user and password"),
    ("mongodb://u:s3cr3t-password@db.example/?replicaSet=rs0", "MONGODB_URI is not encrypted"),
    ("mongodb://u:s3cr3t-password@127.0.0.1,db.example/?replicaSet=rs0", "MONGODB_URI is not encrypted"),
    ("mongodb://u:s3cr3t-password@8.8.8.8/?replicaSet=rs0", "MONGODB_URI is not encrypted"),
    ("mongodb+srv://u:s3cr3t-password@db.pay.example/?tls=false", "MONGODB_URI is not encrypted"),
    ("mongodb://u:s3cr3t-password@db.example/?tls=true", "MONGODB_URI may lead to a standalone server"),
    (
        "mongodb://u:s3cr3t-password@a.example,b.example/?tls=true&directConnection=true",
        "MONGODB_URI cannot be read",
    ),
    (
        "mongodb://u:s3cr3t-password@a.example/?tls=true&replicaSet=r&directConnection=true",
        "MONGODB_URI may lead to a standalone",
    ),
    (
        "mongodb://u:s3cr3t-password@a.example/?replicaSet=r&tls=true&tlsInsecure=true",
        "MONGODB_URI does not verify the",
    ),
    (
        "mongodb://u:s3cr3t-password@a.example/?replicaSet=r&tls=true&tlsAllowInvalidCertificates=true",
        "MONGODB_URI does not verify",
    ),
    ("mongodb://u:aaaaaaaaaaaaaaaa@a.example/?replicaSet=r&tls=true", "the password in MONGODB_URI is weak"),
    ("mongodb://u:s3cr3t@a.example/?replicaSet=r&tls=true", "the password in MONGODB_URI is shorter than 12"),
    (
        "mongodb://u:s3cr3t-password@a.example/?replicaSet=r&tls=true&readPreference=secondary",
        "MONGODB_URI reads",
    ),
    ("s3cr3t", "MONGODB_URI cannot be read"),
]
UNSAFE_REDIS = [
    ("rediss://cache.example:6379/0", "REDIS_URL has no password"),
    ("redis://:s3cr3t-password@cache.example:6379/0", "REDIS_URL is not encrypted"),
    ("redis://:s3cr3t-password@10.0.0.1:6379/0", "REDIS_URL is not encrypted"),
    (
        "rediss://:s3cr3t-password@cache.example:6379/0?ssl_cert_reqs=none",
        "REDIS_URL does not verify the server's",
    ),
    ("rediss://:s3cr3t@cache.example:6379/0", "the password in REDIS_URL is shorter than 12 characters"),
    ("rediss://:s3cr3t-password@cache.example:6379/0?ssl_check_hostname=false", "REDIS_URL has options that"),
    ("rediss://:s3cr3t-password@cache.example:6379/0?host=other.example", "REDIS_URL has options that"),
    ("http://:s3cr3t-password@cache.example", "REDIS_URL must begin with rediss://"),
]
SAFE_MONGODB = [
    ("mongodb://u:s3cr3t-password@db.example/payflow?replicaSet=rs0&tls=true", []),
    ("mongodb://u:s3cr3t-password@mongo,other/", ["mongo", "other"]),
    ("mongodb+srv://u:s3cr3t-password@db.pay.example/", []),
    ("mongodb://a.example/?replicaSet=r&tls=true&authMechanism=MONGODB-X509", []),
    ("mongodb://u:s3cr3t-password@db.internal/?replicaSet=r", [".internal"]),
    ("mongodb://u:s3cr3t-password@10.9.0.1:27017/?replicaSet=r", ["10.0.0.0/8"]),
]
SAFE_REDIS = [
    ("rediss://:s3cr3t-password@cache.example:6379/0", []),
    ("redis://:s3cr3t-password@127.0.0.1:6379/0", []),
    ("redis://:s3cr3t-password@[::1]:6379/0", []),
    ("redis://u:s3cr3t-password@localhost:6379/0", []),
    ("unix:///run/redis.sock?password=s3cr3t-password", []),
    ("redis://:s3cr3t-password@10.1.2.3:6379/0", ["cache", "10.0.0.0/8"]),
    ("redis://:s3cr3t-password@[fd00::7]:6379/0", ["fd00::/8"]),
]


@pytest.mark.parametrize(("uri", "reason"), UNSAFE_MONGODB)
def test_refuses_an_unsafe_address_of_mongodb(uri: str, reason: str) -> None:
    faults = servers.mongodb_faults(uri, unencrypted=[])
    assert any(fault.startswith(reason) for fault in faults)
    assert "s3cr3t" not in str(faults)


@pytest.mark.parametrize(("url", "reason"), UNSAFE_REDIS)
def test_refuses_an_unsafe_address_of_redis(url: str, reason: str) -> None:
    faults = servers.redis_faults(url, unencrypted=[])
    assert any(fault.startswith(reason) for fault in faults)
    assert "s3cr3t" not in str(faults)


@pytest.mark.parametrize(("uri", "unencrypted"), SAFE_MONGODB)
def test_takes_a_safe_address_of_mongodb(uri: str, unencrypted: list[str]) -> None:
    assert servers.mongodb_faults(uri, unencrypted=unencrypted) == []


@pytest.mark.parametrize(("url", "unencrypted"), SAFE_REDIS)
def test_takes_a_safe_address_of_redis(url: str, unencrypted: list[str]) -> None:
    assert servers.redis_faults(url, unencrypted=unencrypted) == []


def test_an_exemption_covers_what_it_names_and_nothing_else() -> None:
    for host in ("evil-internal", "internal", "db.internal.evil.example", "11.0.0.1", "cache2"):
        assert servers.redis_faults(
            f"redis://:s3cr3t-password@{host}", unencrypted=[".internal", "10.0.0.0/8", "cache"]
        )


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        ".",
        "",
        ".com",
        ".co.uk",
        "8.8.8.8",
        "0.0.0.0/0",
        "8.8.8.0/24",
        "10.0.0.1/8",
        "10.0.0.0/64",
        "redis://h",
        "a b",
    ],
)
def test_refuses_an_exemption_that_is_no_host_domain_or_private_network(entry: str) -> None:
    assert servers.unusable_exemptions(["cache", entry])
    assert servers.unusable_exemptions(["cache", ".internal", "10.0.0.0/8", "fd00::/8"]) == []


@pytest.mark.parametrize(
    "host",
    [
        ".com", ".", "..", "", "*", ".co.uk", ".COM.au", "*.pay.example", "pay.*", "https://pay.example",
        "pay.example:443", "pay example", "pay.example/", "pay..example",
    ],
)  # fmt: skip
def test_a_host_that_others_can_have_is_no_name_of_this_service(host: str) -> None:
    assert not safety.names_a_service(host)


@pytest.mark.parametrize(
    "host", ["pay.example", ".pay.example", "10.0.0.7", "[::1]", "localhost", ".pay.co.uk"]
)
def test_a_host_or_a_domain_of_its_own_is(host: str) -> None:
    assert safety.names_a_service(host)


@pytest.mark.parametrize(
    "origin", ["https://*.example", "http://pay.example", "null", "*", "https://pay.example/", ""]
)
def test_a_trusted_origin_is_one_https_origin(origin: str) -> None:
    assert safety.has_unsafe_origin(["https://pay.example", origin])
    assert not safety.has_unsafe_origin(["https://pay.example", "https://localhost:8443"])
