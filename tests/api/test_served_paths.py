"""Paths over a real connection to the real server: a path with a second reading is not found."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from payflow.stack.embedded import free_port
from payflow.stack.paths import ROOT

SECONDS_MAX = 60.0


def ask(port: int, target: str) -> tuple[int, bytes]:
    """Send a request target byte for byte; return the status and the whole response."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS_MAX) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        response = b""
        while chunk := connection.recv(65_536):
            response += chunk
    return int(response.split()[1]), response


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where the application of the Procfile is served."""
    port = free_port()
    command = [
        sys.executable, "-m", "granian", "--interface", "asgi", "--port", str(port), "--workers", "1",
        "--backpressure", "4096", "--http", "1", "--no-ws", "payflow.asgi:application",
    ]  # fmt: skip
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "payflow.settings"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + SECONDS_MAX
            while not _is_up(port):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield port
        finally:
            server.terminate()


def _is_up(port: int) -> bool:
    try:
        return ask(port, "/health/live")[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    "target",
    ["/admin%2Flogin%2F", "/admin%2flogin/", "/%61dmin/login/", "/admin//login/", "//admin/login/",
    "/x/../admin/login/",
     "/admin/./login/", "/admin%5Clogin/", "/wallets%2Fme", "/health%2Flive", "/health/live%00",
     "/admin%252Flogin"],
)  # fmt: skip
def test_a_path_with_a_second_reading_is_not_found(port: int, target: str) -> None:
    status, response = ask(port, target)
    assert status == 404
    assert b"application/problem+json" in response


@pytest.mark.parametrize(
    ("target", "status"),
    [("/health/live", 200), ("/health/live?x=%2F..", 200), ("/admin/login/", 200), ("/wallets/me", 401)],
)
def test_a_plain_path_is_found(port: int, target: str, status: int) -> None:
    assert ask(port, target)[0] == status
