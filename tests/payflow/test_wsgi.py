"""What the WSGI application answers for itself: Django's test client makes its requests another way."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from payflow.wsgi import application

MANY = "&".join(["a=1"] * 1_500)


def ask(content_type: str, query: str = "", method: str = "GET", path: str = "/wallets") -> dict[str, Any]:
    """Return the problem that the application answers with, and its headers."""
    told: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], error: object = None) -> None:
        told.update(headers)
        told["status"] = int(status[:3])

    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": "2",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(b"{}"),
    }
    body = b"".join(application(environ, start_response))
    return {**json.loads(body), **told}


@pytest.mark.parametrize("query", ["currency=USD", "currency=%ff", MANY], ids=["good", "odd", "long"])
@pytest.mark.parametrize(
    "charset",
    ["utf-8", "hex", "rot13", "base64", "zip", "punycode", "idna", "undefined", "none-such"],
)
def test_no_charset_keeps_a_request_from_its_answer(charset: str, query: str) -> None:
    told = ask(f"application/json; charset={charset}", query)
    assert (told["status"], told["code"]) == (401, "not_authenticated")
    assert told["Content-Type"] == "application/problem+json"
    assert told["X-Correlation-Id"] == told["correlation_id"]


@pytest.mark.parametrize(
    "parameter",
    ["x*=none-such''y", "x*=a; x*0=b", "x*=undefined''%41", f"x*{'9' * 5_000}=y", "x*=\0''y"],
    ids=["unknown", "twice", "undefined", "long", "null"],
)
def test_a_media_type_that_cannot_be_read_is_none(parameter: str) -> None:
    for path, content_type in (("/auth/login", "application/json"), ("/auth/login", "multipart/form-data")):
        told = ask(f"{content_type}; {parameter}", method="POST", path=path)
        assert (told["status"], told["code"]) == (415, "unsupported_media_type")


def test_the_charset_of_a_body_is_utf_8_whatever_it_says() -> None:
    told = ask("application/json; charset=utf-16", method="POST", path="/auth/login")
    assert (told["status"], told["code"]) == (400, "validation_error")
    assert {error["field"] for error in told["errors"]} == {"email", "password"}
