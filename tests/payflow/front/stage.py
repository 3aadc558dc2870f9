"""A front with an application that blocks where a test says so, spoken to without a server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from payflow.front.front import Front, Shape

# No test comes near it: a wait that long is a failure.
SECONDS_MAX = 60.0
SHAPE = Shape(
    threads=2, waiting_max=4, per_caller_max=4, wait_seconds_max=SECONDS_MAX, body_seconds_max=SECONDS_MAX
)


class Application:
    """Answers with the path and the body; below /hold only once `release` was called."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.begun.append(path)
        if path.startswith("/hold"):
            self._released.wait(SECONDS_MAX)
        if path.startswith("/crash"):
            raise RuntimeError("secret detail")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [path.encode(), environ["wsgi.input"].read()]


@dataclass
class Client:
    """One connection: what it sends, and what it was answered."""

    front: Front
    path: str = "/"
    method: str = "GET"
    address: str = "192.0.2.1"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    """What is announced; more than `body` has: the rest is never sent."""
    status: int | None = None
    answered: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    """For one who reads slowly: cleared, nothing more is taken."""
    _sent: bool = False

    def __post_init__(self) -> None:
        self.may_read.set()

    async def ask(self) -> Client:
        """Send the request; return when it was answered, or the front has ended it."""
        await asyncio.wait_for(self.front(self._scope(), self._receive, self._send), SECONDS_MAX)
        return self

    def begin(self) -> asyncio.Task[Client]:
        """Send the request; return at once."""
        return asyncio.get_running_loop().create_task(self.ask())

    def json(self) -> Any:
        return json.loads(self.content)

    def _scope(self) -> dict[str, Any]:
        path, _, query = self.path.partition("?")
        length = self.length or len(self.body)
        headers = {**self.headers, **({"content-length": str(length)} if length else {})}
        return {
            "type": "http", "http_version": "1.1", "method": self.method, "scheme": "http",
            "raw_path": path.encode("latin-1"), "query_string": query.encode("latin-1"),
            "client": (self.address, "1"), "server": ("192.0.2.9", "80"),
            "headers": [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers.items()],
        }  # fmt: skip

    async def _receive(self) -> dict[str, Any]:
        if not self._sent and self.body:
            self._sent = True
            more = bool(self.length and self.length > len(self.body))
            return {"type": "http.request", "body": self.body, "more_body": more}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.may_read.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answered = {n.decode().lower(): v.decode("latin-1") for n, v in message["headers"]}
        else:
            self.content += message["body"]


@asynccontextmanager
async def front_of(application: Any, **shape: Any) -> AsyncIterator[Front]:
    front = Front(application, replace(SHAPE, **shape))
    front.start()
    try:
        yield front
    finally:
        getattr(application, "release", lambda: None)()
        asked = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "ask"]  # type: ignore[union-attr]
        await asyncio.gather(*asked)
        front.stop()


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(SECONDS_MAX):
        while not holds():
            await asyncio.sleep(0.005)


async def fill(
    front: Front, application: Application, *, running: int, waiting: int
) -> list[asyncio.Task[Client]]:
    """Have so many requests run and so many wait, each from an address of its own."""
    tasks = []
    for number in range(running + waiting):
        tasks.append(Client(front, f"/hold/{number}", address=f"198.51.100.{number}").begin())
        begun = min(number + 1, running)
        await eventually(lambda begun=begun: len(application.begun) == begun)
    await eventually(lambda: front.api.queue.waiting == waiting)
    return tasks
