"""Sends transfers, alone or in batches, and writes down what was answered: `python -m tests.load.generator`.

Reads a plan (JSON) from standard input and writes its record (JSON) to standard output. Two shapes of load:
- closed loop: every connection sends its next request when the last one was answered (throughput);
- open loop, when the plan has a `rate`: a request starts at each tick of the clock, answered or not, so that
  a slow moment is seen by everybody who would have met it (latency).
A user never has two requests under way in a closed loop. No monkey patching: geventhttpclient's sockets are
gevent's own.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections import deque
from typing import Any

import gevent
from gevent.pool import Pool
from geventhttpclient import HTTPClient

OPEN_LOOP_CONNECTIONS_MAX = 100
TIMEOUT_SECONDS = 30.0
_ID = re.compile(rb'"id": ?"(txn_[^"]+)"')


class Generator:
    """One run of one plan: base_url, users [[id, access token]], connections, seconds, amount, keys, rate,
    and batch: how many transfers each request holds, 0 to send them alone.
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._users = deque(plan["users"])
        random.shuffle(self._users)
        self._ids = [user_id for user_id, _ in plan["users"]]
        self._answers: list[tuple[float, float, str]] = []
        self._errors: list[str] = []
        connections = OPEN_LOOP_CONNECTIONS_MAX if plan["rate"] else plan["connections"]
        self._client = HTTPClient.from_url(
            plan["base_url"],
            concurrency=connections,
            connection_timeout=TIMEOUT_SECONDS,
            network_timeout=TIMEOUT_SECONDS,
        )

    def run(self) -> dict[str, Any]:
        """Send for the plan's seconds; return when the last answer is in."""
        cpu_seconds = time.process_time()
        if self._plan["rate"]:
            self._open_loop()
        else:
            deadline = time.monotonic() + self._plan["seconds"]
            loops = [gevent.spawn(self._closed_loop, deadline) for _ in range(self._plan["connections"])]
            gevent.joinall(loops, raise_error=True)
        # Each answer: when it was due to be sent (seconds since 1970), seconds until the answer, id.
        cpu_seconds = time.process_time() - cpu_seconds
        return {"cpu_seconds": cpu_seconds, "answers": self._answers, "errors": self._errors}

    def _closed_loop(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            user = self._users.popleft()
            self._send(user, time.time())
            self._users.append(user)

    def _open_loop(self) -> None:
        interval = 1 / self._plan["rate"]
        pool = Pool(OPEN_LOOP_CONNECTIONS_MAX)
        begin, begin_wall = time.monotonic(), time.time()
        for number in range(round(self._plan["seconds"] * self._plan["rate"])):
            due = number * interval
            gevent.sleep(max(0.0, begin + due - time.monotonic()))
            user = self._users[number % len(self._users)]
            pool.spawn(self._send, user, begin_wall + due)
        pool.join()

    def _send(self, user: tuple[str, str], due_at: float) -> None:
        user_id, token = user
        batch = self._plan["batch"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        if self._plan["keys"]:
            headers["Idempotency-Key"] = f"{random.getrandbits(128):032x}"
        path, body = "/transactions", self._transfer(user_id)
        if batch:
            path = "/transactions/batch"
            body = f'{{"transfers":[{",".join(self._transfer(user_id) for _ in range(batch))}]}}'
        try:
            response = self._client.request("POST", path, body, headers)
            text = bytes(response.read())
        except (OSError, ValueError) as error:
            self._errors.append(f"{type(error).__name__}: {error}")
            return
        if response.status_code != 201:
            self._errors.append(f"{response.status_code}: {text[:300].decode(errors='replace')}")
            return
        found = _ID.findall(text)
        if len(found) != max(1, batch):
            self._errors.append(f"{len(found)} accepted: {text[:300].decode(errors='replace')}")
            return
        now = time.time()
        self._answers += [(due_at, now - due_at, identifier.decode()) for identifier in found]

    def _transfer(self, sender_id: str) -> str:
        receiver = sender_id
        while receiver == sender_id:
            receiver = random.choice(self._ids)  # noqa: S311 - not a secret
        return f'{{"receiver_id":"{receiver}","amount":"{self._plan["amount"]}"}}'


if __name__ == "__main__":
    json.dump(Generator(json.load(sys.stdin)).run(), sys.stdout)
