"""What keeps browsers from harm is on every answer, whoever made it: views, middleware, errors, files."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.urls import get_resolver

from payflow.api.headers import ALWAYS
from payflow.rates import Rate
from tests.accounts.factories import UserFactory
from tests.api.client import Api, Party, assert_problem
from tests.api.test_access import METHODS, routes
from wallets import selectors

ORIGIN = "https://app.example"
POLICY = {"default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"}
EXPOSED = {
    "Location", "Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset",
    "Idempotent-Replayed", "Preference-Applied", "X-Correlation-Id",
}  # fmt: skip
ALLOWED = {
    "authorization", "content-type", "idempotency-key", "x-idempotency-key", "prefer", "x-correlation-id",
    "x-request-id",
}  # fmt: skip
PAGES = ("/docs", "/redoc", "/admin/", "/admin/login/", "/admin/nothing")


@pytest.fixture(autouse=True)
def _origins(settings: LazySettings) -> None:
    settings.CORS_ALLOWED_ORIGINS = [ORIGIN]
    settings.CORS_ALLOWED_ORIGIN_REGEXES = []


def policy_of(response: Any) -> set[str]:
    return set(response["Content-Security-Policy"].split("; "))


def assert_guarded(response: Any) -> None:
    """Assert what holds for every answer."""
    for name, value in ALWAYS.items():
        assert response[name] == value
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "same-origin"
    assert response["X-Frame-Options"] == "DENY"
    assert response["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response["X-Correlation-Id"]
    assert policy_of(response) >= {"default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"}
    assert "unsafe-eval" not in response["Content-Security-Policy"]
    assert "http" not in response["Content-Security-Policy"]
    if response.status_code >= 400:
        assert "no-store" in response["Cache-Control"]


# --- Every answer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, "HEAD", "OPTIONS", "BREW"])
# The way out of mails is a page for people: test_profile.py looks at its headers.
@pytest.mark.parametrize(
    "route", [route for route, _ in routes(get_resolver().url_patterns) if route != "/auth/unsubscribe"]
)
def test_every_route_and_method_is_guarded(anna: Party, route: str, method: str) -> None:
    path = route.replace("<pk>", "x").replace("<delivery>", "y")
    for api in (Api(), anna.api):
        response = api.send(method, path, b"{}")
        assert_guarded(response)
        assert policy_of(response) == POLICY
        assert response.has_header("Cache-Control")
        # It would tell what stands in docstrings.
        assert method != "OPTIONS" or response.status_code in {401, 403, 405}


@pytest.mark.parametrize("path", [*PAGES, "/nothing", "/static/none", "/static/admin/css/base.css", "/a\0b"])
def test_pages_files_and_nothing_are_guarded(path: str) -> None:
    assert_guarded(Client(raise_request_exception=False).get(path))


@pytest.mark.parametrize("method", METHODS)
def test_what_middleware_refuses_is_guarded(settings: LazySettings, method: str) -> None:
    too_long = Api().send(method, "/nothing", b"{}", Content_Length="9999999")
    assert_problem(too_long, 413, "payload_too_large")
    in_chunks = Api().generic(method, "/nothing", headers={"Transfer-Encoding": "chunked"})
    assert_problem(in_chunks, 411, "length_required")
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "global": Rate(1, 86_400)}
    Api().send(method, "/nothing")
    too_often = Api().send(method, "/nothing")
    assert_problem(too_often, 429, "rate_limited")
    settings.SECURE_SSL_REDIRECT = True
    redirected = Client().generic(method, "/nothing")
    assert redirected.status_code == 301
    foreign = Client().generic(method, "/nothing", headers={"Host": "evil.example"})
    assert_problem(foreign, 400, "validation_error")
    for response in (too_long, in_chunks, too_often, redirected, foreign):
        assert_guarded(response)
        assert policy_of(response) == POLICY


@pytest.mark.parametrize("debug", [False, True])
def test_a_crash_is_guarded(
    anna: Party, monkeypatch: pytest.MonkeyPatch, settings: LazySettings, debug: bool
) -> None:
    def crash(**_: object) -> None:
        raise RuntimeError

    settings.DEBUG = debug
    monkeypatch.setattr(selectors, "list_states", crash)
    response = anna.api.get("/wallets")
    assert_problem(response, 500, "internal_error")
    assert_guarded(response)


def test_production_insists_on_tls(settings: LazySettings) -> None:
    assert not Client().get("/", secure=True).has_header("Strict-Transport-Security")
    settings.SECURE_HSTS_SECONDS, settings.SECURE_HSTS_INCLUDE_SUBDOMAINS = 31_536_000, True
    for path in ("/", "/nothing", "/wallets"):
        response = Client().get(path, secure=True)
        assert response["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"


# --- Caches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/wallets", "/wallets/me", "/wallets/me/history", "/transactions", "/auth/me", "/", "/health"]
)
def test_nobody_keeps_what_is_personal_or_of_the_moment(anna: Party, path: str) -> None:
    response = anna.api.get(path)
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"


def test_public_keys_may_be_kept_and_their_errors_may_not(anyone: Api) -> None:
    assert anyone.get("/ledger/keys")["Cache-Control"] == "public, max-age=300"
    assert anyone.send("POST", "/ledger/keys")["Cache-Control"] == "no-store"


# --- Pages for people -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_pages_run_their_own_scripts_only(path: str) -> None:
    client = Client()
    client.force_login(UserFactory(email="staff@example.com", is_staff=True, is_superuser=True))
    assert "script-src 'self'" in policy_of(client.get(path))


def test_only_redoc_may_write_styles_and_workers() -> None:
    relaxed = {path for path in PAGES if "unsafe-inline" in Client().get(path)["Content-Security-Policy"]}
    assert relaxed == {"/redoc"}
    assert "worker-src blob:" in policy_of(Client().get("/redoc"))


# --- Other origins ----------------------------------------------------------------------------------------


def preflight(path: str = "/transactions", origin: str = ORIGIN) -> Any:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    return Client().options(path, headers={"Origin": origin, **asks})


def words(response: Any, header: str) -> set[str]:
    return set(response[header].split(", "))


def test_a_page_of_an_allowed_origin_may_use_all_the_api_needs(anna: Party) -> None:
    response = preflight()
    assert response.status_code == 200
    assert response["Access-Control-Allow-Origin"] == ORIGIN
    assert words(response, "Access-Control-Allow-Headers") == ALLOWED
    assert words(response, "Access-Control-Allow-Methods") == set(METHODS)
    assert response["Access-Control-Max-Age"] == "7200"
    assert_guarded(response)
    for path, status in (("/wallets", 200), ("/nothing", 404), ("/transactions/x", 404)):
        response = anna.api.get(path, headers={"Origin": ORIGIN})
        assert (response.status_code, response["Access-Control-Allow-Origin"]) == (status, ORIGIN)
        assert words(response, "Access-Control-Expose-Headers") == EXPOSED
        assert "Access-Control-Allow-Credentials" not in response
        assert "origin" in response["Vary"].lower()


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://app.example", "https://app.example.evil.example", "https://app.example:8443",
     "null", "", "*", "http://localhost:3000"],
)  # fmt: skip
def test_a_page_of_another_origin_may_not(anna: Party, origin: str) -> None:
    for response in (preflight(origin=origin), anna.api.get("/wallets", headers={"Origin": origin})):
        assert response.headers.get("Access-Control-Allow-Origin", origin + "x") != origin
        assert_guarded(response)


def test_no_other_page_uses_the_admin() -> None:
    assert "Access-Control-Allow-Origin" not in preflight("/admin/login/")
    assert "Access-Control-Allow-Origin" not in Client().get("/admin/login/", headers={"Origin": ORIGIN})
