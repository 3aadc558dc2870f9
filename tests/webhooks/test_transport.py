"""One POST to every kind of receiver: what is recorded of it, and that it ends in time and in bounds."""

from __future__ import annotations

import gzip
import socket
import ssl
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import LazySettings
from pytest_httpserver import HTTPServer
from urllib3.util.ssl_ import create_urllib3_context
from werkzeug import Request, Response

from payflow.stack.embedded import free_port
from tests.webhooks import receivers
from tests.webhooks.receivers import OK, answering, drip, flood, hang, hang_up, receiving
from webhooks import transport
from webhooks.transport import Answer, Line

TOTAL_SECONDS = 0.8
# Time to schedule threads on a machine that is busy with something else.
SLACK_SECONDS = 3.0


@pytest.fixture(autouse=True)
def _impatient(settings: LazySettings) -> None:
    settings.WEBHOOK_TOTAL_SECONDS = TOTAL_SECONDS
    settings.WEBHOOK_CONNECT_SECONDS = 0.5


def post(url: str, headers: dict[str, str] | None = None) -> Answer:
    with Line(url) as line:
        return line.post(b'{"id":"1"}', headers or {})


@pytest.mark.parametrize("status", [200, 201, 204, 299, 400, 404, 410, 429, 500, 503])
def test_the_status_is_told(status: int, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook", method="POST").respond_with_data("seen", status=status)
    answer = post(httpserver.url_for("/hook"))
    assert (answer.status_code, answer.error) == (status, None)
    assert answer.text == ("" if status == 204 else "seen")


def test_a_request_says_who_sends_it_and_carries_nothing_else(httpserver: HTTPServer) -> None:
    seen: list[Request] = []

    def take(request: Request) -> Response:
        seen.append(request)
        return Response("ok", headers={"Set-Cookie": "spy=1; Path=/"})

    httpserver.expect_request("/hook").respond_with_handler(take)
    with Line(httpserver.url_for("/hook")) as line:
        for _ in range(2):
            assert line.post(b"{}", {"webhook-id": "evt_1"}).status_code == 200
    for request in seen:
        assert set(dict(request.headers)) == {
            "Host", "User-Agent", "Accept", "Accept-Encoding", "Content-Type", "Content-Length", "Webhook-Id",
        }  # fmt: skip
        assert request.headers["User-Agent"].startswith("PayFlow-Webhooks/")
        assert request.headers["Accept-Encoding"] == "identity"
        assert request.headers["Content-Type"] == "application/json"


def test_one_connection_serves_many_attempts() -> None:
    with receiving(answering(OK)) as receiver, Line(receiver.url) as line:
        assert [line.post(b"{}", {}).status_code for _ in range(5)] == [200] * 5
        assert receiver.connections == 1


def test_a_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    def answer_once(connection: socket.socket) -> None:
        receivers.read_request(connection)
        connection.sendall(OK)
        # The next request is still taken, and then nothing comes.
        receivers.read_request(connection)

    with receiving(answer_once) as receiver, Line(receiver.url) as line:
        assert [line.post(b"{}", {}).status_code for _ in range(3)] == [200] * 3
        assert receiver.connections == 3


def test_no_redirect_is_followed(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook").respond_with_data(
        status=302, headers={"Location": httpserver.url_for("/elsewhere")}
    )
    httpserver.expect_request("/elsewhere").respond_with_data("you should not be here")
    assert post(httpserver.url_for("/hook")).status_code == 302
    assert [request.path for request, _ in httpserver.log] == ["/hook"]


REDIRECTED = [301, 302, 307]


def redirect(status: int, headers: bytes = b"Location: /elsewhere\r\n") -> bytes:
    return b"HTTP/1.1 %d Moved\r\n%b\r\n" % (status, headers)


@pytest.mark.parametrize("status", REDIRECTED)
def test_a_flood_behind_a_redirect_is_not_read(status: int) -> None:
    with receiving(flood(redirect(status))) as receiver:
        answer = post(receiver.url)
    assert (answer.status_code, answer.error) == (status, None)
    assert len(answer.text) == transport.ANSWER_BYTES_KEPT


@pytest.mark.parametrize("status", REDIRECTED)
def test_nothing_behind_a_redirect_is_decompressed(status: int) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    headers = b"Location: /elsewhere\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n" % len(bomb)
    tracemalloc.start()
    try:
        with receiving(answering(redirect(status, headers) + bomb)) as receiver:
            answer = post(receiver.url)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (answer.status_code, answer.error) == (status, None)
    assert peak < 10_000_000


@pytest.mark.parametrize("location", [b"http://[", b"http://a:b:c/", b"\xff\xfe", b"//", b"http://%00/"])
@pytest.mark.parametrize("status", REDIRECTED)
def test_a_redirect_to_nowhere_is_a_status_like_any_other(status: int, location: bytes) -> None:
    headers = b"Location: " + location + b"\r\nContent-Length: 2\r\n"
    with receiving(answering(redirect(status, headers) + b"no")) as receiver:
        answer = post(receiver.url)
    assert (answer.status_code, answer.error, answer.text) == (status, None, "no")


def test_what_nobody_foresaw_is_an_answer_too(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_off(*_: object) -> str:
        raise RuntimeError("nobody foresaw this")

    httpserver.expect_request("/hook").respond_with_data("ok")
    monkeypatch.setattr(Line, "_read", break_off)
    with Line(httpserver.url_for("/hook")) as line:
        answer = line.post(b"{}", {})
        assert line._session is None
    assert answer.error == "internal"
    assert "nobody foresaw this" in caplog.text


def test_no_proxy_and_no_login_of_the_environment_is_used(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login someone password s3cr3t\n")
    monkeypatch.setenv("NETRC", str(netrc))
    httpserver.expect_request("/hook").respond_with_data("ok")
    assert post(httpserver.url_for("/hook")).status_code == 200
    assert "Authorization" not in httpserver.log[0][0].headers


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
NEVER_ENDING = {
    "says nothing": (hang, None),
    "drips its status": (drip(b"", b"H"), None),
    "drips headers": (drip(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), None),
    "drips one header": (drip(b"HTTP/1.1 200 OK\r\nX-A: ", b"b"), None),
    "goes on and on being about to": (drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), None),
    "drips its body": (drip(HEAD + b"Content-Length: 99999\r\n\r\n", b"x"), 200),
    "drips its chunks": (drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), 200),
    "drips one chunk's size": (drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"), 200),
    "drips until it closes": (drip(HEAD + b"\r\n", b"x"), 200),
    "floods": (flood(HEAD + b"Content-Length: 1073741824\r\n\r\n"), 200),
    "floods without end": (flood(HEAD + b"\r\n"), 200),
}


@pytest.mark.parametrize("kind", NEVER_ENDING)
def test_every_attempt_ends(kind: str) -> None:
    converse, status = NEVER_ENDING[kind]
    with receiving(converse) as receiver:
        began = time.monotonic()
        answer = post(receiver.url)
        assert time.monotonic() - began < TOTAL_SECONDS + SLACK_SECONDS
    if status is None:
        # A flood of headers is given up before its time.
        assert (answer.status_code, answer.error in ("timeout", "connection_closed")) == (None, True)
    else:
        # The status has come: what the receiver does after it changes nothing.
        assert (answer.status_code, answer.error) == (status, None)
        assert len(answer.text) <= transport.ANSWER_BYTES_KEPT


def test_an_attempt_that_stalls_in_the_handshake_ends(settings: LazySettings) -> None:
    with receiving(lambda connection: time.sleep(60)) as receiver:
        answer = post(receiver.url.replace("http:", "https:"))
    assert (answer.status_code, answer.error) == (None, "timeout")
    assert answer.seconds < TOTAL_SECONDS + SLACK_SECONDS


def test_nothing_is_decompressed(httpserver: HTTPServer) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    httpserver.expect_request("/hook").respond_with_data(bomb, headers={"Content-Encoding": "gzip"})
    answer = post(httpserver.url_for("/hook"))
    assert (answer.status_code, answer.error) == (200, None)
    assert len(answer.text.encode()) < 4 * transport.ANSWER_BYTES_KEPT
    assert "\0" not in answer.text


def test_the_first_kilobyte_of_an_answer_is_kept(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook").respond_with_data("a" * 1_024 + "b" * 9_000)
    assert post(httpserver.url_for("/hook")).text == "a" * 1_024


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("Grüße €".encode(), "Grüße €"),
        (b"one\r\ntwo\x1b[31m", "one\ufffd\ufffdtwo\ufffd[31m"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("a\u202eb\u0000".encode(), "a\ufffdb\ufffd"),
    ],
)
def test_an_answer_is_kept_as_text_that_does_nothing(body: bytes, text: str) -> None:
    assert transport.readable(body) == text


@pytest.mark.parametrize(
    ("converse", "word"),
    [
        (hang_up, "connection_closed"),
        (answering(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "connection_closed"),
        (answering(b"HTTP/1.1 999999999 What\r\n\r\n"), "connection_closed"),
    ],
)
def test_who_does_not_speak_http_is_named(converse: receivers.Conversation, word: str) -> None:
    with receiving(converse) as receiver:
        answer = post(receiver.url)
    assert (answer.status_code, answer.error, answer.text) == (None, word, "")


def test_a_port_with_nobody_behind_it() -> None:
    assert post(f"http://127.0.0.1:{free_port()}/hook").error == "connection_refused"


def test_a_name_without_an_address() -> None:
    assert post("http://nothing.invalid.example/hook").error == "dns"


@pytest.fixture
def trusting_nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """A context of its own instead of the shared one, to which a test adds an authority."""
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    monkeypatch.setattr(transport, "tls_context", lambda: context)
    return context


def test_a_certificate_of_nobody_known_is_refused(tmp_path: Path) -> None:
    served: list[bytes] = []
    context = receivers.self_signed(tmp_path, "localhost")
    with receiving(lambda connection: served.append(receivers.read_request(connection)), context) as receiver:
        answer = post(receiver.url)
    assert (answer.status_code, answer.error, served) == (None, "tls", [])


def test_a_certificate_of_another_name_is_refused(tmp_path: Path, trusting_nobody: ssl.SSLContext) -> None:
    context = receivers.self_signed(tmp_path, "other.example")
    trusting_nobody.load_verify_locations(tmp_path / "certificate.pem")
    with receiving(answering(OK), context) as receiver:
        assert post(receiver.url).error == "tls"


def test_a_certificate_that_holds_is_taken_and_the_connection_kept(
    tmp_path: Path, trusting_nobody: ssl.SSLContext
) -> None:
    context = receivers.self_signed(tmp_path, "localhost")
    trusting_nobody.load_verify_locations(tmp_path / "certificate.pem")
    with receiving(answering(OK), context) as receiver, Line(receiver.url) as line:
        assert [line.post(b"{}", {}).status_code for _ in range(3)] == [200] * 3
        assert receiver.connections == 1


def test_the_shared_context_verifies() -> None:
    context = transport.tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats()["x509_ca"] > 50


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "0.0.0.0"],  # noqa: S104
)
def test_a_name_that_has_come_to_point_inside_is_refused(
    address: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer
) -> None:
    """As after DNS rebinding: the name was fine when it was registered."""
    settings.WEBHOOK_ALLOW_LOCALHOST = False
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def lookup(host: str, port: int, *args: object, **kwargs: object) -> list:
        return [(family, socket.SOCK_STREAM, 6, "", (address, httpserver.port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    answer = post(f"http://rebound.example.com:{httpserver.port}/hook")
    assert (answer.status_code, answer.error) == (None, "refused_address")
    assert httpserver.log == []


def test_the_name_is_looked_up_once_and_that_address_is_used(
    monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer
) -> None:
    httpserver.expect_request("/hook").respond_with_data("ok")
    lookups: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *args: object, **kwargs: object) -> list:
        lookups.append(host)
        # From the second time on the name would lead elsewhere.
        address = "127.0.0.1" if lookups.count("once.example.com") <= 1 else "10.0.0.1"
        return real(address, port, type=socket.SOCK_STREAM)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    answer = post(f"http://once.example.com:{httpserver.port}/hook")
    assert answer.status_code == 200
    assert lookups.count("once.example.com") == 1
    assert httpserver.log[0][0].headers["Host"] == f"once.example.com:{httpserver.port}"


def test_a_lookup_that_hangs_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(3))
    answer = post("http://slow.example.com/hook")
    assert answer.error == "dns"
    assert answer.seconds < 2.5


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cr3t@localhost/hook",
        "ftp://localhost/hook",
        "http://0x7f000001/",
        "http://localhost\\@x/",
    ],
)
def test_a_url_that_would_not_be_registered_is_not_sent_to(url: str) -> None:
    assert post(url).error == "refused_url"


def test_production_sends_to_no_machine_of_its_own(settings: LazySettings, httpserver: HTTPServer) -> None:
    settings.WEBHOOK_ALLOW_LOCALHOST = False
    assert post(f"http://127.0.0.1:{httpserver.port}/hook").error == "refused_address"
    assert post(f"http://localhost:{httpserver.port}/hook").error in ("refused_url", "refused_address")
    assert httpserver.log == []
