"""A realistic load on any running PayFlow, for load testers. It needs `requirements/load.txt`.

    locust                                                  # web interface on http://127.0.0.1:8089
    locust --headless --users 50 --spawn-rate 10 --run-time 1m
    locust --host https://payflow.example.com --tags read   # reads only

`--host` is http://127.0.0.1:8000 unless given: what `make run` starts. Each simulated user registers and
deposits (which needs deposits to be open, as in development), then mostly sends money to another simulated
user and polls until the transfer has ended, and now and then looks at its wallet, its history and its
transactions. Access tokens last 15 minutes: a user refreshes its session when one has expired, or else logs
in again.

Beside the requests, the statistics show `saga: POST to terminal`: milliseconds from sending a transfer until
it was seen COMPLETED or FAILED, polls included. For figures of capacity use `make bench`: it counts what the
database says, and polls nothing.

A request without an answer, an answer of 400 and above, and a transfer that ends FAILED are failures. The
exit status is 1 after any failure, and when nothing was asked at all.
"""

from __future__ import annotations

import random
import time
from typing import Any
from uuid import uuid4

from locust import FastHttpUser, between, events, tag, task

PASSWORD = "a-long-password-for-load-tests"  # noqa: S105 - of users made for this run
DEPOSIT = "1000.00"
POLL_SECONDS = 0.2
POLLS_MAX = 50
RECEIVERS_MAX = 10_000
TERMINAL = ("COMPLETED", "FAILED")

# Ids of the users of this process, for others to send money to.
receivers: list[str] = []


class PayFlowUser(FastHttpUser):
    """Somebody with an account, a wallet and money in it."""

    host = "http://127.0.0.1:8000"
    wait_time = between(0.5, 2.0)
    network_timeout = connection_timeout = 30.0

    def on_start(self) -> None:
        """Register and put money into the wallet."""
        self.email = f"locust-{uuid4().hex}@example.com"
        self.transactions: list[str] = []
        body = {"name": "Load tester", "email": self.email, "password": PASSWORD}
        answer = self._send("POST", "/auth/register", body, signed=False)
        self._sign_in(answer)
        self.user_id = answer["user"]["id"] if answer else ""
        if self.user_id and len(receivers) < RECEIVERS_MAX:
            receivers.append(self.user_id)
        self._send("POST", "/wallets/me/deposit", {"amount": DEPOSIT})

    def on_stop(self) -> None:
        """End the session."""
        self._send("POST", "/auth/logout", {"refresh": self.refresh}, signed=False)

    @tag("write")
    @task(10)
    def transfer(self) -> None:
        """Send money to somebody and watch it arrive."""
        others = random.sample(receivers, min(2, len(receivers)))
        receiver = next((other for other in others if other != self.user_id), None)
        if receiver is None:
            return
        amount = f"{random.randint(1, 500) / 100:.2f}"  # noqa: S311 - not a secret
        began = time.monotonic()
        sent = self._send("POST", "/transactions", {"receiver_id": receiver, "amount": amount})
        if sent:
            self.transactions = [*self.transactions[-20:], sent["id"]]
            self._watch(sent, began)

    @tag("read")
    @task(3)
    def history(self) -> None:
        """Read a page of the wallet's entries, and the next one if there is one."""
        page = self._send("GET", "/wallets/me/history?limit=20", name="/wallets/me/history")
        if page and page["next"]:
            path = f"/wallets/me/history?limit=20&cursor={page['next']}"
            self._send("GET", path, name="/wallets/me/history (next page)")

    @tag("read")
    @task(3)
    def wallet(self) -> None:
        """Read the balance."""
        self._send("GET", "/wallets/me")

    @tag("read")
    @task(2)
    def list_transactions(self) -> None:
        """Read a page of what was sent and received."""
        self._send("GET", "/transactions?limit=20", name="/transactions (page)")

    @tag("session")
    @task(1)
    def log_in(self) -> None:
        """Log in again, as people do on another device."""
        self._log_in()

    def _watch(self, transaction: dict[str, Any], began: float) -> None:
        """Poll a transfer until it has ended, and report how long that took."""
        for _ in range(POLLS_MAX):
            if transaction["status"] in TERMINAL:
                break
            time.sleep(POLL_SECONDS)
            path = f"/transactions/{transaction['id']}"
            transaction = self._send("GET", path, name="/transactions/{id}") or transaction
        error = None
        if transaction["status"] == "FAILED":
            error = TransferFailed((transaction.get("failure") or {}).get("code", "unknown"))
        elif transaction["status"] != "COMPLETED":
            error = TimeoutError(f"still {transaction['status']}")
        events.request.fire(
            request_type="SAGA",
            name="saga: POST to terminal",
            response_time=(time.monotonic() - began) * 1000,
            response_length=0,
            exception=error,
            context={},
        )

    def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        name: str | None = None,
        signed: bool = True,
    ) -> dict[str, Any]:
        """Send a request; return the answer's JSON, or {} when it failed. A token is renewed once."""
        # One key for all tries: whatever happened to the first, nothing moves twice.
        headers = {"Idempotency-Key": uuid4().hex} if method == "POST" and signed else {}
        for last in (False, True):
            if signed:
                headers["Authorization"] = f"Bearer {self.access}"
            with self.client.request(
                method, path, json=body, headers=headers, name=name or path, catch_response=True
            ) as answer:
                if answer.status_code == 401 and signed and not last:
                    answer.success()
                elif 200 <= answer.status_code < 300:
                    return _body(answer)
                else:
                    # Status 0 is Locust's for no answer at all, and `ok` counts it as good.
                    answer.failure(f"{answer.status_code} {_code(answer)}")
                    return {}
            self._renew()
        return {}

    def _renew(self) -> None:
        """Get a new access token: from the refresh token, else from the password."""
        answer = self._send("POST", "/auth/refresh", {"refresh": self.refresh}, signed=False)
        if answer:
            self._sign_in(answer)
        else:
            self._log_in()

    def _log_in(self) -> None:
        self._sign_in(
            self._send("POST", "/auth/login", {"email": self.email, "password": PASSWORD}, signed=False)
        )

    def _sign_in(self, answer: dict[str, Any]) -> None:
        self.access, self.refresh = answer.get("access", ""), answer.get("refresh", "")


class TransferFailed(Exception):  # noqa: N818 - it reads as what happened
    """A transfer that ended FAILED: every simulated user has the money, and every receiver a wallet."""


@events.quitting.add_listener
def set_exit_status(environment: Any, **_: Any) -> None:
    """Exit with 1 after any failure, and where nothing was asked at all: that shows nothing."""
    total = environment.stats.total
    if environment.process_exit_code is None and (total.num_failures or not total.num_requests):
        environment.process_exit_code = 1


def _body(answer: Any) -> dict[str, Any]:
    """Return a good answer's JSON; one that is none fails."""
    try:
        body = answer.json() if answer.content else {}
    except ValueError:
        answer.failure(f"{answer.status_code} without JSON")
        return {}
    answer.success()
    return body


def _code(answer: Any) -> str:
    """The problem document's stable word for what went wrong."""
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return (answer.text or "no answer")[:100]
