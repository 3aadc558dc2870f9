"""Whatever goes wrong is told in one form, wherever it goes wrong; and the codes are all written down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import LazySettings, settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.management import call_command
from django.db import DatabaseError
from django.http import Http404, HttpResponse
from django.test import Client
from pymongo.errors import AutoReconnect, OperationFailure
from redis import RedisError
from rest_framework import exceptions

from payflow.api import problems
from payflow.management.commands.errors import table
from tests.accounts.factories import UserFactory
from tests.api import contract, failing_urls
from tests.api.client import Api, Party, assert_problem, join, kinds

JSON = "application/json"
Failing = Callable[[Callable[[], HttpResponse]], None]
OF_COMMANDS = {"ledger_broken", "not_refundable", "transaction_ended"}
WRITE = "Write it anew: manage.py errors --write docs/errors.md"


# --- The registry -----------------------------------------------------------------------------------------


def test_the_committed_table_is_the_code_s() -> None:
    assert (Path(settings.BASE_DIR) / "docs/errors.md").read_text(encoding="utf-8") == table(), WRITE
    assert OF_COMMANDS.isdisjoint(problems.catalogue()), "no request is answered with them"


def test_the_command_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("errors")
    call_command("errors", write=tmp_path / "errors.md")
    assert capsys.readouterr().out == (tmp_path / "errors.md").read_text() == table()


@pytest.mark.parametrize("code", kinds())
def test_a_code_says_what_it_means_and_what_to_do(code: str) -> None:
    kind = kinds()[code]
    assert all(400 <= status <= 599 for status in kind.statuses)
    assert kind.title
    assert kind.meaning.endswith(".")
    assert kind.advice.endswith(".")
    assert "|" not in kind.meaning + kind.advice + kind.title


def test_every_class_is_told_as_its_code_is() -> None:
    assert len(problems.all_kinds()) > len(kinds()) > 20
    for kind in problems.all_kinds():
        if not getattr(kind, "is_of_commands", False):
            assert kind.title == kinds()[kind.code].title, f"{kind.__name__}: the title belongs to the code"
        if "code" in vars(kind):
            own = {"advice", "__doc__", "title"} - set(vars(kind))
            assert own == set(), f"{kind.__name__} has a code of its own, and needs its own {own}"


# --- Requests that no view sees ---------------------------------------------------------------------------


@pytest.fixture
def failing(settings: LazySettings) -> Iterator[Callable[[Callable[[], HttpResponse]], None]]:
    """Puts views in the API's place that do what they are told."""
    # Made once, and of the API's own addresses.
    contract.document()
    settings.ROOT_URLCONF = "tests.api.failing_urls"
    yield failing_urls.behaviour.append
    failing_urls.behaviour.clear()


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nothing"), ("POST", "/nothing"), ("PUT", "/nothing"),
     ("GET", "/"), ("GET", "/health"), ("GET", "/metrics"), ("GET", "/wallets"),
     ("DELETE", "/auth/sessions")],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_refused_whether_or_not_one_is_wanted(
    anyone: Api, method: str, path: str
) -> None:
    in_chunks = anyone.generic(method, path, headers={"Transfer-Encoding": "chunked"})
    assert_problem(in_chunks, 411, "length_required")
    assert_problem(anyone.send(method, path, b"x" * 65_537), 413, "payload_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nothing", 404, "not_found"), ("GET", "/a\0b", 404, "not_found"),
     ("GET", "/%ff%fe", 404, "not_found"), ("GET", "/%zz", 404, "not_found"), ("GET", "/%", 404, "not_found"),
     ("GET", "/static/none.css", 404, "not_found"), ("GET", "//evil.example/x", 404, "not_found"),
     ("POST", "/nothing", 404, "not_found"), ("BREW", "/", 405, "method_not_allowed")],
)  # fmt: skip
def test_an_odd_address_or_method_is_a_problem(
    anyone: Api, method: str, path: str, status: int, code: str
) -> None:
    assert_problem(anyone.send(method, path), status, code)


@pytest.mark.parametrize("host", ["evil.example", "a b", "localhost:x", "[::1", "x" * 300, "\u00e4", ""])
@pytest.mark.parametrize("redirects", [False, True])
def test_a_host_that_is_not_ours_is_a_problem_and_no_error_of_ours(
    settings: LazySettings, caplog: pytest.LogCaptureFixture, host: str, redirects: bool
) -> None:
    settings.SECURE_SSL_REDIRECT = redirects
    for path in ("/", "/wallets", "/nothing", "/openapi.json", "/admin/login/", "/healthy", "/metrics/"):
        assert_problem(Api().get(path, headers={"Host": host}), 400, "validation_error")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/metrics"])
def test_what_is_asked_by_address_answers_under_any_name(path: str) -> None:
    assert Api().get(path, headers={"Host": "10.0.0.7:8000"}).status_code == 200


@pytest.mark.parametrize("value", ["\u00ff", "a\0b", "x" * 100_000, "", ";;;", "Bearer", "\r\nX: y"])
@pytest.mark.parametrize(
    "header", ["Authorization", "Accept", "Content-Type", "Cookie", "Prefer", "Origin", "X-Forwarded-For"]
)
def test_no_header_makes_anything_crash(anna: Party, header: str, value: str) -> None:
    body = {"receiver_email": "nobody@example.com", "amount": "1"}
    response = Api().post("/transactions", body, JSON, headers={header: value})
    assert_problem(response, 401, "not_authenticated")
    if header != "Authorization":
        response = anna.api.post("/transactions", body, JSON, headers={header: value})
        assert response.status_code in {404, 415}
        assert_problem(response, response.status_code, response.json()["code"])


# --- What a plain Django view lets through ----------------------------------------------------------------

ERRORS = [
    (Http404(), 404, "not_found"),
    (PermissionDenied(), 403, "permission_denied"),
    (SuspiciousOperation("secret"), 400, "validation_error"),
    (RequestDataTooBig(), 413, "payload_too_large"),
    (AutoReconnect("secret"), 503, "service_unavailable"),
    (RedisError("secret"), 503, "service_unavailable"),
    (OperationFailure("secret"), 500, "internal_error"),
    (DatabaseError("secret"), 500, "internal_error"),
    (RuntimeError("secret"), 500, "internal_error"),
    (exceptions.NotAcceptable(), 400, "validation_error"),
    (exceptions.ParseError("Unreadable."), 400, "validation_error"),
    (exceptions.NotAuthenticated(), 401, "not_authenticated"),
    (exceptions.AuthenticationFailed(), 401, "not_authenticated"),
    (exceptions.PermissionDenied(), 403, "permission_denied"),
    (exceptions.NotFound(), 404, "not_found"),
    (exceptions.MethodNotAllowed("BREW"), 405, "method_not_allowed"),
    (exceptions.UnsupportedMediaType("x/y"), 415, "unsupported_media_type"),
    (exceptions.APIException(), 500, "internal_error"),
]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("path", failing_urls.PATHS)
@pytest.mark.parametrize(("error", "status", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_exception_in_a_view_is_a_problem_that_tells_nothing(
    failing: Failing, settings: LazySettings, error: Exception, status: int, code: str, path: str, debug: bool
) -> None:
    def fail() -> HttpResponse:
        raise error

    settings.DEBUG = debug
    failing(fail)
    problem = assert_problem(Api().get(path), status, code)
    assert "secret" not in str(problem)


@pytest.mark.parametrize("path", failing_urls.PATHS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 410, 413, 418, 429, 500, 502, 503])
def test_a_page_of_somebody_else_s_is_a_problem(failing: Failing, status: int, path: str) -> None:
    failing(lambda: HttpResponse("<h1>secret</h1>", status=status, headers={"Retry-After": "7"}))
    response = Api().get(path)
    assert response.status_code == response.json()["status"] == status
    assert response["Content-Type"] == problems.MEDIA_TYPE
    assert response["Retry-After"] == "7"
    assert response.json()["code"] in kinds()
    assert b"secret" not in response.content


def test_the_admin_keeps_pages_for_people() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(UserFactory(email="staff@example.com", is_staff=True, is_superuser=True))
    for response, status in ((client.get("/admin/nothing/"), 404), (client.post("/admin/logout/"), 403)):
        assert response.status_code == status
        assert response["Content-Type"].startswith("text/html")


# --- The challenge ----------------------------------------------------------------------------------------


def test_a_bad_token_is_told_from_none(anna: Party) -> None:
    assert Api().get("/wallets")["WWW-Authenticate"] == "Bearer"
    for token in ("x", "a.b.c", "\u00ff"):
        assert Api(token).get("/wallets")["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    basic = Api().get("/wallets", headers={"Authorization": "Basic eDp5"})
    assert basic["WWW-Authenticate"] == "Bearer"


def test_a_wrong_password_is_no_bad_token(anna: Party) -> None:
    body = {"current_password": "wrong", "new_password": "a better password"}
    response = anna.api.post_json("/auth/password", body)
    assert_problem(response, 401, "invalid_credentials")
    assert response["WWW-Authenticate"] == "Bearer"
    join("Bob")
    login = {"email": "bob@example.com", "password": "wrong"}
    assert Api("x").post_json("/auth/login", login)["WWW-Authenticate"] == "Bearer"
