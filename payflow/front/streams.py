"""Sends streamed answers: as fast as they are read, in bounded memory, and without a thread that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from payflow.front.lane import Rest

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
STREAMS_MAX = 16
THREADS = 2
# A reader that takes nothing for so long has left.
STALLED_SECONDS = 30.0


class Streams:
    """The streamed answers of one process that are under way. Only its event loop calls this."""

    def __init__(self) -> None:
        self._count = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="streams")

    @property
    def is_full(self) -> bool:
        """Return whether no more may be sent at once."""
        return self._count >= STREAMS_MAX

    async def send(self, rest: Rest, receive: Receive, send: Send) -> None:
        """Send what is left of an answer whose beginning was sent. Ends early where the reader has left."""
        loop = asyncio.get_running_loop()
        left = loop.create_task(_leaves(receive))
        self._count += 1
        try:
            while not left.done() and (part := await loop.run_in_executor(self._threads, rest.make)):
                async with asyncio.timeout(STALLED_SECONDS):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return
        finally:
            self._count -= 1
            left.cancel()
            await self.close(rest)

    async def close(self, rest: Rest) -> None:
        """Let the application clean up after an answer."""
        await asyncio.get_running_loop().run_in_executor(self._threads, rest.close)

    def stop(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
