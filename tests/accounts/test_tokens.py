from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from django.conf import settings

from accounts import tokens
from accounts.errors import TokenExpired
from payflow.errors import NotAuthenticated

USER = "6b03c1ec6df2d2819d6fc80b"
READERS = {"access": tokens.read_access, "refresh": tokens.read_refresh}


def forged(*, key: str = settings.SIMPLE_JWT["SIGNING_KEY"], algorithm: str = "HS256", **claims: Any) -> str:
    """A token as PayFlow would sign it, but for what is said otherwise. A claim of None is left out."""
    now = int(time.time())
    payload = {
        "token_type": "access", "sub": USER, "fam": "f1", "jti": "j1", "staff": False,
        "iss": "payflow", "aud": "payflow", "iat": now, "exp": now + 60, **claims,
    }  # fmt: skip
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key if algorithm != "none" else "", algorithm=algorithm)


def test_an_access_token_says_who_calls() -> None:
    caller = tokens.read_access(tokens.issue_access(user_id=USER, is_staff=True, family="f1"))
    assert (caller.id, caller.is_staff, caller.family) == (USER, True, "f1")
    assert caller.is_authenticated
    assert str(caller) == USER


def test_a_misspelt_attribute_of_the_caller_is_an_error() -> None:
    caller = tokens.read_access(tokens.issue_access(user_id=USER, is_staff=False, family="f1"))
    with pytest.raises(AttributeError):
        caller.is_staf  # noqa: B018


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
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"fam": None},
        {"fam": ["f1"]},
        {"jti": None},
        {"jti": ""},
        {"nbf": 4_000_000_000},
        {"key": "k" * 64},
        {"algorithm": "HS384"},
        {"algorithm": "none"},
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
        READERS[kind](forged(token_type=kind, exp=int(time.time())))


def test_an_expired_token_of_somebody_elses_key_is_only_invalid() -> None:
    with pytest.raises(NotAuthenticated) as refusal:
        tokens.read_access(forged(exp=1, key="k" * 64))
    assert refusal.value.code == "not_authenticated"


@pytest.mark.parametrize(
    "text",
    ["", "x", "a.b", "a.b.c", "....", "\N{GRINNING FACE}.b.c", "سلام", "a\0b", "x" * 5_000, "e30.e30.e30"],
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
