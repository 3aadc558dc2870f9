"""The front under granian, over real connections: what the server and the front must do together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from payflow.stack.embedded import free_port
from payflow.stack.paths import ROOT

SECONDS_MAX = 60.0
LEFT = b'payflow_web_refused_total{reason="client_left"} 1.0'
POST = "POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Server:
    """granian with one worker; `folder` says what is held and when to release it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = folder / "metrics"
        self.port = free_port()
        command = [
            sys.executable, "-m", "granian", "--interface", "asgi", "--port", str(self.port),
            "--workers", "1", "--backpressure", "4096", "--http", "1", "--no-ws",
            "tests.payflow.front.served:application",
        ]  # fmt: skip
        env = {**os.environ, "TEST_FRONT_FOLDER": str(folder), "PROMETHEUS_MULTIPROC_DIR": str(self.metrics)}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None
        try:
            return self.ask("GET", "/health/live").status == 200
        except OSError:
            return False

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=SECONDS_MAX)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> HTTPResponse:
        with closing(self.connect()) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, named)
            answer = connection.getresponse()
            answer.content = answer.read()  # type: ignore[attr-defined]
            return answer

    def send(self, raw: str) -> socket.socket:
        """Send bytes on a connection of their own, and leave it open."""
        connection = socket.create_connection(("127.0.0.1", self.port), SECONDS_MAX)
        connection.sendall(raw.encode())
        return connection

    def speak(self, raw: str) -> str:
        """Send bytes; return what comes until the server closes."""
        with self.send(raw) as connection, connection.makefile("rb") as answer:
            return answer.read().decode()

    def hold(self, name: str) -> socket.socket:
        """Have a request begun that is held; without a free thread it waits."""
        return self.send(f"GET /hold/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    def has_begun(self, name: str) -> bool:
        return (self.folder / f"begun-{name}").exists()

    def has_waiting(self, count: int) -> bool:
        waiting = f'payflow_web_waiting{{lane="api"}} {count}.0'
        return waiting.encode() in self.ask("GET", "/metrics").content  # type: ignore[attr-defined]

    def release(self) -> None:
        (self.folder / "release").touch()

    def stop(self) -> None:
        self.release()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SECONDS_MAX) == 0


def eventually(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("front"))
    yield running
    running.stop()


def test_the_application_sees_what_was_sent(server: Server) -> None:
    raw = (
        "POST /seen?a=%2F HTTP/1.1\r\nHost: pay.example\r\nX-Forwarded-For: 1.1.1.1\r\n"
        "X_Forwarded_For: 2.2.2.2\r\nX-Forwarded-For: 3.3.3.3\r\n"
        "Content-Length: 4\r\nConnection: close\r\n\r\nbody"
    )
    head, _, body = server.speak(raw).partition("\r\n\r\n")
    seen = json.loads(body)
    assert head.startswith("HTTP/1.1 200 ")
    assert (seen["PATH_INFO"], seen["QUERY_STRING"], seen["RAW_URI"]) == ("/seen", "a=%2F", "/seen?a=%2F")
    assert (seen["HTTP_X_FORWARDED_FOR"], seen["REMOTE_ADDR"]) == ("1.1.1.1,3.3.3.3", "127.0.0.1")
    assert (seen["HTTP_HOST"], seen["CONTENT_LENGTH"], seen["body"]) == ("pay.example", "4", "body")
    assert json.loads(server.ask("GET", "/%73een").content)["RAW_URI"] == "/%73een"  # type: ignore[attr-defined]


def test_bodies_that_cannot_be_read_are_refused_as_before(server: Server) -> None:
    head = f"{POST}Connection: close\r\n"
    chunked = server.speak(f"{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n")
    assert (chunked.split()[1], "length_required" in chunked) == ("411", True)
    # Refused by its length alone: the body is never sent.
    long = server.speak(f"{head}Content-Length: 9999999\r\n\r\n")
    assert (long.split()[1], "payload_too_large" in long) == ("413", True)
    for length in ("2\r\nContent-Length: 3", "-1", "x"):
        assert server.speak(f"{head}Content-Length: {length}\r\n\r\n{{}}").split()[1] == "400"
    both = server.speak(f"{head}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert both.split()[1] in ("400", "411")


def test_a_connection_serves_one_request_after_another(server: Server) -> None:
    with closing(server.connect()) as connection:
        for path, status in (("/health/live", 200), ("/nothing", 404), ("/health/live", 200)):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
            assert answer.getheader("Server") == "PayFlow"
        connection.request("HEAD", "/nothing")
        answer = connection.getresponse()
        assert (answer.read(), answer.status, int(answer.getheader("Content-Length", "0")) > 0) == (
            b"",
            404,
            True,
        )


def test_a_client_may_wait_to_be_asked_for_its_body(server: Server) -> None:
    head = "POST /seen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
    with server.send(f"{head}Connection: close\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        with connection.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 200 ")


def test_sixteen_half_sent_bodies_stop_nobody(server: Server) -> None:
    half = f"{POST}Content-Length: 20\r\n\r\n{{"
    with ExitStack() as cleanup:
        sent = [cleanup.enter_context(server.send(half)) for _ in range(16)]
        assert server.ask("GET", "/nothing").status == 404
        for connection in sent:
            answer = cleanup.enter_context(connection.makefile("rb")).read()
            assert (answer.split()[1], b"request_timeout" in answer) == (b"408", True)


def test_a_crowd_is_refused_at_once_while_probes_answer(server: Server) -> None:
    with ExitStack() as cleanup:
        cleanup.enter_context(server.hold("1"))
        eventually(lambda: server.has_begun("1"))
        waiting = [cleanup.enter_context(server.hold(name)) for name in ("2", "3")]
        eventually(lambda: server.has_waiting(2))
        refused = server.ask("GET", "/nothing")
        assert json.loads(refused.content)["code"] == "overloaded"  # type: ignore[attr-defined]
        for path in ("/health/live", "/health/ready", "/health", "/metrics"):
            assert server.ask("GET", path).status == 200
        # Its client leaves, so it is never begun, and another may wait in its place.
        waiting[0].close()
        eventually(lambda: LEFT in server.ask("GET", "/metrics").content)  # type: ignore[attr-defined]
        fourth = cleanup.enter_context(server.hold("4"))
        eventually(lambda: server.has_waiting(2))
        server.release()
        with fourth.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 200")
        assert server.has_begun("3")
        assert not server.has_begun("2")


def test_told_to_stop_it_ends_what_it_has_begun(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with server.hold("1") as connection:
        eventually(lambda: server.has_begun("1"))
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: not _listens(server.port))
        server.release()
        with connection.makefile("rb") as answer:
            assert answer.read().endswith(b"held")
    assert server.process.wait(SECONDS_MAX) == 0


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_metrics_without_their_folder_are_an_error_and_the_other_answers_go_on(server: Server) -> None:
    assert server.ask("GET", "/metrics").status == 200
    aside = server.metrics.rename(server.folder / "aside")
    server.metrics.write_text("no folder any more")
    try:
        eventually(lambda: server.ask("GET", "/metrics").status == 500)
        assert server.ask("GET", "/health/live").status == 200
        assert server.ask("GET", "/wallets").status == 401
    finally:
        server.metrics.unlink()
        aside.rename(server.metrics)
    eventually(lambda: server.ask("GET", "/metrics").status == 200)
