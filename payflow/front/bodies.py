"""Reads bodies before a thread is taken: within a time, and within a share of this process's memory."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from payflow.api.parsers import body_bytes_max
from payflow.front.errors import NotBegun

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

# All bodies that are being read, or wait, in one process; and those of one caller.
HELD_BYTES_MAX = 64 * 2**20
HELD_BYTES_PER_CALLER_MAX = HELD_BYTES_MAX // 4

BODIES = "bodies"
BODY_TOO_SLOW = "body_too_slow"
CLIENT_LEFT = "client_left"


class Bodies:
    """The bodies that this process holds. Only its event loop calls this."""

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._held_by: dict[str, int] = {}
        self._held = 0

    async def read(self, environ: dict[str, Any], caller: str, receive: Receive) -> int:
        """Read the body into `wsgi.input`; return how many bytes to `release`. Raises NotBegun.

        A body that the application refuses by its head (too long, or without a length) stays unread.
        """
        announced = environ.get("CONTENT_LENGTH", "")
        if not (announced.isascii() and announced.isdigit()) or len(announced) > 19:
            return 0
        length = int(announced)
        if length == 0 or length > body_bytes_max(environ["PATH_INFO"]):
            return 0
        try:
            async with asyncio.timeout(self._seconds_max):
                chunks = await self._receive(length, caller, receive)
        except TimeoutError:
            raise NotBegun(BODY_TOO_SLOW) from None
        environ["wsgi.input"] = io.BytesIO(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        return length

    async def _receive(self, length: int, caller: str, receive: Receive) -> list[bytes]:
        chunks: list[bytes] = []
        received = 0
        try:
            while received < length:
                message = await receive()
                if message["type"] != "http.request":
                    raise NotBegun(CLIENT_LEFT)
                chunk = message["body"]
                received += len(chunk)
                self._hold(caller, len(chunk))
                chunks.append(chunk)
                if received < length and not message.get("more_body"):
                    raise NotBegun(CLIENT_LEFT)
        except BaseException:
            self.release(caller, received)
            raise
        return chunks

    def _hold(self, caller: str, count: int) -> None:
        own = self._held_by.get(caller, 0) + count
        self._held_by[caller] = own
        self._held += count
        if self._held > HELD_BYTES_MAX or own > HELD_BYTES_PER_CALLER_MAX:
            raise NotBegun(BODIES)

    def release(self, caller: str, count: int) -> None:
        """Count bytes that are held no longer."""
        if not count:
            return
        self._held -= count
        self._held_by[caller] -= count
        if not self._held_by[caller]:
            del self._held_by[caller]
