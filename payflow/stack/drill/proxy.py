"""A TCP proxy between PayFlow and one of its servers, which can make that server slow, silent or unreachable.

Invariants: without a fault every byte passes in order; a fault holds for connections that are open and for
new ones; what a silent server held back passes once the fault ends. One thread serves all connections, and
each holds back CHUNKS_MAX chunks at most.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

CHUNK_BYTES = 65_536
CHUNKS_MAX = 64
START_SECONDS_MAX = 10.0
END_SECONDS_MAX = 2.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
Upstream = tuple[str, int] | Path
Writers = tuple[asyncio.StreamWriter, asyncio.StreamWriter]
Chunks = asyncio.Queue[tuple[float, bytes]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What the server behind the proxy seems to suffer from. Delay and throttle concern its answers."""

    delay_seconds: float = 0.0
    bytes_per_second: float = 0.0
    """0 for no limit."""
    is_silent: bool = False
    """Connections are accepted and stay open, and nothing passes."""
    resets: bool = False
    """Open connections end with a TCP reset, and so does every new one."""


NO_FAULT = Fault()


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes on to `upstream`: host and port, or a Unix socket."""

    def __init__(self, upstream: Upstream):
        self.port = 0
        self.connections = 0
        """Connections accepted so far."""
        self._upstream = upstream
        self._fault = NO_FAULT
        self._loop = asyncio.new_event_loop()
        self._open: set[Writers] = set()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self) -> None:
        """Begin to listen; `port` says where."""
        self._thread.start()
        self.port = self._run(self._listen())

    def stop(self) -> None:
        """End all connections and the thread."""
        with suppress(TimeoutError):
            self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS_MAX)
        self._loop.close()

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def set(self, fault: Fault) -> None:
        """Have the server suffer from this from now on, and from nothing else."""
        self._run(self._set(fault))

    def clear(self) -> None:
        """End the fault."""
        self.set(NO_FAULT)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS_MAX)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        self._server.close()
        await self._set(NO_FAULT)
        self._reset_all()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others, timeout=END_SECONDS_MAX)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _set(self, fault: Fault) -> None:
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()
        if fault.resets:
            self._reset_all()

    def _reset_all(self) -> None:
        for client, server in list(self._open):
            _reset(client)
            server.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._fault.resets:
            _reset(writer)
            return
        try:
            from_server, to_server = await self._connect()
        except OSError:
            _reset(writer)
            return
        self._open.add(pair := (writer, to_server))
        asked: Chunks = asyncio.Queue(CHUNKS_MAX)
        answered: Chunks = asyncio.Queue(CHUNKS_MAX)
        reading = [
            asyncio.ensure_future(work) for work in (_read(reader, asked), _read(from_server, answered))
        ]
        writing = [
            asyncio.ensure_future(self._write(asked, to_server, is_answer=False)),
            asyncio.ensure_future(self._write(answered, writer, is_answer=True)),
        ]
        try:
            # Neither protocol closes one direction only.
            await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.discard(pair)
            for task in (*reading, *writing):
                task.cancel()
            for each in pair:
                each.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, Path):
            return await asyncio.open_unix_connection(str(self._upstream))
        return await asyncio.open_connection(*self._upstream)

    async def _write(self, chunks: Chunks, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        """Pass on until the other side has ended, each chunk once it is due."""
        with suppress(OSError):
            while True:
                came_at, data = await chunks.get()
                await self._wait_until_due(came_at, len(data), is_answer=is_answer)
                if not data:
                    return
                writer.write(data)
                await writer.drain()

    async def _wait_until_due(self, came_at: float, size: int, *, is_answer: bool) -> None:
        while True:
            fault = self._fault
            left: float | None = None if fault.is_silent else 0.0
            if is_answer and not fault.is_silent:
                slow_seconds = size / fault.bytes_per_second if fault.bytes_per_second else 0.0
                left = came_at + fault.delay_seconds + slow_seconds - self._loop.time()
            if left is not None and left <= 0:
                return
            with suppress(TimeoutError):
                # A fault that ends meanwhile ends this wait.
                await asyncio.wait_for(self._changed.wait(), left)


async def _read(reader: asyncio.StreamReader, chunks: Chunks) -> None:
    """Note what comes and when. The end is a chunk without bytes."""
    data = b" "
    while data:
        try:
            data = await reader.read(CHUNK_BYTES)
        except OSError:
            data = b""
        await chunks.put((asyncio.get_running_loop().time(), data))


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a TCP reset."""
    raw: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
