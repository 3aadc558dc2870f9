"""Clients of a real stack over HTTP."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import requests

ENDS_WITHIN_SECONDS = 90
TERMINAL = {"COMPLETED", "FAILED"}


class Person:
    """A client of the API."""

    def __init__(self, base_url: str, name: str, deposit: str | None = None) -> None:
        self.base_url = base_url
        body = {
            "name": name,
            "email": f"{name}-{uuid.uuid4().hex}@example.com",
            "password": "violet-kettle-42",
        }
        answer = requests.post(f"{base_url}/auth/register", json=body, timeout=30)
        assert answer.status_code == 201, answer.text
        self.credentials = {"email": body["email"], "password": body["password"]}
        self.id = answer.json()["user"]["id"]
        self.headers = {"Authorization": f"Bearer {answer.json()['access']}"}
        if deposit:
            assert self.post("/wallets/me/deposit", {"amount": deposit}).status_code == 201

    def get(self, path: str) -> Any:
        answer = requests.get(f"{self.base_url}{path}", headers=self.headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: dict, key: str | None = None) -> requests.Response:
        headers = self.headers | ({"Idempotency-Key": key} if key else {})
        return requests.post(f"{self.base_url}{path}", json=body, headers=headers, timeout=30)

    def pay(self, receiver: Person, amount: str, key: str | None = None) -> str:
        answer = self.post("/transactions", {"receiver_id": receiver.id, "amount": amount}, key)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def balance(self) -> str:
        return self.get("/wallets/me")["balance"]

    def wait_for_end(self, transaction_id: str) -> dict:
        return eventually(
            lambda: self.get(f"/transactions/{transaction_id}"), lambda seen: seen["status"] in TERMINAL
        )


def eventually(read: Callable[[], Any], is_there: Callable[[Any], bool]) -> Any:
    """Read until it is there; fail with what was read last."""
    deadline = time.monotonic() + ENDS_WITHIN_SECONDS
    seen = None
    while time.monotonic() < deadline:
        try:
            seen = read()
        except (requests.RequestException, AssertionError) as error:
            seen = error
        else:
            if is_there(seen):
                return seen
        time.sleep(0.1)
    raise AssertionError(f"not within {ENDS_WITHIN_SECONDS} s; last seen: {seen}")
