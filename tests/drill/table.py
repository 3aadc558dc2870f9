"""`python -m tests.drill.table`: how requests and probes are answered while a server is slow or silent.

For each fault: some seconds of keyed transfers at a fixed rate, open loop, from clients that wait 10 seconds.
Ends with an audit that expects everything to have ended.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from payflow.stack.drill.proxy import NO_FAULT, Fault, Proxy
from payflow.stack.embedded import embedded_servers, free_port
from payflow.stack.paths import mongo_socket
from payflow.stack.progress import say
from payflow.stack.stack import Stack

CLIENT_SECONDS_MAX = 10.0
PROBE_SECONDS_MAX = 5.0
PROBE_EVERY_SECONDS = 1.0
USERS = 10
PROBES = ("/health/live", "/health/ready", "/health", "/metrics")
FAULTS: dict[str, tuple[str, Fault]] = {
    "nothing": ("redis", NO_FAULT),
    "Redis answers 0.1 s late": ("redis", Fault(delay_seconds=0.1)),
    "Redis answers 1 s late": ("redis", Fault(delay_seconds=1.0)),
    "Redis silent": ("redis", Fault(is_silent=True)),
    "Redis resets connections": ("redis", Fault(resets=True)),
    "MongoDB answers 1 s late": ("mongodb", Fault(delay_seconds=1.0)),
    "MongoDB silent": ("mongodb", Fault(is_silent=True)),
    "MongoDB resets connections": ("mongodb", Fault(resets=True)),
}
QUICK_SECONDS = 0.1
FIRST_SECONDS = 2.0


@dataclass
class Measured:
    """What came of one fault. Seconds are counted from when a request was due."""

    answers: list[tuple[float, int, float]] = field(default_factory=list)
    """When it was due, its status (0 for no answer), seconds until the answer."""
    probes: dict[str, list[float | None]] = field(default_factory=dict)
    """Seconds until each answer, None where there was none in time."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each fault (15)")
    parser.add_argument("--rate", type=float, default=20.0, help="transfers a second (20)")
    parser.add_argument("--rest", type=float, default=6.0, help="seconds between two faults (6)")
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="payflow-table-") as folder,
        _stack(Path(folder)) as (stack, proxies),
    ):
        users = _users(stack.base_url)
        columns = "fault|transfers|answered in 10 s|p50|p95|max|by status|quick refusals|probes: slowest"
        say(f"| {columns.replace('|', ' | ')} |")
        say("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for number, (name, (server, fault)) in enumerate(FAULTS.items()):
            if asked.only.lower() in name.lower():
                proxies[server].set(fault)
                found = _measure(stack.base_url, users, number, asked.rate, asked.seconds)
                proxies[server].clear()
                say(_row(name, found))
                time.sleep(asked.rest)
        say()
        say(_check(stack, users))


@contextmanager
def _stack(folder: Path) -> Iterator[tuple[Stack, Mapping[str, Proxy]]]:
    servers, own = folder / "servers", folder / "stack"
    redis_port = free_port()
    with (
        embedded_servers(servers, redis_port, {}),
        Proxy(mongo_socket(servers)) as mongodb,
        Proxy(("127.0.0.1", redis_port)) as redis,
    ):
        env = {
            "MONGODB_URI": f"mongodb://127.0.0.1:{mongodb.port}/?directConnection=true&journal=true",
            "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
        }
        with Stack.on_free_ports(own, env) as stack:
            yield stack, {"mongodb": mongodb, "redis": redis}


def _users(base_url: str) -> list[tuple[str, str]]:
    """Register users with money; return their ids and access tokens."""
    users = []
    for number in range(USERS):
        body = {
            "name": f"User {number}",
            "email": f"user-{number}@example.com",
            "password": "violet-kettle-42",
        }
        _, _, text = _ask(base_url, "POST", "/auth/register", body, {}, 30.0)
        shown = json.loads(text)
        users.append((shown["user"]["id"], shown["access"]))
        headers = {"Authorization": f"Bearer {shown['access']}"}
        _ask(base_url, "POST", "/wallets/me/deposit", {"amount": "10000.00"}, headers, 30.0)
    return users


def _measure(
    base_url: str, users: list[tuple[str, str]], number: int, rate: float, seconds: float
) -> Measured:
    found, began = Measured(), time.monotonic()
    probing = [
        threading.Thread(target=_probe, args=(base_url, path, began + seconds, found)) for path in PROBES
    ]
    for thread in probing:
        thread.start()
    with ThreadPoolExecutor(max_workers=round(rate * CLIENT_SECONDS_MAX * 1.5)) as pool:
        for turn in range(round(rate * seconds)):
            due = began + turn / rate
            time.sleep(max(0.0, due - time.monotonic()))
            pool.submit(_transfer, base_url, users, f"{number}-{turn}", turn, due, began, found)
    for thread in probing:
        thread.join()
    return found


def _transfer(
    base_url: str,
    users: list[tuple[str, str]],
    key: str,
    turn: int,
    due: float,
    began: float,
    found: Measured,
) -> None:
    (_, access), (receiver, _) = users[turn % USERS], users[(turn + 1) % USERS]
    headers = {"Authorization": f"Bearer {access}", "Idempotency-Key": key}
    body = {"receiver_id": receiver, "amount": "0.01"}
    status, _, _ = _ask(base_url, "POST", "/transactions", body, headers, CLIENT_SECONDS_MAX)
    found.answers.append((due - began, status, time.monotonic() - due))


def _probe(base_url: str, path: str, end: float, found: Measured) -> None:
    times = found.probes.setdefault(path, [])
    while time.monotonic() < end:
        status, seconds, _ = _ask(base_url, "GET", path, None, {}, PROBE_SECONDS_MAX)
        times.append(seconds if status else None)
        time.sleep(max(0.0, PROBE_EVERY_SECONDS - seconds))


def _ask(
    base_url: str,
    method: str,
    path: str,
    body: dict[str, str] | None,
    headers: dict[str, str],
    seconds: float,
) -> tuple[int, float, bytes]:
    """Return the status, 0 where there was no answer in time; the seconds it took; the body."""
    began, place = time.monotonic(), urlsplit(base_url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=seconds)
    try:
        text = json.dumps(body) if body is not None else None
        connection.request(method, path, text, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, time.monotonic() - began, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, time.monotonic() - began, b""
    finally:
        connection.close()


def _row(name: str, found: Measured) -> str:
    times = sorted(seconds for _, status, seconds in found.answers if status)
    statuses = Counter(status for _, status, _ in found.answers)
    refused = [s for due, status, s in found.answers if status == 503 and due >= FIRST_SECONDS]
    quick = sum(seconds <= QUICK_SECONDS for seconds in refused)
    cells = [
        name,
        str(len(found.answers)),
        str(len(times)),
        *(_seconds(_part(times, share)) for share in (0.5, 0.95, 1.0)),
        ", ".join(f"{status or 'none'}: {count}" for status, count in sorted(statuses.items())),
        f"{quick} of {len(refused)} in 0.1 s" if refused else "",
        ", ".join(f"{path} {_slowest(times)}" for path, times in sorted(found.probes.items())),
    ]
    return f"| {' | '.join(cells)} |"


def _part(times: list[float], share: float) -> float | None:
    return times[min(len(times) - 1, int(len(times) * share))] if times else None


def _slowest(times: list[float | None]) -> str:
    answered = [seconds for seconds in times if seconds is not None]
    missing = len(times) - len(answered)
    slowest = _seconds(max(answered, default=None))
    return f"{slowest} ({missing} without answer)" if missing else slowest


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "none"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _check(stack: Stack, users: list[tuple[str, str]]) -> str:
    """Wait until everything has ended, and audit."""
    deadline = time.monotonic() + 90.0
    while time.monotonic() < deadline:
        done = stack.manage_unchecked("audit", "--expect-settled")
        if done.returncode == 0:
            return f"Audit: {done.stdout.strip().splitlines()[-1]}"
        time.sleep(3.0)
    return f"Audit NOT clean: {(done.stdout + done.stderr).strip()[-500:]}"


if __name__ == "__main__":
    sys.exit(main())
