"""Receivers of webhooks during a drill: some users listen, and in the end each event must have reached them.

The receiver is a small server in the drill's own process. Now and then it refuses what it gets, so that
deliveries are retried; it remembers only what it has accepted.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

from payflow.events import EventType
from payflow.stack.drill.books import Books
from payflow.stack.drill.client import Client
from payflow.stack.errors import StackError

LISTENERS = 2
REFUSED_SHARE = 0.1
PAGE = 100
PAGES_MAX = 1_000
LOOK_SECONDS = 1.0
BODY_BYTES_MAX = 1_048_576
# Short times, and more tries than a drill can use up: none of its faults is a reason for a dead letter.
SETTINGS = {
    "WEBHOOK_TOTAL_SECONDS": "1.5",
    "WEBHOOK_CLAIM_SECONDS": "4",
    "WEBHOOK_RETRY_SECONDS": ",".join(["0.5"] * 200),
    "WEBHOOK_CIRCUIT_SECONDS": "0.5",
    "WEBHOOK_SWEEP_EVERY_SECONDS": "1",
    # So few that endpoints are held while faults keep them from what waits.
    "WEBHOOK_UNDELIVERED_PER_USER_MAX": "1000",
    # Mails go on as long as the drill, and none goes into a digest.
    "NOTIFICATIONS_PER_HOUR_MAX": "10000",
}
_ENDS = {"COMPLETED": EventType.TRANSACTION_COMPLETED, "FAILED": EventType.TRANSACTION_FAILED}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: in a drill whoever sends dies in the middle of it."""


class Hooks:
    """Subscribes the first users, receives for them, and says what is missing."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"{seed} hooks")  # noqa: S311 - a drill must be repeatable
        self._taken: dict[str, set[str]] = defaultdict(set)
        self._ids: dict[str, str] = {}
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.requests = self.refused = 0

    def start(self, clients: Iterable[Client]) -> None:
        """Begin to receive, and subscribe. StackError when that is refused."""
        threading.Thread(target=self._server.serve_forever, name="hooks", daemon=True).start()
        events = [event.value for event in EventType]
        for client in list(clients)[:LISTENERS]:
            url = f"http://127.0.0.1:{self._server.server_port}/{client.id}"
            self._ids[client.id] = client.create("/webhooks", {"url": url, "events": events})["id"]

    def stop(self) -> None:
        """Receive no more."""
        self._server.shutdown()
        self._server.server_close()

    def await_calm(self, clients: Iterable[Client], seconds_max: float) -> bool:
        """Wait until every delivery has ended; False when some never do."""
        deadline = time.monotonic() + seconds_max
        while any(
            row["status"] == "PENDING" for client in self._listening(clients) for row in self._log(client)
        ):
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def judge(self, clients: Iterable[Client], books: Books) -> Iterator[str]:
        """Yield what is wrong: a missing place, an event that never came, or that was never written down."""
        for client in self._listening(clients):
            log = self._log(client)
            places = [row["sequence"] for row in log]
            if places != list(range(1, len(places) + 1)):
                yield f"The deliveries of {client.id} have gaps: {places[:20]} ..."
            told = {row["event"]["id"] for row in log}
            yield from (f"{id_} was never delivered." for id_ in sorted(told - self._taken[client.id]))
            yield from (f"{id_} was delivered and not written down." for id_ in self._taken[client.id] - told)
            for transaction in books.transactions.values():
                expected = f"{transaction.id}:{_ends(transaction.status)}"
                if client.id in (transaction.sender_id, transaction.receiver_id) and expected not in told:
                    yield f"{client.id} was never told {expected}."

    def _listening(self, clients: Iterable[Client]) -> list[Client]:
        return [client for client in clients if client.id in self._ids]

    def _log(self, client: Client) -> list[dict[str, Any]]:
        """Return all deliveries, in order. StackError when the API does not answer, or never ends."""
        rows: list[dict[str, Any]] = []
        path = f"/webhooks/{self._ids[client.id]}/events"
        for _ in range(PAGES_MAX):
            page = client.get(path, after=str(rows[-1]["sequence"] if rows else 0), limit=str(PAGE))
            rows += page["results"]
            if len(page["results"]) < PAGE:
                return rows
        raise StackError(f"GET {path} has no end.")

    def _take(self, user_id: str, event_id: str) -> int:
        self.requests += 1
        if self._random.random() < REFUSED_SHARE:
            self.refused += 1
            return 503
        self._taken[user_id].add(event_id)
        return 204

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                self.rfile.read(min(int(self.headers["Content-Length"]), BODY_BYTES_MAX))
                self.send_response(take(self.path.strip("/"), self.headers["webhook-id"]))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as http.server has it
                """Say nothing."""

        return Handler


def _ends(status: str) -> str:
    return _ENDS[status].value if status in _ENDS else status
