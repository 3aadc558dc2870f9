"""Measures PayFlow with more load than it can bear: `python -m tests.load.overload`, about two minutes.

It starts a stack of its own and asks for keyed transfers in three ways: from a few connections (the best that
this machine does); at three times that rate, from clients that wait 15 s, each on a connection of its own;
and from 800 connections without a pause. Meanwhile it sends probes, as an orchestrator does. Then it audits.
Nothing is enforced but the audit, because the machine may be busy with other work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from payflow.stack.paths import ROOT
from payflow.stack.stack import Stack
from tests.load.windows import percentile

CLIENT_WAITS_SECONDS = 15.0
PROBES = ("/health/live", "/health/ready", "/health", "/metrics")
PROBE_EVERY_SECONDS = 0.25
PROBE_WAITS_SECONDS = 5.0
_USERS = """
import json, os, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "payflow.settings")
django.setup()
from tests.load.population import create_users, with_tokens
print(json.dumps(with_tokens(create_users(200))))
"""


@dataclass
class Seen:
    """What clients saw: seconds until each answer, by status; None stands for no answer in time."""

    seconds: dict[int | None, list[float]] = field(default_factory=dict)

    def add(self, status: int | None, seconds: float) -> None:
        """Note one request."""
        self.seconds.setdefault(status, []).append(seconds)

    def count(self, status: int | None) -> int:
        """Return how many were answered so."""
        return len(self.seconds.get(status, ()))

    def tell(self, seconds: float) -> str:
        """Return a line for people."""
        parts = [f"{self.count(201) / seconds:.0f} transfers/s"]
        for status, took in sorted(self.seconds.items(), key=lambda item: item[0] or 0):
            times = ", ".join(f"p{p} {percentile(sorted(took), p):.2f} s" for p in (50, 95, 99))
            parts.append(f"{status or 'no answer'}: {len(took)} ({times})")
        return "; ".join(parts)


class Crowd:
    """Clients of one stack."""

    def __init__(self, port: int, users: Sequence[tuple[str, str]]) -> None:
        self._port = port
        self._ids = [user_id for user_id, _ in users]
        self._users = cycle(random.sample(users, len(users)))

    def _transfer(self) -> bytes:
        user_id, token = next(self._users)
        receiver = random.choice([one for one in self._ids[:20] if one != user_id])  # noqa: S311
        body = json.dumps({"receiver_id": receiver, "amount": "0.01"})
        head = (
            f"POST /transactions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            f"Idempotency-Key: {random.getrandbits(128):032x}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return (head + body).encode()

    async def ask_once(self, request: bytes, seen: Seen, waits: float, due: float) -> None:
        """Send one request on a connection of its own."""
        status: int | None = None
        writer = None
        try:
            async with asyncio.timeout(waits):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                status = await _speak(reader, writer, request)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            if writer:
                writer.close()
        seen.add(status, time.monotonic() - due)

    async def closed_loop(self, connections: int, seconds: float) -> Seen:
        """Have each connection ask again as soon as it was answered."""
        seen, until = Seen(), time.monotonic() + seconds

        async def loop() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            while (began := time.monotonic()) < until:
                try:
                    async with asyncio.timeout(CLIENT_WAITS_SECONDS):
                        status = await _speak(reader, writer, self._transfer())
                except (OSError, TimeoutError, asyncio.IncompleteReadError):
                    seen.add(None, time.monotonic() - began)
                    break
                seen.add(status, time.monotonic() - began)
            writer.close()

        await asyncio.gather(*(loop() for _ in range(connections)))
        return seen

    async def open_loop(self, rate: float, seconds: float) -> Seen:
        """Ask at a constant rate, answered or not."""
        seen, begin, asked = Seen(), time.monotonic(), []
        for number in range(round(rate * seconds)):
            due = begin + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            ask = self.ask_once(self._transfer(), seen, CLIENT_WAITS_SECONDS, due)
            asked.append(asyncio.create_task(ask))
        await asyncio.gather(*asked)
        return seen

    async def probe(self, seen: dict[str, Seen]) -> None:
        """Send each probe again and again, on a connection of its own each time, until cancelled."""

        async def again(path: str) -> None:
            request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
            while True:
                await self.ask_once(
                    request, seen.setdefault(path, Seen()), PROBE_WAITS_SECONDS, time.monotonic()
                )
                await asyncio.sleep(PROBE_EVERY_SECONDS)

        await asyncio.gather(*(again(path) for path in PROBES))


async def _speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    lengths = [int(line.split(":")[1]) for line in lines if line.startswith("content-length:")]
    await reader.readexactly(lengths[0] if lengths else 0)
    return int(lines[0].split()[1])


async def _measure(crowd: Crowd, seconds: float, connections: int) -> None:
    await crowd.closed_loop(4, 2)
    best = await crowd.closed_loop(16, seconds)
    rate = best.count(201) / seconds
    _say(f"best, 16 connections: {best.tell(seconds)}")
    for name, load in (
        (f"three times that, {3 * rate:.0f}/s", crowd.open_loop(3 * rate, seconds)),
        (f"{connections} connections without a pause", crowd.closed_loop(connections, seconds)),
    ):
        probes: dict[str, Seen] = {}
        probing = asyncio.create_task(crowd.probe(probes))
        began = time.monotonic()
        seen = await load
        took = max(seconds, time.monotonic() - began)
        probing.cancel()
        _say(f"{name}: {seen.tell(seconds)}; last answer after {took:.1f} s")
        _say(f"    goodput to the best: {seen.count(201) / seconds / rate:.2f}")
        for path, answers in probes.items():
            every = sorted(second for each in answers.seconds.values() for second in each)
            statuses = dict(Counter({str(status): len(each) for status, each in answers.seconds.items()}))
            _say(f"    {path}: {statuses}, p50 {percentile(every, 50):.3f} s, longest {every[-1]:.3f} s")


def main() -> int:
    """Measure and audit; 1 when the audit finds something."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.load.overload", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="for each of the three loads")
    parser.add_argument("--connections", type=int, default=800, help="without a pause")
    options = parser.parse_args()
    folder = tempfile.TemporaryDirectory(prefix="payflow-overload-")
    with folder, Stack.on_free_ports(Path(folder.name)) as stack:
        made = subprocess.run(
            [sys.executable, "-c", _USERS], env=stack.env, cwd=ROOT, stdout=subprocess.PIPE, check=True
        )
        crowd = Crowd(stack.web_port, [tuple(user) for user in json.loads(made.stdout)])
        asyncio.run(_measure(crowd, options.seconds, options.connections))
        audit = [sys.executable, str(ROOT / "manage.py"), "audit"]
        done = subprocess.run(audit, env=stack.env, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        _say(f"audit: {'clean' if done.returncode == 0 else done.stdout}")
    return done.returncode


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("PAYFLOW_ENV", "development")
    sys.exit(main())
