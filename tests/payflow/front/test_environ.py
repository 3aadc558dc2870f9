"""What the application sees of a request: the rules of PEP 3333, and what a client cannot make it see."""

from __future__ import annotations

from typing import Any

import pytest

from payflow.front.environ import environ_of


def environ(path: bytes = b"/", query: bytes = b"", *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return environ_of(
        {
            "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "raw_path": path,
            "query_string": query, "client": ("192.0.2.1", "4000"), "server": ("192.0.2.9", "8000"),
            "headers": [(b"host", b"pay.example"), *headers],
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/wallets/me", "/wallets/me"),
        (b"/a%20b", "/a b"),
        (b"/caf%C3%A9", "/caf\xc3\xa9"),
        (b"/%FF", "/\xff"),
        (b"/admin%2Flogin%2F", "/admin/login/"),
        (b"/100%", "/100%"),
    ],
)
def test_the_path_is_decoded_once_and_kept_as_it_was_sent(raw: bytes, path: str) -> None:
    found = environ(raw, b"a=%2F&b=1")
    assert (found["PATH_INFO"], found["SCRIPT_NAME"], found["QUERY_STRING"]) == (path, "", "a=%2F&b=1")
    assert found["RAW_URI"] == f"{raw.decode()}?a=%2F&b=1"
    assert environ(raw)["RAW_URI"] == raw.decode()


def test_headers_have_the_names_of_pep_3333() -> None:
    found = environ(
        b"/",
        b"",
        (b"content-type", b"application/json"),
        (b"content-length", b"2"),
        (b"x-request-id", b"abc"),
        (b"x-latin", b"\xe4"),
    )
    named = {name: value for name, value in found.items() if name.startswith(("HTTP_", "CONTENT_"))}
    assert named == {
        "HTTP_HOST": "pay.example", "CONTENT_TYPE": "application/json", "CONTENT_LENGTH": "2",
        "HTTP_X_REQUEST_ID": "abc", "HTTP_X_LATIN": "\xe4",
    }  # fmt: skip
    assert (found["REMOTE_ADDR"], found["SERVER_PORT"]) == ("192.0.2.1", "8000")


def test_several_lines_of_a_header_are_one_list() -> None:
    lines = [(b"x-forwarded-for", b"198.51.100.1"), (b"x-forwarded-for", b"198.51.100.2, 198.51.100.3")]
    cookies = [(b"cookie", b"a=1"), (b"cookie", b"b=2")]
    found = environ(b"/", b"", *lines, *cookies)
    assert found["HTTP_X_FORWARDED_FOR"] == "198.51.100.1,198.51.100.2, 198.51.100.3"
    assert found["HTTP_COOKIE"] == "a=1; b=2"


@pytest.mark.parametrize(
    "name", [b"x_forwarded_for", b"x-forwarded_for", b"x_forwarded_proto", b"content_length"]
)
def test_a_header_with_an_underscore_in_its_name_never_gets_in(name: bytes) -> None:
    found = environ(b"/", b"", (b"x-forwarded-for", b"198.51.100.1"), (name, b"203.0.113.9"))
    assert found["HTTP_X_FORWARDED_FOR"] == "198.51.100.1"
    assert "203.0.113.9" not in found.values()


def test_the_process_s_own_environment_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SECRET_KEY", "secret")
    assert "DJANGO_SECRET_KEY" not in environ()
