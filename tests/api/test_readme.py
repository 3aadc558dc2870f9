"""The transfer by hand in README.md is what a newcomer copies: it works, and works again on the same data."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from django.conf import settings

from payflow.wsgi import application

README = (Path(settings.BASE_DIR) / "README.md").read_text()
SECONDS_MAX = 60


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with make_server("127.0.0.1", 0, application, Server, Quiet) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"localhost:{server.server_port}"
        server.shutdown()


def commands() -> str:
    """Return the page's commands as a script: what follows a `$`, with its continued lines."""
    (block,) = re.findall(r"```\n(\$ ALICE=.*?)```", README, re.DOTALL)
    return "\n".join(re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE))


@pytest.mark.usefixtures("saga_worker")
def test_the_transfer_by_hand_works_twice(address: str) -> None:
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands().replace("localhost:8000", address)],
            capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "201 Created" in done.stdout
        assert json.loads(done.stdout.splitlines()[-1])["amount"] == "25.50"
        # The emails are made from the second.
        time.sleep(1.1)
