"""The load test is honest: against a dead server, a refusing one or none at all it fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from django.conf import settings
from pytest_httpserver import HTTPServer

from payflow.stack.embedded import free_port

pytestmark = pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed (make bench)")


def run_locust(host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the locustfile as a load tester does, shortly, with one user."""
    command = [sys.executable, "-m", "locust", "--headless", "--users", "1", "--run-time", "4s"]
    return subprocess.run(
        [*command, "--host", host, "--only-summary", *arguments],
        cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_against_a_dead_server_everything_fails() -> None:
    done = run_locust(f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "100.00%" in done.stdout + done.stderr


def test_without_any_request_it_fails() -> None:
    done = run_locust(f"http://127.0.0.1:{free_port()}", "--users", "0")
    assert done.returncode != 0


@pytest.fixture
def failing(httpserver: HTTPServer) -> Iterator[HTTPServer]:
    """A server that takes everything, and whose transfers end FAILED."""
    signed_in = {"access": "a", "refresh": "r", "user": {"id": "u1"}}
    failed = {"id": "txn_1", "status": "FAILED", "failure": {"code": "wallet_closed"}}
    for path, body in (
        ("/auth/register", signed_in), ("/auth/login", signed_in), ("/auth/logout", {}),
        ("/wallets/me/deposit", {}), ("/wallets/me", {}), ("/transactions", failed),
        ("/wallets/me/history", {"results": [], "next": None}),
    ):  # fmt: skip
        httpserver.expect_request(path).respond_with_json(body)
    return httpserver


def test_a_transfer_that_fails_is_a_failure(failing: HTTPServer) -> None:
    done = run_locust(
        failing.url_for("/").rstrip("/"), "--users", "2", "--spawn-rate", "10", "--tags", "write"
    )
    assert done.returncode == 1
    assert "wallet_closed" in done.stdout + done.stderr


def test_where_all_is_well_it_succeeds(failing: HTTPServer) -> None:
    done = run_locust(failing.url_for("/").rstrip("/"), "--tags", "session")
    assert done.returncode == 0, done.stdout + done.stderr
