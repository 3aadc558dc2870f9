"""PATCH /auth/me, and the link in every mail by which people get no more of them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.conf import LazySettings
from django.test import Client

from accounts import unsubscribing
from accounts.models import User
from payflow.rates import Rate
from tests.accounts.factories import UserFactory
from tests.api.auth_client import assert_problem, call, register


@pytest.fixture
def session() -> dict[str, Any]:
    return register()


def patch(session: dict[str, Any], body: Any) -> Any:
    return call("PATCH", "/auth/me", body, access=session["access"])


def stored(session: dict[str, Any]) -> tuple[str, bool]:
    user = User.objects.get(pk=session["user"]["id"])
    return user.locale, user.email_notifications


@pytest.mark.parametrize(
    ("body", "then"),
    [
        ({}, ("en_US", True)),
        ({"locale": "de-de"}, ("de_DE", True)),
        ({"locale": "zh-TW"}, ("zh_Hant_TW", True)),
        ({"email_notifications": False}, ("en_US", False)),
        ({"locale": "ar", "email_notifications": False}, ("ar", False)),
    ],
)
def test_changes_what_is_given(body: dict[str, Any], then: tuple[str, bool], session: dict[str, Any]) -> None:
    response = patch(session, body)
    assert response.status_code == 200
    assert (response.json()["locale"], response.json()["email_notifications"]) == then
    assert response.json() == call("GET", "/auth/me", access=session["access"]).json()
    assert stored(session) == then


@pytest.mark.parametrize(
    "body",
    [
        {"locale": "xx_YY"},
        {"locale": "../../etc/passwd"},
        {"locale": "de_DE" * 10},
        {"locale": ""},
        {"locale": None},
        {"locale": 7},
        {"email_notifications": "false"},
        {"email_notifications": 0},
        {"email_notifications": None},
        {"email": "other@example.com"},
        {"is_staff": True},
        [],
    ],
)
def test_refuses_anything_else(body: Any, session: dict[str, Any]) -> None:
    assert_problem(patch(session, body), 400, "validation_error")
    assert stored(session) == ("en_US", True)


def test_a_deactivated_user_changes_nothing(session: dict[str, Any]) -> None:
    User.objects.update(is_active=False)
    assert_problem(patch(session, {"email_notifications": False}), 401, "not_authenticated")
    assert stored(session) == ("en_US", True)


# --- The link ---------------------------------------------------------------------------------------------


def link_of(user: User) -> str:
    parts = urlsplit(unsubscribing.unsubscribe_url(user_id=str(user.pk)))
    return f"{parts.path}?{parts.query}"


def is_told(user: User) -> bool:
    return User.objects.get(pk=user.pk).email_notifications


def test_opening_the_link_asks_and_changes_nothing() -> None:
    user = UserFactory()
    response = Client().get(link_of(user))
    page = response.content.decode()
    assert (response.status_code, response["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert '<form method="post">' in page
    assert is_told(user)


def assert_guarded(response: Any) -> None:
    """A page for people that runs nothing, loads its own styles only, and keeps its address to itself."""
    page = response.content.decode()
    assert response["Content-Type"] == "text/html; charset=utf-8"
    assert "http" not in page
    assert "<script" not in page
    assert "<style" not in page
    assert set(response["Content-Security-Policy"].split("; ")) == {
        "default-src 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "style-src 'self'",
    }
    assert (response["Referrer-Policy"], response["Cache-Control"]) == ("no-referrer", "no-store")


def test_every_page_is_guarded_and_finds_its_styles() -> None:
    link = link_of(UserFactory())
    asked, done = Client().get(link), Client().post(link)
    for response in (asked, done, Client().get("/auth/unsubscribe"), Client().delete(link)):
        assert_guarded(response)
    styles = re.findall(r'href="([^"]+)"', asked.content.decode())
    assert [Client().get(path).status_code for path in styles] == [200]


def test_what_goes_wrong_is_told_to_people(settings: LazySettings) -> None:
    link = link_of(UserFactory())
    wrong = Client().put(link)
    assert (wrong.status_code, "GET" in wrong["Allow"]) == (405, True)
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "global": Rate(1, 86_400)}
    Client().get(link)
    often = Client().post(link)
    assert (often.status_code, int(often["Retry-After"]) > 0) == (429, True)
    for response in (wrong, often):
        assert_guarded(response)
        assert "<h1>That did not work</h1>" in response.content.decode()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("List-Unsubscribe=One-Click", "application/x-www-form-urlencoded"),
        (
            '--b\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
        ("", "application/x-www-form-urlencoded"),
    ],
)
def test_one_click_ends_the_mails_of_that_user_only(body: str, content_type: str) -> None:
    """RFC 8058: no cookies, no login, no CSRF token; and once more does no harm."""
    user, other = UserFactory(), UserFactory()
    for _ in range(2):
        client = Client(enforce_csrf_checks=True)
        response = client.post(link_of(user), body, content_type=content_type)
        assert (response.status_code, is_told(user)) == (200, False)
        assert not response.cookies
    assert is_told(other)


def test_a_changed_token_does_nothing() -> None:
    user, other = UserFactory(), UserFactory()
    token = parse_qs(urlsplit(link_of(user)).query)["token"][0]
    changed = [
        "", token[:-1], token + "A", token.upper(), token.replace(str(user.pk), str(other.pk)), "x" * 5_000,
    ]  # fmt: skip
    for bad in changed:
        for method in ("get", "post"):
            response = getattr(Client(), method)("/auth/unsubscribe", query_params={"token": bad})
            assert response.status_code == 404
            assert "This link is not one of ours" in response.content.decode()
    assert is_told(user)
    assert is_told(other)


def test_a_link_holds_when_the_secret_key_has_been_changed(settings: LazySettings) -> None:
    user = UserFactory()
    link = link_of(user)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another-key-of-this-installation-0123456789"
    assert Client().post(link).status_code == 200
    assert not is_told(user)
