"""Schemathesis asks what the OpenAPI document allows, and much that it does not, and must find no answer that
the document does not promise. Money moves meanwhile, and afterwards the audit is clean.

The document's examples, every boundary of every schema, random requests, and sequences that follow the
document's links: all with one seed.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from ipaddress import ip_address
from itertools import count
from typing import Any

import pytest
import schemathesis
from bson import ObjectId
from django.conf import LazySettings
from django.contrib.auth.hashers import make_password
from django.core.management import call_command
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.engine.run import PhaseName

from accounts import sessions
from accounts.schema import CREDENTIALS, USER
from payflow.api.schema_headers import PARAMETERS
from payflow.mongodb import collection
from payflow.wsgi import application
from tests.accounts.factories import UserFactory, grant
from tests.api.client import STAFF_PERMISSIONS, Api, Party, token_of
from tests.transfers.workers import eventually
from transfers.documents import Transaction
from transfers.schema import COMPLETED
from transfers.states import TERMINAL
from wallets import services as wallets
from webhooks import addresses

SEED = 20261123
# Random requests for each operation, and sequences, beside what is worked out from the document. Most of what
# can go wrong goes wrong for who may do something.
EXAMPLES_MAX = {"anonymous": 3, "user": 8, "staff": 4}
# Less than the examples of transfers want: they are declined until money has been deposited.
HELD_MINOR = 20_00
CURRENCIES = ("USD", "JPY", "BHD")
PHASES = {PhaseName.EXAMPLES, PhaseName.COVERAGE, PhaseName.FUZZING, PhaseName.STATEFUL_TESTING}
KEY_EXAMPLE = PARAMETERS["IdempotencyKey"]["schema"]["examples"][0]
SESSION = "0" * 32
REFERENCE_EXAMPLE = b"payroll-11/bob"

# Rules that no schema tells: what a currency can express, which password is hard to guess, which of two
# fields may stand beside the other, what a cursor stands for.
RULES_BEYOND_SCHEMAS = (
    "register", "changePassword", "createApiKey", "listApiKeys", "createTransaction", "createBatch",
    "listTransactions", "deposit", "withdraw", "listLedgerEntries", "changeSimulation", "changeOwnUser",
    "createWebhook", "changeWebhook", "listWebhooks", "listWebhookDeliveries",
)  # fmt: skip
# So each of them must succeed at least once, for who may do it: only a new password needs the present one.
_PUBLIC = {"GET /", "GET /health", "GET /ledger/keys", "POST /auth/register", "POST /auth/login"}
SUCCEED = {
    "anonymous": _PUBLIC,
    "user": _PUBLIC | {
        "POST /auth/api-keys", "GET /auth/api-keys", "GET /auth/me", "POST /wallets",
        "POST /wallets/me/deposit", "POST /wallets/me/withdraw", "GET /wallets/me/history",
        "POST /transactions", "POST /transactions/batch", "GET /transactions", "GET /transactions/{id}",
        "GET /transactions/{id}/receipt", "GET /transactions/batch/{id}", "DELETE /auth/sessions/{id}",
        "PATCH /auth/me", "POST /webhooks", "GET /webhooks", "GET /webhooks/{id}",
    },
    "staff": _PUBLIC | {"GET /ledger/audit", "POST /ledger/simulation"},
}  # fmt: skip
LEFT_OUT = {"enabled": False}
OPERATIONS = [
    *(
        {"include-operation-id": name, "checks": {"positive_data_acceptance": LEFT_OUT}}
        for name in RULES_BEYOND_SCHEMAS
    ),
    # One transfer of a batch that is not valid is refused in the answer: 201 is right.
    {"include-operation-id": "createBatch", "checks": {"negative_data_rejection": LEFT_OUT}},
    *(
        {"include-operation-id": name, "parameters": {"path.id": {"dictionary": name, "probability": 0.5}}}
        for name in ("getBatch", "endSession")
    ),
]
# test_access.py knocks at every door with every kind of bad token; this check's own request fails over WSGI.
CHECKS = {"ignored_auth": LEFT_OUT}


def documented() -> set[str]:
    """Return every operation of the document."""
    paths = Api().get("/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}


@dataclass
class Findings:
    """What came of a run."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    phases: set[PhaseName] = field(default_factory=set)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def take(self, event: events.EngineEvent) -> None:
        """Note what an event tells."""
        if isinstance(event, events.ScenarioFinished):
            self.phases.add(event.phase)
            recorder = event.recorder
            for case_id, interaction in recorder.interactions.items():
                if interaction.response is not None and case_id in recorder.cases:
                    label = recorder.cases[case_id].value.operation.label
                    self.answers[label, interaction.response.status_code] += 1
            for check in (check for checks in recorder.checks.values() for check in checks):
                if check.failure_info:
                    told = f"{check.failure_info.failure}\n{check.failure_info.code_sample}"
                    self.failures.setdefault((recorder.label, check.name), told)
        elif isinstance(event, events.NonFatalError):
            self.errors.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            self.errors.append(repr(event.exception))

    def succeeded(self) -> set[str]:
        """Return the operations that have answered with what was asked for."""
        return {label for label, status in self.answers if status < 300}


_numbers = count()


def with_fresh_keys(environ: dict[str, Any], start_response: Any) -> Any:
    """The application. The document's example of a key is sent with everything: each time it is made another,
    for else all but the first of these requests would only hear that the key is used up.
    """
    if environ.get("HTTP_IDEMPOTENCY_KEY") == KEY_EXAMPLE:
        environ["HTTP_IDEMPOTENCY_KEY"] = f"{KEY_EXAMPLE}-{next(_numbers)}"
    return application(environ, start_response)


def with_what_is_used_up(environ: dict[str, Any], start_response: Any) -> Any:
    """The same for the example of a reference, which is paid once, and a session, which ends once."""
    if environ["PATH_INFO"] == f"/auth/sessions/{SESSION}":
        ends_at = int(time.time()) + 60
        sessions.open_family(user_id=USER["id"], family=SESSION, jti="x", expires_at=ends_at)
    fresh = f"{next(_numbers):0{len(REFERENCE_EXAMPLE)}}".encode()
    environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read().replace(REFERENCE_EXAMPLE, fresh))
    return with_fresh_keys(environ, start_response)


def fuzz(token: str | None, examples_max: int, batch_id: str) -> Findings:
    """Run every phase with these credentials."""
    config = {
        "seed": SEED,
        "cache": {"enabled": False},
        "headers": {"Authorization": f"Bearer {token}"} if token else {},
        "continue-on-failure": True,
        "generation": {"max-examples": examples_max, "no-shrink": True, "database": "none"},
        "checks": CHECKS,
        # Chance would not find them.
        "dictionaries": {"getBatch": {"values": [batch_id]}, "endSession": {"values": [SESSION]}},
        "operations": OPERATIONS,
        # test_access.py tries each method on each route.
        "phases": {"coverage": {"unexpected-methods": []}},
    }
    schema = schemathesis.openapi.from_wsgi(
        "/openapi.json", with_what_is_used_up, config=SchemathesisConfig.from_dict(config)
    )
    findings = Findings()
    for event in from_schema(schema).execute():
        findings.take(event)
    return findings


def enrol(name: str, user_id: str, *, is_staff: bool = False) -> Party:
    """Return a user with some money, as the document's examples know them."""
    user = UserFactory(
        id=ObjectId(user_id),
        name=name.title(),
        email=f"{name}@example.com",
        password=make_password(CREDENTIALS["password"]),
        is_staff=is_staff,
    )
    if is_staff:
        grant(user, *STAFF_PERMISSIONS)
    for currency in CURRENCIES:
        wallets.open_wallet(user_id=user_id, currency=currency)
        wallets.deposit(user_id=user_id, currency=currency, amount_minor=HELD_MINOR, key=None)
    return Party(user, Api(token_of(user)))


@pytest.fixture
def people() -> dict[str, Party]:
    return {
        "user": enrol("alice", USER["id"]),
        "receiver": enrol("bob", COMPLETED["receiver_id"]),
        "staff": enrol("staff", str(ObjectId()), is_staff=True),
    }


@pytest.fixture
def batch_id(people: dict[str, Party]) -> str:
    """A batch of the user's."""
    transfers = [{"receiver_email": "bob@example.com", "amount": "1.00"}]
    return people["user"].api.post_json("/transactions/batch", {"transfers": transfers}).json()["id"]


@pytest.fixture(autouse=True)
def _hosts_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every host has a public address: the machine of a test may know none. Nothing is delivered here."""
    monkeypatch.setattr(addresses, "resolve", lambda host, port: [ip_address("93.184.216.34")])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("actor", EXAMPLES_MAX)
def test_every_answer_is_one_that_the_document_promises(
    people: dict[str, Party],
    batch_id: str,
    saga_worker: None,
    capsys: pytest.CaptureFixture[str],
    settings: LazySettings,
    actor: str,
) -> None:
    settings.CREDIT_TIMEOUT_SECONDS = 0.2
    token = token_of(people[actor].user) if actor in people else None
    if actor == "user":
        simulated = {"enabled": True, "failure_rate": 0.5}
        assert people["staff"].api.post_json("/ledger/simulation", simulated).status_code == 200
    findings = fuzz(token, EXAMPLES_MAX[actor], batch_id)
    operations = {label for label, _ in findings.answers}
    with capsys.disabled():
        print(  # noqa: T201
            f"\n  {actor}: {findings.answers.total()} requests to {len(operations)} operations, "
            f"{len(findings.succeeded())} of which did something; {len(findings.failures)} failures"
        )
    assert findings.errors == []
    assert not findings.failures, "\n\n".join(findings.failures.values())
    assert findings.phases >= PHASES
    assert operations == documented()
    assert SUCCEED[actor] - findings.succeeded() == set()
    transactions = collection(Transaction)
    eventually(lambda: not transactions.count_documents({"status": {"$nin": [*TERMINAL]}}))
    if actor == "anonymous":
        assert [row["batch_id"] for row in transactions.find()] == [batch_id]
    else:
        assert transactions.count_documents({"status": "COMPLETED"}) > 1
    if actor == "user":
        assert transactions.count_documents({"batch_id": {"$nin": [None, batch_id]}}) > 1
        assert transactions.distinct("failure.refunded") == [False, True]
    call_command("audit", verbosity=0, expect_settled=True)
