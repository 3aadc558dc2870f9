"""Receivers that play byte scripts: no response is ever taken for that to another request."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from django.conf import LazySettings

from tests.webhooks import receivers
from tests.webhooks.receivers import OK, receiving
from tests.webhooks.test_transport import trusting_nobody
from webhooks import responses
from webhooks.transport import Line

__all__ = ["trusting_nobody"]
FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno"
HEAD = b"HTTP/1.1 200 OK\r\n"
INTERIM = {
    "102": b"HTTP/1.1 102 Processing\r\n\r\n",
    "103": b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nX: y\r\n\r\n",
    "100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "199": b"HTTP/1.1 199 Whatever\nA: b\n\n",
    "some": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
}


@pytest.fixture(autouse=True)
def _patient(settings: LazySettings) -> None:
    settings.WEBHOOK_TOTAL_SECONDS = 20.0


class Script:
    """Says `first` to the first request of all, and FAILED to each later one; counts requests."""

    def __init__(self, *first: bytes) -> None:
        self.first, self.requests, self.pause = first, 0, threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        while receivers.read_request(connection):
            self.requests += 1
            if self.requests > 1:
                connection.sendall(FAILED)
                continue
            for part in self.first:
                connection.sendall(part)
                # Longer than it takes to read what was sent so far, and to go on wrongly.
                self.pause.wait(0.25 if part is not self.first[-1] else 0)


def statuses(script: Script, count: int = 2) -> tuple[list[int | None], int]:
    """Return what each attempt was answered, and over how many connections."""
    with receiving(script) as receiver, Line(receiver.url) as line:
        return [line.post(b"{}", {}).status_code for _ in range(count)], receiver.connections


@pytest.mark.parametrize("kind", INTERIM)
@pytest.mark.parametrize("is_apart", [False, True])
def test_an_interim_response_is_not_the_answer(kind: str, is_apart: bool) -> None:
    script = Script(INTERIM[kind], OK) if is_apart else Script(INTERIM[kind] + OK)
    assert statuses(script) == ([200, 500], 1)


def test_the_final_status_may_be_a_failure() -> None:
    assert statuses(Script(INTERIM["102"], FAILED), 1) == ([500], 1)


def test_switching_protocols_is_a_failure_and_ends_the_connection() -> None:
    script = Script(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + OK
    )
    assert statuses(script) == ([101, 500], 2)


def test_interim_responses_without_end_are_given_up() -> None:
    endless = INTERIM["102"] * (responses.INTERIM_MAX + 1)
    with receiving(Script(endless + OK)) as receiver, Line(receiver.url) as line:
        answer = line.post(b"{}", {})
        assert (answer.status_code, answer.error) == (None, "connection_closed")
        assert line.post(b"{}", {}).status_code == 500
        assert receiver.connections == 2


def test_an_interim_response_with_endless_headers_is_given_up() -> None:
    endless = b"HTTP/1.1 103 Early Hints\r\n" + b"Link: <x>\r\n" * 200 + b"\r\n"
    with receiving(Script(endless + OK)) as receiver, Line(receiver.url) as line:
        assert line.post(b"{}", {}).status_code is None
        assert line.post(b"{}", {}).status_code == 500


CLEAN = {
    "a length": OK,
    "an empty body": HEAD + b"Content-Length: 0\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "204 with a length of zero": b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "keep-alive": HEAD + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("kind", CLEAN)
def test_a_connection_is_kept_after_a_response_with_a_certain_end(kind: str) -> None:
    (_, second), connections = statuses(Script(CLEAN[kind]))
    assert (second, connections) == (500, 1)


# What some may read as one response, and some as more or less than one.
UNCERTAIN = {
    "a second response behind it": OK + OK,
    "a body longer than its length": HEAD + b"Content-Length: 2\r\n\r\nok and more",
    "a blank line behind it": OK + b"\r\n",
    "204 with a body": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    "204 with a body announced": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
    "304 with chunks": b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunks with trailers": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
    "chunks and a length": HEAD
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "two equal lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\nok",
    "a length that only Python reads": HEAD + b"Content-Length: +2\r\n\r\nok",
    "a length with an underscore": HEAD + b"Content-Length: 0_2\r\n\r\nok",
    "a header that is none": HEAD + b"Content-Length: 2\r\nno header\r\nX: y\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "its end announced": HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nok",
    "its end announced among others": HEAD + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\nok",
    "an upgrade offered": HEAD + b"Upgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("kind", UNCERTAIN)
def test_a_connection_is_closed_after_a_response_with_an_uncertain_end(kind: str) -> None:
    (first, second), connections = statuses(Script(UNCERTAIN[kind]))
    assert first == (None if kind == "two lengths" else int(UNCERTAIN[kind].split()[1]))
    assert (second, connections) == (500, 2)


@pytest.mark.parametrize("rest", [OK, b"x", b"\r\n"])
def test_what_comes_late_is_not_the_answer_to_the_next_request(rest: bytes) -> None:
    is_answered, requests = threading.Event(), []

    def converse(connection: socket.socket) -> None:
        while receivers.read_request(connection):
            requests.append(1)
            connection.sendall(OK if len(requests) == 1 else FAILED)
            if len(requests) == 1:
                is_answered.wait(60)
                connection.sendall(rest)

    with receiving(converse) as receiver, Line(receiver.url) as line:
        assert line.post(b"{}", {}).status_code == 200
        assert line._socket is not None, "nothing was wrong with it yet"
        is_answered.set()
        # Until what is late has come.
        line._socket.settimeout(60)
        assert line._socket.recv(1, socket.MSG_PEEK)
        assert line.post(b"{}", {}).status_code == 500
        assert receiver.connections == 2


def test_what_tls_has_decrypted_already_counts_as_left_behind(
    tmp_path: Path, trusting_nobody: object
) -> None:
    context = receivers.self_signed(tmp_path, "localhost")
    trusting_nobody.load_verify_locations(tmp_path / "certificate.pem")  # type: ignore[attr-defined]
    with receiving(Script(OK + OK), context) as receiver, Line(receiver.url) as line:
        assert [line.post(b"{}", {}).status_code for _ in range(2)] == [200, 500]
        assert receiver.connections == 2


@pytest.mark.parametrize(
    "status_line",
    [b"HTTP/1.1 2_0 OK", b"HTTP/1.1 +200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 0200 OK", b"HTTP/1.1 20 OK",
     b"HTTP/2 200 OK", b"HTTP/1.1 \xb2\xb2\xb2 OK",
     b"http/1.1 200 OK", b" HTTP/1.1 200 OK",
     b"HTTP/1.1 200OK"],
)  # fmt: skip
def test_a_status_line_is_read_strictly(status_line: bytes) -> None:
    assert statuses(Script(status_line + b"\r\nContent-Length: 0\r\n\r\n"), 1)[0] == [None]
