"""The load test is honest: against a dead server, a refusing one or none at all it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from uuid import uuid4

import pytest
from django.conf import settings
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

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


def register(_: Request) -> Response:
    body = {"access": "a", "refresh": "r", "user": {"id": uuid4().hex}}
    return Response(json.dumps(body), content_type="application/json")


@pytest.fixture
def failing(httpserver: HTTPServer) -> HTTPServer:
    """A server that takes everything, and whose transfers end FAILED."""
    failed = {"id": "txn_1", "status": "FAILED", "failure": {"code": "wallet_closed"}}
    httpserver.expect_request("/auth/register").respond_with_handler(register)
    for path, body in (
        ("/auth/login", {"access": "a", "refresh": "r"}), ("/auth/logout", {}),
        ("/wallets/me/deposit", {}), ("/transactions", failed),
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
