"""Everything that may be wrong with the body of a request to an account endpoint."""

# ruff: noqa: RUF001 - letters that look alike are what is tested

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.accounts.factories import PASSWORD
from tests.api.auth_client import (
    NEW_PASSWORD,
    REGISTER,
    assert_problem,
    call,
    everything_stored,
    post,
    signed_in,
)

ENDPOINTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "/auth/register": lambda body: {**REGISTER, "email": "bob@example.com"},
    "/auth/login": lambda body: {"email": REGISTER["email"], "password": PASSWORD},
    "/auth/refresh": lambda body: {"refresh": body["refresh"]},
    "/auth/logout": lambda body: {"refresh": body["refresh"]},
    "/auth/password": lambda body: {"current_password": PASSWORD, "new_password": NEW_PASSWORD},
}
FIELDS = [
    *(("/auth/register", name) for name in ("name", "email", "password")),
    *(("/auth/login", name) for name in ("email", "password")),
    ("/auth/refresh", "refresh"),
    ("/auth/logout", "refresh"),
    *(("/auth/password", name) for name in ("current_password", "new_password")),
]
NOT_STRINGS = [0, 1, -1, 1.5, 10**30, True, False, [], ["x"], {}, {"$ne": None}]
BAD_EMAILS = [
    "alice", "@example.com", "alice@", "alice@example", "a b@example.com", "alice@@example.com", ".*",
    "alice@example.com,bob@example.com", "alice@example.com\nbcc: x", '"alice b"@example.com',
    "alice@exämple.com", "аlice@example.com", "ألف@example.com", "\N{GRINNING FACE}@example.com",
    "\u202ealice@example.com", "alice@[127.0.0.1", "x" * 250 + "@example.com", "alice@[127.0.0.1]",
    "alice@127.0.0.1", "alice@10.0.0.10",
    "alice@[IPv6:::1]", "alice@localhost", "=?utf-8?q?bob?=@example.com", "alice@=?utf-8?q?x?=.example.com",
    "ali\u212ae@example.com", "alice@example.com\u00a0", ".alice@example.com", "alice.@example.com",
    "al..ice@example.com", "x" * 65 + "@example.com", "alice@-x.example.com", "alice@example.com.",
    "alice@example.c0m", "alice@example_1.com", "alice@example.com>", "<alice@example.com>",
]  # fmt: skip
BAD_NAMES = [
    "x" * 121, "Alice\nBob", "Alice\tBob", "Alice\u0007", "Alice\u2028Bob", "\u202eecilA", "Alice\u2066",
    "\u200b", "\u200d\u200d", "\ue000", "\uffff", "\u0301", "\u3164", "\u115f\u1160", "\uffa0", "\u2800",
    "Alice\u3164", "Alice\u200b", "\ufe0f", "Alice\U000e0041", "Alice\u200f", "\ufdd0", "\u00a0\u3000",
]  # fmt: skip
BAD_NEW_PASSWORDS = ["short", "1234567890123", "password123", "x" * 129, "alice@example.com", "   "]
BAD_PHONES = [
    "123", "+0123456789", "+1 415 555 0123", "+1415555012345678", "4155550123", "+١٤١٥٥٥٥٠١٢٣",
    "\N{GRINNING FACE}", "+1415555012a", "+14155550123\n1",
]  # fmt: skip
BAD_FOR_ALL = [None, "", "a\0b", "x" * 5_000, *NOT_STRINGS]
BAD_VALUES = [
    *((path, field, value) for path, field in FIELDS for value in BAD_FOR_ALL),
    *(("/auth/register", "phone", value) for value in [*BAD_FOR_ALL[2:], *BAD_PHONES]),
    *(("/auth/register", "name", value) for value in ["   ", *BAD_NAMES]),
    *(("/auth/register", "email", value) for value in ["   ", *BAD_EMAILS]),
    *(("/auth/login", "email", value) for value in ["   ", *BAD_EMAILS]),
    *(("/auth/register", "password", value) for value in BAD_NEW_PASSWORDS),
    *(("/auth/password", "new_password", value) for value in BAD_NEW_PASSWORDS),
    ("/auth/login", "password", "x" * 129),
    ("/auth/password", "current_password", "x" * 129),
]


@pytest.fixture
def session() -> dict[str, Any]:
    """Alice's user and tokens."""
    return signed_in()


@pytest.mark.parametrize(("path", "field", "value"), BAD_VALUES)
def test_a_bad_value_is_refused_and_changes_nothing(
    session: dict[str, Any], path: str, field: str, value: Any
) -> None:
    before = everything_stored()
    response = post(path, {**ENDPOINTS[path](session), field: value}, access=session["access"])
    problem = assert_problem(response, 400, "validation_error")
    assert {error["field"].split(".")[0] for error in problem["errors"]} == {field}
    assert all(error["code"] and error["detail"] for error in problem["errors"])
    assert everything_stored() == before


@pytest.mark.parametrize(("path", "field"), FIELDS)
def test_a_missing_field_is_refused_and_changes_nothing(
    session: dict[str, Any], path: str, field: str
) -> None:
    before = everything_stored()
    body = {name: value for name, value in ENDPOINTS[path](session).items() if name != field}
    problem = assert_problem(post(path, body, access=session["access"]), 400, "validation_error")
    assert [(error["field"], error["code"]) for error in problem["errors"]] == [(field, "required")]
    assert everything_stored() == before


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "name", ["is_staff", "id", "Email", "", "__proto__", "$where", "x" * 300, "\N{GRINNING FACE}"]
)
def test_an_unknown_field_is_refused_and_changes_nothing(
    session: dict[str, Any], path: str, name: str
) -> None:
    before = everything_stored()
    response = post(path, {**ENDPOINTS[path](session), name: True}, access=session["access"])
    problem = assert_problem(response, 400, "validation_error")
    assert [error["code"] for error in problem["errors"]] == ["unknown_field"]
    assert everything_stored() == before


def with_field(body: dict[str, Any], raw: str) -> bytes:
    """The body's text with its first field's value replaced by `raw`."""
    first, *rest = body
    parts = [f"{json.dumps(first)}: {raw}", *(f"{json.dumps(n)}: {json.dumps(body[n])}" for n in rest)]
    return ("{" + ", ".join(parts) + "}").encode()


MALFORMED: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "nothing": lambda body: b"",
    "blanks": lambda body: b"   ",
    "no JSON": lambda body: b"email=alice",
    "cut off": lambda body: json.dumps(body).encode()[:-1],
    "a list": lambda body: json.dumps([body]).encode(),
    "a string": lambda body: b'"hello"',
    "null": lambda body: b"null",
    "two documents": lambda body: json.dumps(body).encode() * 2,
    "a repeated field": lambda body: json.dumps(body).encode()[:-1] + b", " + json.dumps(body).encode()[1:],
    "NaN": lambda body: with_field(body, "NaN"),
    "Infinity": lambda body: with_field(body, "-Infinity"),
    "half a surrogate pair": lambda body: with_field(body, '"\\ud800 and more"'),
    "invalid UTF-8": lambda body: with_field(body, '"x"').replace(b'"x"', b'"\xff\xfe"'),
    "UTF-16": lambda body: json.dumps(body).encode("utf-16"),
    "deep nesting": lambda body: with_field(body, "[" * 500 + "]" * 500),
    "a number of 5000 digits": lambda body: with_field(body, "9" * 5_000),
}


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_body_is_refused_and_changes_nothing(
    session: dict[str, Any], path: str, name: str
) -> None:
    before = everything_stored()
    raw = MALFORMED[name](ENDPOINTS[path](session))
    assert_problem(post(path, raw, access=session["access"]), 400, "validation_error")
    assert everything_stored() == before


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "nonsense",
    ],
)
def test_another_content_type_is_refused_and_changes_nothing(
    session: dict[str, Any], path: str, media_type: str
) -> None:
    before = everything_stored()
    response = post(path, ENDPOINTS[path](session), access=session["access"], content_type=media_type)
    assert_problem(response, 415, "unsupported_media_type")
    assert everything_stored() == before


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_body_of_two_megabytes_is_refused_and_changes_nothing(session: dict[str, Any], path: str) -> None:
    before = everything_stored()
    raw = with_field(ENDPOINTS[path](session), '"' + "x" * 2_000_000 + '"')
    assert_problem(post(path, raw, access=session["access"]), 413, "payload_too_large")
    assert everything_stored() == before


@pytest.mark.parametrize("path", [*ENDPOINTS, "/auth/me"])
def test_another_method_is_refused(session: dict[str, Any], path: str) -> None:
    for method in ("PUT", "DELETE", *(("POST",) if path == "/auth/me" else ("PATCH", "GET"))):
        response = call(method, path, {}, access=session["access"])
        assert_problem(response, 405, "method_not_allowed")
        assert response["Allow"]


@pytest.mark.parametrize("path", ["/auth", "/auth/", "/auth/login/", "/auth/nothing"])
def test_another_address_is_not_found(path: str) -> None:
    assert_problem(post(path, {}), 404, "not_found")
