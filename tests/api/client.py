"""What the API tests speak with: clients of people, and what must hold of every problem document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import mongoengine
from django.test import Client
from django.test.client import ClientHandler

from accounts import tokens
from accounts.models import User
from ledger import selectors as ledger
from payflow.api import problems
from tests.accounts.factories import UserFactory, grant
from wallets import services as wallets
from wallets.documents import Wallet

JSON = "application/json"
# One for all clients: the middleware reads every static file's name when it starts. Nothing but the admin is
# guarded against forged requests: no cookie is ever looked at.
_handler = ClientHandler(enforce_csrf_checks=True)
FACTS = (
    "api_keys", "ledger_entries", "transactions", "transfer_batches", "users", "wallets",
    "webhook_deliveries", "webhook_subscriptions",
)  # fmt: skip


# All that the API asks of staff.
STAFF_PERMISSIONS = (
    "ledger.change_simulation", "ledger.view_audit", "transfers.view_transactionrow", "wallets.deposit",
    "wallets.view_walletrow",
)  # fmt: skip


class Api(Client):
    """A client that speaks JSON and sees a crash as its users do: as an answer."""

    def __init__(self, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(raise_request_exception=False, headers=headers)
        self.handler = _handler

    def post_json(self, path: str, body: Any, **headers: str) -> Any:
        """POST `body` as JSON; header names are written with underscores."""
        return self.post(path, body, content_type=JSON, headers=_names(headers))

    def send(self, method: str, path: str, raw: bytes = b"", content_type: str = JSON, **headers: str) -> Any:
        """Send bytes as they are."""
        return self.generic(method, path, raw, content_type=content_type, headers=_names(headers))


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Party:
    """A user with a USD wallet and a client of their own."""

    user: User
    api: Api

    @property
    def id(self) -> str:
        return str(self.user.pk)

    @property
    def wallet(self) -> Wallet:
        return wallets.get_wallet(user_id=self.id, currency="USD")

    @property
    def cents(self) -> int:
        head = ledger.find_head(wallet_id=self.wallet.id)
        return head.balance_minor if head else 0

    def another_client(self) -> Api:
        """Return a client for one more thread."""
        return Api(token_of(self.user))

    def receive(self, amount_minor: int, currency: str = "USD") -> None:
        """Let money arrive, without HTTP."""
        wallets.deposit(user_id=self.id, currency=currency, amount_minor=amount_minor, key=None)


def join(name: str, *, cents: int = 0, is_staff: bool = False) -> Party:
    """Return a user who has registered and holds `cents`; staff hold STAFF_PERMISSIONS."""
    user = UserFactory(name=name, email=f"{name.lower()}@example.com", is_staff=is_staff)
    if is_staff:
        grant(user, *STAFF_PERMISSIONS)
    party = Party(user, Api(token_of(user)))
    wallets.open_wallet(user_id=party.id, currency="USD")
    if cents:
        party.receive(cents)
    return party


def token_of(user: User) -> str:
    return tokens.issue_access(user_id=str(user.pk), is_staff=user.is_staff, family="tests")


def facts() -> dict[str, list[dict[str, Any]]]:
    """Return everything that lasts."""
    database = mongoengine.get_db()
    return {name: list(database[name].find().sort("_id", 1)) for name in FACTS}


@contextmanager
def nothing_changes() -> Iterator[None]:
    """Fail when what lasts is another after the block."""
    before = facts()
    yield
    assert facts() == before


@cache
def kinds() -> Mapping[str, problems.Kind]:
    """Return every code that the API documents."""
    return problems.catalogue()


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """Check a problem document (RFC 9457) and return it."""
    assert response["Content-Type"] == "application/problem+json", response.content[:300]
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert body["status"] == status
    assert set(body) == {"type", "title", "status", "detail", "code", "errors", "correlation_id"}
    assert body["type"] == f"urn:payflow:error:{code}"
    known = kinds()[code]
    assert status in known.statuses
    assert body["title"] == known.title
    assert body["detail"]
    assert body["correlation_id"] == response["X-Correlation-Id"] != ""
    assert all(set(error) == {"field", "code", "detail"} for error in body["errors"]), body["errors"]
    assert all(isinstance(value, str) for error in body["errors"] for value in error.values())
    assert b"Traceback" not in response.content
    return body
