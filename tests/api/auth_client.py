"""What the tests of the account endpoints share: sending, and judging an answer."""

from __future__ import annotations

import json
from typing import Any

import mongoengine
from django.http import HttpResponse
from rest_framework.test import APIClient

from accounts import services
from payflow import redisdb
from tests.accounts.factories import PASSWORD, UserFactory
from tests.api import client

NEW_PASSWORD = "a better password"
REGISTER = {"name": "Alice", "email": "alice@example.com", "password": PASSWORD, "phone": "+14155550123"}


def call(
    method: str, path: str, body: Any = None, *, access: str | None = None, **kwargs: Any
) -> HttpResponse:
    """Send `body` as JSON (bytes as they are) with an access token."""
    headers = {"Authorization": f"Bearer {access}"} if access else {}
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    kwargs = {"content_type": "application/json", "headers": headers, **kwargs}
    return APIClient().generic(method, path, raw, **kwargs)


def post(path: str, body: Any = None, *, access: str | None = None, **kwargs: Any) -> HttpResponse:
    return call("POST", path, body, access=access, **kwargs)


def register(**changes: Any) -> dict[str, Any]:
    response = post("/auth/register", {**REGISTER, **changes})
    assert response.status_code == 201, response.content
    return response.json()


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """Assert that this is the one error format with the headers its status asks for, and return it."""
    problem = client.assert_problem(response, status, code)
    if status == 401:
        assert response["WWW-Authenticate"].startswith("Bearer")
    if status == 503:
        assert int(response["Retry-After"]) > 0
    return problem


def everything_stored() -> dict[str, Any]:
    """All that an account endpoint could have changed."""
    database, sessions = mongoengine.get_db(), redisdb.client()
    stored = {name: list(database[name].find().sort("_id", 1)) for name in ("users", "wallets")}
    return {**stored, **{key: sessions.hgetall(key) for key in sorted(sessions.keys("payflow:sessions:*"))}}


def signed_in() -> dict[str, Any]:
    """Return somebody who has registered, with her tokens, at the cost of no hash."""
    user = UserFactory(name="Alice", email=REGISTER["email"])
    services.ensure_default_wallet(user)
    pair = services._open_session(user).tokens
    return {"user": user, "access": pair.access, "refresh": pair.refresh}
