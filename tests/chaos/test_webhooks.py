"""The real stack tells a receiver everything while its processes die: each event at least once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer
from standardwebhooks import Webhook
from werkzeug import Request, Response

from payflow import crashpoints
from payflow.crashpoints import Action
from payflow.events import EventType
from payflow.stack.stack import Stack
from tests.chaos.people import Person, eventually

pytestmark = pytest.mark.usefixtures("audited")
TOLD = ["TRANSACTION_INITIATED", "DEBIT_SUCCESS", "CREDIT_SUCCESS", "TRANSACTION_COMPLETED"]


class Endpoint:
    """A person's webhook: verifies and counts what comes."""

    def __init__(self, person: Person, server: HTTPServer) -> None:
        self.person = person
        self.taken: Counter[str] = Counter()
        self.refuse = threading.Event()
        server.expect_request("/hook").respond_with_handler(self._answer)
        answer = person.post(
            "/webhooks", {"url": server.url_for("/hook"), "events": [event.value for event in EventType]}
        )
        assert answer.status_code == 201, answer.text
        self.id, self.secret = answer.json()["id"], answer.json()["secret"]

    def _answer(self, request: Request) -> Response:
        if self.refuse.is_set():
            return Response(status=503)
        body = Webhook(self.secret).verify(request.get_data(), dict(request.headers))
        self.taken[body["id"]] += 1
        return Response()

    def wait_for(self, *transactions: str) -> None:
        """Wait until everything about these transactions has come, and the log says so."""
        expected = {f"{transaction}:{event}" for transaction in transactions for event in TOLD}
        eventually(lambda: set(self.taken), lambda seen: expected <= seen)
        log = eventually(self.log, lambda rows: {row["status"] for row in rows} == {"DELIVERED"})
        assert [row["sequence"] for row in log] == list(range(1, len(log) + 1))
        assert {row["event"]["id"] for row in log} == set(self.taken)

    def log(self) -> list[dict]:
        return self.person.get(f"/webhooks/{self.id}/events?limit=100")["results"]


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    server = HTTPServer(threaded=True)
    server.start()
    yield server
    server.clear()
    server.stop()


@pytest.fixture
def endpoint(alice: Person, server: HTTPServer) -> Endpoint:
    return Endpoint(alice, server)


@pytest.mark.parametrize(
    ("process", "point"),
    [
        ("saga", "saga.moved_to_completed"),
        ("saga", "fanout.inserted"),
        ("saga", "fanout.nudged"),
        ("webhooks", "sequencing.placed"),
        ("webhooks", "delivery.claimed"),
        ("webhooks", "delivery.answered"),
    ],
)
def test_a_process_that_dies_on_the_way_leaves_nothing_untold(
    process: str, point: str, stack: Stack, alice: Person, bob: Person, endpoint: Endpoint
) -> None:
    before = stack.supervisor.restarts(process)
    crashpoints.arm(stack.data_dir, point, Action.KILL_GROUP)
    transaction = alice.pay(bob, "1.00")
    eventually(lambda: stack.supervisor.restarts(process), lambda restarts: restarts > before)
    endpoint.wait_for(transaction)


def test_an_emptied_redis_forgets_no_delivery(
    stack: Stack, alice: Person, bob: Person, endpoint: Endpoint
) -> None:
    assert stack.redis is not None
    endpoint.refuse.set()
    transactions = [alice.pay(bob, "1.00") for _ in range(5)]
    eventually(lambda: alice.get(f"/webhooks/{endpoint.id}/logs")["results"], bool)
    stack.redis.kill()
    for file in (stack.data_dir / "redis").glob("*.aof"):
        file.unlink()
    stack.heal()
    endpoint.refuse.clear()
    endpoint.wait_for(*transactions)
