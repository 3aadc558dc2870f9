from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import LazySettings, settings

from accounts import signing_keys, tokens
from accounts.errors import TokenExpired
from payflow.errors import NotAuthenticated

USER = "6b03c1ec6df2d2819d6fc80b"
READERS = {"access": tokens.read_access, "refresh": tokens.read_refresh}


KEY = settings.JWT_SIGNING_KEY
KID = signing_keys.key_id(KEY)


def good_claims(**changes: Any) -> dict[str, Any]:
    """What a token says when nothing is wrong with it, but for the changes; one of None is left out."""
    now = int(time.time())
    payload = {
        "token_type": "access", "sub": USER, "fam": "f1", "jti": "j1", "staff": False,
        "iss": "payflow", "aud": "payflow", "iat": now, "exp": now + 60, **changes,
    }  # fmt: skip
    return {name: value for name, value in payload.items() if value is not None}


def forged(*, key: str = KEY, algorithm: str = "HS256", kid: str | None = KID, **claims: Any) -> str:
    """A token as PayFlow would sign it, but for what is said otherwise."""
    headers = {"kid": kid} if kid is not None else None
    return jwt.encode(good_claims(**claims), key if algorithm != "none" else "", algorithm, headers)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def handmade(header: Any, *, key: bytes = KEY.encode(), digest: str = "sha256", **claims: Any) -> str:
    """A token with any header at all, signed by HMAC all the same."""
    signed = (
        f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(good_claims(**claims)).encode())}"
    )
    return f"{signed}.{base64url(hmac.new(key, signed.encode(), digest).digest())}"


@pytest.fixture
def keys(settings: LazySettings) -> Iterator[LazySettings]:
    """Settings whose keys a test may change, before it asks for the keyring."""
    signing_keys.keyring.cache_clear()
    yield settings
    signing_keys.keyring.cache_clear()


def rotate(settings: LazySettings, signs: str, *verify: str) -> None:
    settings.JWT_SIGNING_KEY, settings.JWT_SIGNING_KEY_FALLBACKS = signs, list(verify)
    signing_keys.keyring.cache_clear()


def test_an_access_token_says_who_calls() -> None:
    caller = tokens.read_access(tokens.issue_access(user_id=USER, is_staff=True, family="f1"))
    assert (caller.id, caller.family) == (USER, "f1")
    assert caller.is_authenticated
    assert str(caller) == USER


def test_a_misspelt_attribute_of_the_caller_is_an_error() -> None:
    caller = tokens.read_access(tokens.issue_access(user_id=USER, is_staff=False, family="f1"))
    with pytest.raises(AttributeError):
        caller.may_deposi  # noqa: B018


def test_a_refresh_token_names_its_family_and_expiry() -> None:
    encoded, issued = tokens.issue_refresh(user_id=USER, family="f1")
    assert tokens.read_refresh(encoded) == issued
    assert (issued.user_id, issued.family) == (USER, "f1")
    assert 0 < issued.expires_at - time.time() <= 7 * 86_400


def test_every_token_has_an_id_of_its_own() -> None:
    assert len({tokens.issue_refresh(user_id=USER, family="f1")[1].jti for _ in range(10)}) == 10


def test_what_the_forger_makes_is_accepted_when_nothing_is_wrong_with_it() -> None:
    assert tokens.read_access(forged()).id == USER
    assert tokens.read_refresh(forged(token_type="refresh")).user_id == USER


@pytest.mark.parametrize("kind", ["access", "refresh"])
@pytest.mark.parametrize("days", [7.1, 3_650])
def test_refuses_a_token_that_lives_longer_than_any_that_is_issued(kind: str, days: float) -> None:
    with pytest.raises(NotAuthenticated) as refusal:
        READERS[kind](forged(token_type=kind, exp=int(time.time() + days * 86_400)))
    assert refusal.value.code == "not_authenticated"


@pytest.mark.parametrize("kind", ["access", "refresh"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"token_type": "sliding"},
        {"token_type": None},
        {"iss": "elsewhere"},
        {"iss": None},
        {"aud": "elsewhere"},
        {"aud": None},
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": 10**12},
        {"exp": 10**20},
        {"exp": 10**400},
        {"exp": 1e300},
        {"exp": "4000000000"},
        {"exp": [4_000_000_000]},
        {"exp": {}},
        {"exp": 4_000_000_000},
        {"iat": float("-inf")},
        {"iat": float("inf")},
        {"iat": -(10**20)},
        {"iat": [1]},
        {"iat": True},
        {"nbf": float("inf")},
        {"nbf": [1]},
        {"nbf": 10**400},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"fam": None},
        {"fam": ["f1"]},
        {"jti": None},
        {"jti": ""},
        {"nbf": 4_000_000_000},
        {"iat": None},
        {"iat": 4_000_000_000},
        {"iat": "now"},
        {"aud": ["elsewhere"]},
        {"key": "k" * 64},
        {"algorithm": "HS384"},
        {"algorithm": "HS512"},
        {"algorithm": "none"},
        {"kid": None},
        {"kid": ""},
        {"kid": signing_keys.key_id("k" * 64)},
        {"kid": signing_keys.key_id("k" * 64), "key": "k" * 64},
        {"kid": KEY},
        {"kid": "../../dev/null"},
        {"kid": KID.upper()},
    ],
    ids=str,
)
def test_refuses_a_token_that_is_not_ours_in_every_point(kind: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(NotAuthenticated) as refusal:
        READERS[kind](forged(**{"token_type": kind, **wrong}))
    assert refusal.value.code == "not_authenticated"


@pytest.mark.parametrize(("kind", "other"), [("access", "refresh"), ("refresh", "access")])
def test_the_kinds_of_token_are_not_interchangeable(kind: str, other: str) -> None:
    with pytest.raises(NotAuthenticated):
        READERS[kind](forged(token_type=other))


@pytest.mark.parametrize("kind", ["access", "refresh"])
def test_says_when_a_token_has_expired(kind: str) -> None:
    with pytest.raises(TokenExpired):
        READERS[kind](forged(token_type=kind, exp=int(time.time()) - settings.JWT_LEEWAY_SECONDS))


def test_an_expired_token_of_somebody_elses_key_is_only_invalid() -> None:
    with pytest.raises(NotAuthenticated) as refusal:
        tokens.read_access(forged(exp=1, key="k" * 64))
    assert refusal.value.code == "not_authenticated"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "\ud800",
        "a.b",
        "a.b.c",
        "....",
        "\N{GRINNING FACE}.b.c",
        "سلام",
        "a\0b",
        "x" * 5_000,
        "e30.e30.e30",
    ],
)
def test_refuses_what_is_no_token(text: str) -> None:
    for read in READERS.values():
        with pytest.raises(NotAuthenticated):
            read(text)


def test_a_changed_signature_or_payload_is_refused() -> None:
    head, payload, signature = forged().split(".")
    other = forged(staff=True).split(".")[1]
    for text in (f"{head}.{other}.{signature}", f"{head}.{payload}.{signature[::-1]}", f"{head}.{payload}."):
        with pytest.raises(NotAuthenticated):
            tokens.read_access(text)


HEADERS: list[Any] = [
    {"alg": "none"},
    {"alg": "None"},
    {"alg": "hs256"},
    {"alg": "HS256 "},
    {"alg": "HS512"},
    {"alg": "RS256"},
    {"alg": "EdDSA"},
    {"alg": ["HS256"]},
    {"alg": {"HS256": 1}},
    {"alg": ""},
    {"alg": None},
    {"alg": True},
    {},
    {"alg": "HS256", "kid": [KID]},
    {"alg": "HS256", "kid": {"$ne": ""}},
    {"alg": "HS256", "kid": 7},
    {"alg": "HS256", "kid": None},
    {"alg": "HS256", "crit": ["exp"]},
    {"alg": "HS256", "b64": False},
]


def test_the_handmade_token_is_accepted_when_nothing_is_wrong_with_it() -> None:
    assert tokens.read_access(handmade({"alg": "HS256", "kid": KID})).id == USER
    # Keys that come with the token are not keys.
    own = {"kty": "oct", "k": base64url(b"k" * 32)}
    assert tokens.read_access(handmade({"alg": "HS256", "kid": KID, "jwk": own})).id == USER
    with pytest.raises(NotAuthenticated):
        tokens.read_access(handmade({"alg": "HS256", "kid": KID, "jwk": own}, key=b"k" * 32))


@pytest.mark.parametrize("digest", ["sha256", "sha512"])
@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_refuses_every_other_header_whatever_signs_it(header: dict[str, Any], digest: str) -> None:
    with pytest.raises(NotAuthenticated):
        tokens.read_access(handmade({"kid": KID, **header}, digest=digest))


@pytest.mark.parametrize("header", ["HS256", ["HS256"], None, 7], ids=str)
def test_refuses_a_header_that_is_no_object(header: object) -> None:
    with pytest.raises(NotAuthenticated):
        tokens.read_access(handmade(header))


def test_an_rsa_key_gets_nobody_in_and_neither_does_its_public_half_as_a_secret() -> None:
    private = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for token in (
        jwt.encode(good_claims(), private, "RS256", {"kid": KID}),
        handmade({"alg": "RS256", "kid": KID}, key=public),
        handmade({"alg": "HS256", "kid": KID}, key=public),
    ):
        with pytest.raises(NotAuthenticated):
            tokens.read_access(token)


def test_clocks_may_differ_by_the_leeway_and_no_more(keys: LazySettings) -> None:
    keys.JWT_LEEWAY_SECONDS = 60
    now = int(time.time())
    assert tokens.read_access(forged(exp=now - 20)).id == USER
    assert tokens.read_access(forged(iat=now + 40)).id == USER
    with pytest.raises(TokenExpired):
        tokens.read_access(forged(exp=now - 60))
    with pytest.raises(NotAuthenticated):
        tokens.read_access(forged(iat=now + 120))


# --- Changing keys ----------------------------------------------------------------------------------------

OLD, NEW = "o" * 40, "n" * 40


def test_a_rotation_as_it_is_documented_refuses_nobody(keys: LazySettings) -> None:
    rotate(keys, OLD)
    before = tokens.issue_refresh(user_id=USER, family="f1")[0]
    rotate(keys, OLD, NEW)  # some processes know the new key already, none signs with it
    between = tokens.issue_refresh(user_id=USER, family="f1")[0]
    rotate(keys, NEW, OLD)  # one has restarted: what it signs is read by those that have not
    after = tokens.issue_refresh(user_id=USER, family="f1")[0]
    for signs, verifies in ((OLD, NEW), (NEW, OLD)):
        rotate(keys, signs, verifies)
        for token in (before, between, after):
            assert tokens.read_refresh(token).user_id == USER
    rotate(keys, NEW)  # the old key is gone, and its tokens with it
    assert tokens.read_refresh(after).user_id == USER
    for token in (before, between):
        with pytest.raises(NotAuthenticated):
            tokens.read_refresh(token)


def test_a_former_key_signs_nothing_under_another_name(keys: LazySettings) -> None:
    rotate(keys, NEW, OLD)
    assert tokens.read_access(forged(key=OLD, kid=signing_keys.key_id(OLD))).id == USER
    for key, kid in ((OLD, NEW), (NEW, OLD)):
        with pytest.raises(NotAuthenticated):
            tokens.read_access(forged(key=key, kid=signing_keys.key_id(kid)))


def test_a_token_names_its_key_and_the_name_is_no_part_of_it(keys: LazySettings) -> None:
    rotate(keys, NEW, OLD)
    header = jwt.get_unverified_header(tokens.issue_access(user_id=USER, is_staff=False, family="f1"))
    assert header == {"alg": "HS256", "typ": "JWT", "kid": signing_keys.key_id(NEW)}
    assert signing_keys.key_id(NEW) != signing_keys.key_id(OLD)
    assert not hashlib.sha256(NEW.encode()).hexdigest().startswith(header["kid"])
