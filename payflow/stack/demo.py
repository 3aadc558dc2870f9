"""The demo: a completed, a declined and a compensated transfer, played against the running stack's HTTP API.

Every step is checked, down to the last balance; DemoError says which one did not go as it must. Users are
new on every run, so the demo can be played again on the same data.
"""

import secrets
import signal
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests

from payflow.stack.errors import StackError
from payflow.stack.stack import Stack
from payflow.stack.story import Story

REQUEST_SECONDS_MAX = 40.0
SETTLE_SECONDS_MAX = 30  # the longest that `Prefer: wait` may ask for


class DemoError(StackError):
    """Something in the demo did not go as it must."""


@dataclass
class Person:
    """A user that the demo registered, and what is needed to act as them."""

    name: str
    email: str
    password: str = field(repr=False)
    access: str = field(repr=False)


def expect(holds: bool, reason: str) -> None:
    """DemoError with the reason unless it holds."""
    if not holds:
        raise DemoError(f"The demo failed: {reason}")


class Api:
    """The few requests that the demo makes; any unexpected status ends it."""

    def __init__(self, base_url: str):
        self._base_url = base_url
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy has no business between this machine and itself

    def get(self, path: str, who: Person, **headers: str) -> dict[str, Any]:
        """Returns the JSON object that a GET answers with 200."""
        return self._send("GET", path, 200, who, None, headers)

    def post(
        self, path: str, status: int, body: Mapping[str, str], who: Person | None = None
    ) -> dict[str, Any]:
        """Returns the JSON object that a POST answers with this status."""
        return self._send("POST", path, status, who, body, {"Idempotency-Key": uuid.uuid4().hex})

    def _send(
        self,
        method: str,
        path: str,
        status: int,
        who: Person | None,
        body: Mapping[str, str] | None,
        headers: Mapping[str, str],
    ) -> dict[str, Any]:
        sent = {**headers, **({"Authorization": f"Bearer {who.access}"} if who else {})}
        try:
            response = self._session.request(
                method, self._base_url + path, json=body, headers=sent, timeout=REQUEST_SECONDS_MAX
            )
            answer = response.json()
        except (requests.RequestException, ValueError) as error:
            raise DemoError(f"The demo failed: {method} {path} got no proper answer ({error}).") from error
        expect(
            response.status_code == status,
            f"{method} {path} answered {response.status_code} instead of {status}: {response.text[:500]}",
        )
        expect(isinstance(answer, dict), f"{method} {path} answered something else than a JSON object.")
        return dict(answer)


class Demo:
    """Plays the story once and tells it."""

    def __init__(self, stack: Stack, story: Story):
        self._stack = stack
        self._story = story
        self._api = Api(stack.base_url)
        self._notes: dict[str, str] = {}  # what each transaction was for, by its id

    def play(self) -> tuple[Person, Person]:
        """Returns Alice and Bob, whose accounts stay."""
        run = secrets.token_hex(3)
        alice, bob, carol = (self._register(name, run) for name in ("Alice", "Bob", "Carol"))
        self._api.post("/wallets/me/deposit", 201, {"amount": "100.00", "currency": "USD"}, alice)
        self._story.opening("Alice, Bob and Carol register; Alice deposits 100.00 USD.")
        self._completed(alice, bob)
        self._declined(alice, bob)
        self._compensated(alice, carol)
        self._show_wallet(
            alice,
            [
                ("DEPOSIT", "100.00", "100.00"),
                ("DEBIT", "-25.50", "74.50"),
                ("DECLINED", "0.00", "74.50"),
                ("DEBIT", "-40.00", "34.50"),
                ("REFUND", "40.00", "74.50"),
            ],
        )
        self._show_wallet(bob, [("CREDIT", "25.50", "25.50")])
        self._audit()
        return alice, bob

    def _register(self, name: str, run: str) -> Person:
        email, password = f"{name.lower()}+{run}@example.com", secrets.token_urlsafe(12)
        body = self._api.post("/auth/register", 201, {"name": name, "email": email, "password": password})
        expect(body["user"]["email"] == email, f"{name} was registered as {body['user']}.")
        return Person(name, email, password, body["access"])

    def _transfer(self, sender: Person, receiver: Person, amount: str, note: str) -> str:
        wanted = {"receiver_email": receiver.email, "amount": amount, "currency": "USD", "description": note}
        transaction = self._api.post("/transactions", 201, wanted, sender)
        self._notes[transaction["id"]] = note
        return str(transaction["id"])

    def _settled(self, transaction_id: str, sender: Person, states: list[str]) -> dict[str, Any]:
        """Waits until the transaction is terminal; its history must be exactly these states."""
        path = f"/transactions/{transaction_id}"
        transaction = self._api.get(path, sender, Prefer=f"wait={SETTLE_SECONDS_MAX}")
        seen = [move["status"] for move in transaction["history"]]
        expect(
            seen == states, f"transaction {transaction_id} went {' → '.join(seen)}, not {' → '.join(states)}."
        )
        return transaction

    def _completed(self, alice: Person, bob: Person) -> None:
        transaction_id = self._transfer(alice, bob, "25.50", "dinner")
        transaction = self._settled(transaction_id, alice, ["INITIATED", "DEBITED", "CREDITED", "COMPLETED"])
        self._story.saga("Alice pays Bob 25.50 USD for dinner", transaction)

    def _declined(self, alice: Person, bob: Person) -> None:
        transaction_id = self._transfer(alice, bob, "500.00", "a piano")
        transaction = self._settled(transaction_id, alice, ["INITIATED", "FAILED"])
        failure = transaction["failure"]
        expect(failure["code"] == "insufficient_balance", f"the piano was declined with {failure}.")
        expect(not failure["refunded"], "a declined transfer claims to have been refunded.")
        self._story.saga("Alice tries to pay Bob 500.00 USD for a piano", transaction)

    def _compensated(self, alice: Person, carol: Person) -> None:
        """Carol's account is closed after the transfer was accepted and before it could be credited."""
        with self._saga_paused():
            transaction_id = self._transfer(alice, carol, "40.00", "a painting")
            self._stack.manage("deactivate_user", carol.email)
        transaction = self._settled(transaction_id, alice, ["INITIATED", "DEBITED", "REFUNDING", "FAILED"])
        failure = transaction["failure"]
        expect(bool(failure["refunded"]), f"Carol's transfer failed without a refund: {failure}.")
        self._story.saga("Alice pays Carol 40.00 USD; Carol's account closes meanwhile", transaction)

    @contextmanager
    def _saga_paused(self) -> Iterator[None]:
        """Holds the saga worker still, as a busy machine might, to have time between its steps."""
        self._stack.supervisor.kill("saga", signal.SIGSTOP)
        try:
            yield
        finally:
            self._stack.supervisor.kill("saga", signal.SIGCONT)

    def _show_wallet(self, owner: Person, expected: list[tuple[str, str, str]]) -> None:
        entries = self._api.get("/wallets/me/history?currency=USD&limit=50", owner)["results"][::-1]
        found = [(entry["kind"], entry["amount"], entry["balance"]) for entry in entries]
        expect(found == expected, f"{owner.name}'s history is {found}, not {expected}.")
        balance = self._api.get("/wallets/me?currency=USD", owner)["balance"]
        expect(balance == expected[-1][2], f"{owner.name}'s balance is {balance}, not {expected[-1][2]}.")
        self._story.wallet(f"{owner.name}'s wallet", entries, self._notes)

    def _audit(self) -> None:
        done = self._stack.manage_unchecked("audit")
        self._story.audit(done.stdout, clean=done.returncode == 0)
        expect(done.returncode == 0, f"the audit did not pass: {(done.stdout + done.stderr)[-1000:]}")
