"""A user of the API who repeats a request with the same key until it is answered, whatever happens."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import requests

from payflow.money import format_amount
from payflow.stack.drill.answers import Asked
from payflow.stack.drill.record import CREATED, Answer, Kind, Operation
from payflow.stack.errors import StackError

REQUEST_SECONDS_MAX = 10.0
PATIENCE_SECONDS_MAX = 240.0
PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 2.0
# Access tokens last 15 minutes.
TOKEN_SECONDS_MAX = 480.0
PATHS = {
    Kind.TRANSFER: "/transactions",
    Kind.DEPOSIT: "/wallets/me/deposit",
    Kind.WITHDRAWAL: "/wallets/me/withdraw",
}
BATCH_PATH = "/transactions/batch"
# Answers that say nothing about the operation itself.
_UNAUTHENTICATED, _CONFLICT, _TOO_MANY, _SERVER_ERROR = 401, 409, 429, 500
_IN_PROGRESS = "idempotency_in_progress"


class Client:
    """One user: registered or signed in once, then served by one thread at a time."""

    def __init__(self, base_url: str, email: str, password: str):
        self.base_url = base_url
        self.id = ""
        # Requests by what came of them: a status with its code, or the kind of error.
        self.tally: Counter[str] = Counter()
        # Requests that this client was ready to wait for.
        self.asked: list[Asked] = []
        self._credentials = {"email": email, "password": password}
        self._access = ""
        self._signed_in_at = 0.0
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy has no business between this machine and itself

    def register(self, name: str) -> None:
        """Create the user. StackError when that is refused."""
        self._enter("/auth/register", {"name": name, **self._credentials}, CREATED)

    def sign_in(self) -> None:
        """StackError when that is refused."""
        self._enter("/auth/login", self._credentials, 200)

    def another(self) -> Client:
        """Return one more client of this user, for one more thread."""
        other = Client(self.base_url, self._credentials["email"], self._credentials["password"])
        other.id, other._access, other._signed_in_at = self.id, self._access, self._signed_in_at
        return other

    def open_wallet(self, currency: str) -> None:
        """Open a wallet, which may be there already. StackError when that is refused."""
        answer = self._ask("POST", "/wallets", {"currency": currency}, {}, REQUEST_SECONDS_MAX)
        if answer.status_code not in (CREATED, _CONFLICT):
            raise StackError(f"A wallet could not be opened: {answer.status_code} {answer.text[:200]}")

    def perform(
        self, operations: Sequence[Operation], *, first_try_seconds: float = REQUEST_SECONDS_MAX
    ) -> None:
        """Ask until there is a definite answer, and record it; give up after PATIENCE_SECONDS_MAX.

        Several operations are transfers, and asked for as a batch.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS_MAX
        pause, seconds = PAUSE_SECONDS, first_try_seconds
        while True:
            answers = self._try(operations, seconds)
            for operation, answer in zip(operations, answers or (), strict=answers is not None):
                operation.answers.append(answer)
            if answers is not None:
                return
            for operation in operations:
                operation.doubts += 1
            if time.monotonic() > deadline:
                return
            time.sleep(pause)
            pause, seconds = min(pause * 1.5, PAUSE_SECONDS_MAX), REQUEST_SECONDS_MAX

    def post(self, path: str, body: dict[str, Any]) -> int | None:
        """Send one request; return its status, None when there was no answer."""
        try:
            self._renew()
            return self._ask("POST", path, body, {}, REQUEST_SECONDS_MAX).status_code
        except (requests.RequestException, StackError):
            return None

    def create(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer to a POST that makes something. StackError when it is not made."""
        self._renew()
        answer = self._ask("POST", path, body, {}, REQUEST_SECONDS_MAX)
        if answer.status_code != CREATED:
            raise StackError(f"POST {path} got {answer.status_code}: {answer.text[:200]}")
        return answer.json()

    def get(self, path: str, **query: str) -> Any:
        """Return the answer to a GET, tried a few times. StackError when there is none."""
        reason = ""
        for _ in range(10):
            try:
                self._renew()
                answer = self._session.get(
                    self.base_url + path, params=query, headers=self._headers(), timeout=REQUEST_SECONDS_MAX
                )
                if answer.status_code == 200:
                    return answer.json()
                reason = f"{answer.status_code} {answer.text[:200]}"
            except (requests.RequestException, ValueError) as error:
                reason = type(error).__name__
            time.sleep(PAUSE_SECONDS_MAX)
        raise StackError(f"GET {path} got no proper answer: {reason}")

    def pages(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of every page."""
        cursor: dict[str, str] = {}
        while True:
            page = self.get(path, limit="100", **query, **cursor)
            yield from page["results"]
            if not page["next"]:
                return
            cursor = {"cursor": page["next"]}

    def _try(self, operations: Sequence[Operation], seconds: float) -> list[Answer] | None:
        """Ask once; None when the answer is none or leaves it open whether the operations were done."""
        first, is_batch = operations[0], len(operations) > 1
        path = BATCH_PATH if is_batch else PATHS[first.kind]
        body = _batch(operations) if is_batch else _terms(first)
        began = time.monotonic()
        try:
            self._renew()
            began = time.monotonic()
            answer = self._ask("POST", path, body, {"Idempotency-Key": first.key}, seconds)
            shown = answer.json()
        except (requests.RequestException, ValueError, StackError) as error:
            self._take_down(began, seconds, type(error).__name__, is_refusal=True)
            return None
        code = str(shown.get("code", ""))
        said = f"{answer.status_code} {code}".strip()
        self._take_down(began, seconds, said, is_refusal=answer.status_code >= _SERVER_ERROR)
        if answer.status_code == _UNAUTHENTICATED:
            self._signed_in_at = 0.0
            return None
        if answer.status_code >= _SERVER_ERROR or answer.status_code == _TOO_MANY or code == _IN_PROGRESS:
            return None
        if answer.status_code != CREATED:
            return [Answer(answer.status_code, told=code)] * len(operations)
        if is_batch:
            return [_of_a_batch(result) for result in shown["results"]]
        if first.kind is Kind.TRANSFER:
            return [Answer(CREATED, shown["id"], shown["status"])]
        return [Answer(CREATED, shown["entry"]["id"])]

    def _take_down(self, began: float, patience_seconds: float, said: str, *, is_refusal: bool) -> None:
        self.tally[said] += 1
        if patience_seconds >= REQUEST_SECONDS_MAX:
            self.asked.append(Asked(began, time.monotonic() - began, said if is_refusal else ""))

    def _ask(
        self, method: str, path: str, body: dict[str, Any], headers: dict[str, str], seconds: float
    ) -> requests.Response:
        sent = {**self._headers(), **headers}
        return self._session.request(method, self.base_url + path, json=body, headers=sent, timeout=seconds)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._access}"} if self._access else {}

    def _renew(self) -> None:
        if time.monotonic() - self._signed_in_at > TOKEN_SECONDS_MAX:
            self.sign_in()

    def _enter(self, path: str, body: dict[str, Any], status: int) -> None:
        self._access = ""
        answer = self._ask("POST", path, body, {}, REQUEST_SECONDS_MAX)
        if answer.status_code != status:
            raise StackError(f"POST {path} got {answer.status_code}: {answer.text[:200]}")
        shown = answer.json()
        self.id, self._access = shown["user"]["id"], shown["access"]
        self._signed_in_at = time.monotonic()


def _terms(operation: Operation) -> dict[str, Any]:
    body = {
        "amount": format_amount(operation.amount_minor, operation.currency),
        "currency": operation.currency,
    }
    if operation.kind is Kind.TRANSFER:
        # The key travels twice, so that what it has done can be found without looking inside.
        body |= {"receiver_id": operation.receiver_id, "description": operation.key}
    return body


def _batch(operations: Sequence[Operation]) -> dict[str, Any]:
    """Every other transfer has a reference: it would keep one that is made twice from showing."""
    named = (
        {"reference": operation.key} if number % 2 else {} for number, operation in enumerate(operations)
    )
    return {"transfers": [{**_terms(each), **name} for each, name in zip(operations, named, strict=True)]}


def _of_a_batch(result: dict[str, Any]) -> Answer:
    if "problem" in result:
        return Answer(result["problem"]["status"], told=result["problem"]["code"])
    return Answer(CREATED, result["transaction"]["id"], result["transaction"]["status"])
