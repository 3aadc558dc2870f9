"""The drill's proxy: it passes everything on, and each fault is what it says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from payflow.stack.drill.proxy import Fault, Proxy
from payflow.stack.embedded import free_port

PATIENCE_SECONDS = 30.0
IMPATIENCE_SECONDS = 0.3
MANY_BYTES = 3_000_000


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says everything again."""

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while data := connection.recv(65_536):
                connection.sendall(data)

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", echo)) as made:
        yield made


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as made:
        made.sendall(b"hello")
        assert made.recv(100) == b"hello"
        yield made


def connect(proxy: Proxy, seconds: float = PATIENCE_SECONDS) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=seconds)


def receive(client: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while sum(map(len, parts)) < size:
        parts.append(client.recv(65_536))
        assert parts[-1], "the connection ended"
    return b"".join(parts)


def test_passes_everything_on_in_order(client: socket.socket) -> None:
    sent = bytes(range(251)) * (MANY_BYTES // 251)
    writing = threading.Thread(target=client.sendall, args=(sent,))
    writing.start()
    assert receive(client, len(sent)) == sent
    writing.join()


def test_what_a_silent_server_held_back_comes_once_it_speaks_again(
    client: socket.socket, proxy: Proxy
) -> None:
    proxy.set(Fault(is_silent=True))
    new = connect(proxy)
    for each in (client, new):
        each.sendall(b"anyone there?")
        each.settimeout(IMPATIENCE_SECONDS)
        with pytest.raises(TimeoutError):
            each.recv(100)
        each.settimeout(PATIENCE_SECONDS)
    proxy.clear()
    for each in (client, new):
        assert receive(each, 13) == b"anyone there?"
    new.close()


def test_a_slow_server_answers_after_the_delay_and_without_it_at_once(
    client: socket.socket, proxy: Proxy
) -> None:
    proxy.set(Fault(delay_seconds=3_600.0))
    client.sendall(b"slow")
    client.settimeout(IMPATIENCE_SECONDS)
    with pytest.raises(TimeoutError):
        client.recv(100)
    client.settimeout(PATIENCE_SECONDS)
    proxy.set(Fault(delay_seconds=0.2))
    assert receive(client, 4) == b"slow"
    proxy.set(Fault(bytes_per_second=10.0 * MANY_BYTES))
    client.sendall(b"x" * 1_000)
    assert receive(client, 1_000) == b"x" * 1_000


def ask(proxy: Proxy) -> bytes:
    with connect(proxy) as client:
        client.sendall(b"hello")
        return client.recv(100)


def test_resets_what_is_open_and_what_comes(client: socket.socket, proxy: Proxy) -> None:
    proxy.set(Fault(resets=True))
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        ask(proxy)
    proxy.clear()
    assert ask(proxy) == b"hello"


def test_a_server_that_is_not_there_is_a_reset() -> None:
    with Proxy(("127.0.0.1", free_port())) as proxy, pytest.raises((ConnectionResetError, BrokenPipeError)):
        ask(proxy)


def test_ends_when_the_server_ends_a_connection(proxy: Proxy, client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b""
