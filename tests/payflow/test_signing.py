"""Canonical JSON, keys and detached signatures; and a production that starts with keys of its own only."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings

from payflow import signing
from payflow.signing import BadSignature, Uncanonical, UnusableKeys

TYP = "test+jws"
# RFC 8037, appendix A.1 and A.2.
RFC_SEED = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
RFC_X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"


def seed_of(number: int) -> str:
    return signing.to_base64url(bytes([number]) * 32)


A, B = f"a:{seed_of(1)}", f"b:{seed_of(2)}"


# --- Canonical JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"b": 1, "a": [None, True, False, "x"]}, '{"a":[null,true,false,"x"],"b":1}'),
        ({"B": {}, "a": [], "A": "", "_": -1}, '{"A":"","B":{},"_":-1,"a":[]}'),
        ('\u20ac$\u000f\nA\'B"\\\\"/', '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),  # RFC 8785, 3.2.2
        ("\b\t\f\r\u007f\u2028😀", '"\\b\\t\\f\\r\x7f\u2028😀"'),
        (2**53 - 1, "9007199254740991"),
    ],
)
def test_writes_a_value_in_its_one_form(value: Any, written: str) -> None:
    assert signing.canonical(value) == written.encode()


@pytest.mark.parametrize(
    "value",
    [1.5, Decimal("1"), float("nan"), 2**53, -(2**53), {"ä": 1}, {1: 1}, "\ud800", ("a",), b"a", [[1.0]],
     {"a": {"b": 1e3}}],
)  # fmt: skip
def test_refuses_what_can_be_written_in_two_ways(value: Any) -> None:
    with pytest.raises(Uncanonical):
        signing.canonical(value)


def test_refuses_endless_depth() -> None:
    value: list = []
    value.append(value)
    with pytest.raises(Uncanonical):
        signing.canonical(value)


@pytest.mark.parametrize("text", ["A", "AB", "AA=", "A+", "A/", "AA\n", "Ä"])
def test_refuses_a_second_spelling_of_base64url(text: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        signing.from_base64url(text)


# --- Keys -------------------------------------------------------------------------------------------------


def test_publishes_the_public_key_of_the_rfc() -> None:
    ring = signing.read_keys([f"rfc:{RFC_SEED}"])
    member = {"kty": "OKP", "crv": "Ed25519", "x": RFC_X, "kid": "rfc", "use": "sig", "alg": "EdDSA"}
    assert ring.as_jwks() == {"keys": [member]}
    assert "d" not in ring.as_jwks()["keys"][0]


def pem(path: Path, key: Any, *, public: bool = False) -> Path:
    encoding = serialization.Encoding.PEM
    if public:
        raw = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    else:
        plain = serialization.NoEncryption()
        raw = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(raw)
    return path


def test_reads_private_and_public_pem_files(tmp_path: Path) -> None:
    old, new = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    before = signing.read_keys([f"old:{pem(tmp_path / 'old.pem', old)}"])
    signature = before.sign({"a": 1}, typ=TYP)
    paths = [f"new:{pem(tmp_path / 'new.pem', new)}", f"old:{pem(tmp_path / 'pub.pem', old, public=True)}"]
    ring = signing.read_keys(paths)
    assert ring.verify({"a": 1}, signature, typ=TYP).kid == "old"
    assert ring.keys[0].derive_secret("x") != before.keys[0].derive_secret("x")
    assert ring.keys[1].derive_secret("x") is None
    with pytest.raises(UnusableKeys, match="key 1 cannot sign"):
        signing.read_keys(paths[1:])


@pytest.mark.parametrize(
    "entry",
    ["", "a", "a:", ":" + seed_of(1), seed_of(1), "a b:" + seed_of(1), "a:" + seed_of(1)[:-1],
     "a:" + seed_of(1) + "=", "a:" + seed_of(1) + "AA", "a:top/secret+top/secret+top/secret+top/secret+top=",
     "a:/no/such/secret.pem", "a:" + "ab" * 32, "a" * 65 + ":" + seed_of(1)],
)  # fmt: skip
def test_refuses_a_key_without_repeating_any_of_it(entry: str) -> None:
    with pytest.raises(UnusableKeys) as refusal:
        signing.read_keys([B, entry])
    said = str(refusal.value)
    assert "key 2" in said
    assert len(entry) < 3 or entry not in said
    assert "secret" not in said
    assert seed_of(1)[:8] not in said
    # Nor does a traceback: what went wrong inside may quote it.
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None or refusal.value.__suppress_context__


def test_refuses_keys_of_other_kinds_and_names_twice(tmp_path: Path) -> None:
    other = pem(tmp_path / "p256.pem", generate_private_key(SECP256R1()))
    (tmp_path / "none.pem").write_text("PRIVATE KEY")
    for entries in ([f"a:{other}"], [f"a:{tmp_path / 'none.pem'}"], [A, f"a:{seed_of(2)}"], [A] * 101):
        with pytest.raises(UnusableKeys):
            signing.read_keys(entries)
    with pytest.raises(UnusableKeys):
        signing.Keyring(()).sign({}, typ=TYP)


def test_shows_nothing_private_in_a_repr() -> None:
    assert repr(signing.read_keys([A])) == "Keyring(keys=(Key(kid='a'),))"
    assert seed_of(1) not in repr(vars(settings._wrapped))


def test_reads_a_jwk_set_and_passes_over_other_kinds() -> None:
    ring = signing.read_keys([A, B])
    document = ring.as_jwks()
    document["keys"].insert(0, {"kty": "RSA", "kid": "r", "n": "AQ", "e": "AQ"})
    read = signing.read_jwks(document)
    assert read.as_jwks() == ring.as_jwks()
    assert [key.private for key in read.keys] == [None, None]


@pytest.mark.parametrize(
    "document",
    [{}, {"keys": None}, {"keys": []}, {"keys": ["a"]}, {"keys": [{"kty": "RSA"}]},
     {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": RFC_X}]},
     {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "AA"}]},
     {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": RFC_X}] * 2}],
)  # fmt: skip
def test_refuses_a_jwk_set_that_holds_no_usable_key(document: dict) -> None:
    with pytest.raises(UnusableKeys):
        signing.read_jwks(document)


# --- Signatures -------------------------------------------------------------------------------------------


def test_rotates_without_losing_what_was_signed() -> None:
    old = signing.read_keys([A]).sign({"a": 1}, typ=TYP)
    rotated = signing.read_keys([B, A])
    assert rotated.verify({"a": 1}, old, typ=TYP).kid == "a"
    assert rotated.verify({"a": 1}, rotated.sign({"a": 1}, typ=TYP), typ=TYP).kid == "b"
    with pytest.raises(BadSignature, match="signed with the key 'a', which is not among the keys given"):
        signing.read_keys([B]).verify({"a": 1}, old, typ=TYP)


def resigned(header: Any) -> str:
    """Return a detached JWS of {} with this header and a signature that fits it."""
    encoded = signing.to_base64url(header if isinstance(header, bytes) else json.dumps(header).encode())
    payload = signing.to_base64url(b"{}")
    key = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    return f"{encoded}..{signing.to_base64url(key.sign(f'{encoded}.{payload}'.encode()))}"


HEADER = {"alg": "EdDSA", "kid": "a", "typ": TYP}


def test_accepts_the_header_in_any_spelling() -> None:
    assert signing.read_keys([A]).verify({}, resigned(HEADER), typ=TYP).kid == "a"


@pytest.mark.parametrize(
    "header",
    [{**HEADER, "alg": "none"}, {**HEADER, "alg": "HS256"}, {**HEADER, "typ": "JWT"}, {**HEADER, "kid": None},
     {**HEADER, "kid": 1}, {**HEADER, "kid": "\x1b[2J"}, {**HEADER, "kid": "b"}, {**HEADER, "crit": ["b64"]},
     {**HEADER, "b64": False}, {**HEADER, "jwk": {}}, {"alg": "EdDSA", "kid": "a"}, [], b"{", b"", b"\xff"],
)  # fmt: skip
def test_refuses_any_other_header_even_when_its_signature_fits(header: Any) -> None:
    with pytest.raises(BadSignature):
        signing.read_keys([A]).verify({}, resigned(header), typ=TYP)


def test_refuses_broken_signatures() -> None:
    ring = signing.read_keys([A])
    good = ring.sign({"a": "ä"}, typ=TYP)
    ring.verify({"a": "ä"}, good, typ=TYP)
    header, _, signature = good.split(".")
    # Adding the group's order to S gives a second value that careless verifiers take (RFC 8032, 5.1.7).
    raw = signing.from_base64url(signature)
    order = 2**252 + 27742317777372353535851937790883648493
    malleable = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    broken = [
        "", "..", good[:-1], good + "A", good + "=", f"{header}.e30.{signature}", f"{header}.{signature}",
        f"{header}..", f"{header}..{signature}.", f"{header}..{signing.to_base64url(malleable)}",
    ]  # fmt: skip
    for jws in broken:
        with pytest.raises(BadSignature):
            ring.verify({"a": "ä"}, jws, typ=TYP)
    for value in ({"a": "a"}, {"a": "ä", "b": 1}, {}, {"a": 1.5}):
        with pytest.raises(BadSignature):
            ring.verify(value, good, typ=TYP)


def test_another_library_verifies_what_was_signed() -> None:
    ring = signing.read_keys([A])
    header, _, signature = ring.sign({"b": 1, "a": "€"}, typ=TYP).split(".")
    payload = signing.to_base64url('{"a":"€","b":1}'.encode())
    whole = f"{header}.{payload}.{signature}"
    key = jwt.PyJWK.from_dict(ring.as_jwks()["keys"][0])
    assert json.loads(jwt.PyJWS().decode(whole, key, algorithms=["EdDSA"])) == {"a": "€", "b": 1}


# --- Starting ---------------------------------------------------------------------------------------------


def start(environment: str, keys: str | None) -> subprocess.CompletedProcess:
    """Let a fresh process read the settings."""
    safe = {
        "PATH": os.environ["PATH"],
        "PAYFLOW_ENV": environment,
        "PAYFLOW_DEBUG": "false",
        "DEPOSITS_OPEN": "false",
        "DJANGO_SECRET_KEY": "of-these-tests-only-and-long-enough-d",
        "JWT_SIGNING_KEY": "of-these-tests-only-and-long-enough-j",
        "MONGODB_URI": "mongodb://u:of-these-tests-only@127.0.0.1:1/?replicaSet=rs0",
        "REDIS_URL": "redis://:of-these-tests-only@127.0.0.1:1",
        "ALLOWED_HOSTS": "api.example.com",
        "RECEIPT_SIGNING_KEYS": keys or "",
        "LEDGER_KEYS": "ledger-1:s3cr3tOfTheLedgerZg5vX2k9Lr0QmTqW7eYbH3JuNE",
        "WEBHOOK_SECRET_KEYS": "s3cr3tOfHooksZg5vX2k9Lr0QmTqW7eYbH3JuNcD4aE=",
    }
    program = "import payflow.settings as s; print(s.RECEIPT_SIGNING_KEYS.signer.kid)"
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, env=safe, capture_output=True, text=True, timeout=60, check=False, cwd=settings.BASE_DIR
    )


def development_seed() -> str:
    private = settings.RECEIPT_SIGNING_KEYS.signer.private
    return signing.to_base64url(private.private_bytes_raw())


def test_starts_with_the_keys_of_its_own() -> None:
    random = [signing.to_base64url(hashlib.sha256(name).digest()) for name in (b"a", b"b")]
    assert start("production", f"b:{random[1]}, a:{random[0]}").stdout.strip() == "b"
    assert start("development", None).stdout.strip() == "development"


@pytest.mark.parametrize(
    ("environment", "keys", "reason"),
    [
        ("production", None, "RECEIPT_SIGNING_KEYS is not set"),
        ("production", "a:sesame-open", "RECEIPT_SIGNING_KEYS cannot be used: key 1"),
        ("production", f"{A},development", "RECEIPT_SIGNING_KEYS holds the published development key"),
        ("development", "a:sesame-open", "RECEIPT_SIGNING_KEYS cannot be used: key 1"),
    ],
)
def test_refuses_to_start_and_names_the_variable_only(environment: str, keys: str, reason: str) -> None:
    if keys and keys.endswith("development"):
        keys = keys.replace("development", f"renamed:{development_seed()}")
    ended = start(environment, keys)
    assert ended.returncode == 1
    assert reason in ended.stderr
    for secret in ("sesame", seed_of(1), development_seed()):
        assert secret not in ended.stdout + ended.stderr
