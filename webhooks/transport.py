"""One POST to a receiver whom nobody trusts, with an end to everything: time, bytes, redirects, addresses.

What must stay true:
- The address that is connected to was looked up once and judged by the rules of registration
  (addresses.py): a name that has changed its mind since then leads nowhere.
- An attempt ends within its deadline, whatever the receiver does or leaves undone: the socket is then shut.
- Nothing is followed, decompressed, remembered as a cookie, or sent through a proxy of the environment.
- The status decides: the final one, behind any interim ones. Of the body only the beginning is read, and only
  for the log.
- A connection whose response was not read to a certain end, or behind which something came, is closed.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from threading import BoundedSemaphore, Timer
from types import TracebackType
from typing import Any

import certifi
import requests
from django.conf import settings
from requests_hardened import Config, HTTPSession
from requests_hardened.ip_filter import InvalidIPAddress
from requests_hardened.ip_filter_adapter import IPFilterAdapter
from urllib3 import exceptions as urllib3_errors
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from payflow.text import printable
from webhooks import addresses
from webhooks.errors import UrlRefused
from webhooks.responses import ReceiverResponse

logger = logging.getLogger(__name__)
ANSWER_BYTES_KEPT = 1_024
# A body that ends within so much lets the connection be used again.
ANSWER_BYTES_MAX = 16_384
# A name server that never answers holds a thread for half a minute; suspects (slots.py) begin three every two
# seconds.
LOOKUPS_AT_ONCE_MAX = 64
# The word of an attempt that was not made, for want of a thread to look the host up.
NOT_MADE = "not_made"

_lookups = ThreadPoolExecutor(LOOKUPS_AT_ONCE_MAX, thread_name_prefix="webhook-delivery-lookup")
_lookups_free = BoundedSemaphore(LOOKUPS_AT_ONCE_MAX)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status, or a word that says why there is none."""

    status_code: int | None
    error: str | None
    text: str
    retry_after: str | None
    seconds: float


class RefusedAddress(requests.RequestException):
    """The host's address is not one that PayFlow sends to."""


class LookupFailed(requests.RequestException):
    """The host's name has no address, or none in time."""


class NoLookupFree(requests.RequestException):
    """All threads that look hosts up are at others."""


class Line:
    """Attempts at one endpoint, one after another, over one connection while it holds."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: HTTPSession | None = None
        self._socket: socket.socket | None = None
        self._is_new_connection = False
        self._deadline = 0.0
        self._is_late = False

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hang_up()

    def post(self, payload: bytes, headers: Mapping[str, str]) -> Answer:
        """Send one request; whatever happens is an answer. Takes WEBHOOK_TOTAL_SECONDS at most."""
        began = time.monotonic()
        self._deadline = began + settings.WEBHOOK_TOTAL_SECONDS
        self._is_late = False
        status: int | None = None
        text, retry_after, error = "", None, None
        watchdog = Timer(settings.WEBHOOK_TOTAL_SECONDS, self._cut)
        watchdog.daemon = True
        watchdog.start()
        try:
            addresses.parse_url(self._url, addresses.current_policy())
            with self._send_on_a_live_connection(payload, headers) as response:
                if self._is_late:  # what was cut off looks like the end of the headers
                    raise requests.ReadTimeout
                status, retry_after = response.status_code, response.headers.get("Retry-After")
                text = self._read(response)
        except NoLookupFree:
            error = NOT_MADE
        except UrlRefused:
            error = "refused_url"
        except (requests.RequestException, urllib3_errors.HTTPError, OSError, ValueError) as problem:
            error = "timeout" if self._is_late else word_for(problem)
        except Exception:
            # Whatever a receiver may bring about is its failure, and counted; never a task that is repeated.
            logger.exception("webhook attempt broke off", extra={"event_id": headers.get("webhook-id", "")})
            error = "internal"
        finally:
            watchdog.cancel()
        if error is not None or self._is_late:
            self._hang_up()
        return Answer(status, error, text, retry_after, time.monotonic() - began)

    def _send_on_a_live_connection(self, payload: bytes, headers: Mapping[str, str]) -> requests.Response:
        """Send; once more on a new connection where an old one turned out to have been closed."""
        was_connected = self._socket is not None
        self._is_new_connection = False
        try:
            return self._send(payload, headers)
        except (requests.ConnectionError, urllib3_errors.HTTPError) as problem:
            if not was_connected or self._is_new_connection or self._is_late:
                raise
            if word_for(problem) != "connection_closed":
                raise
        self._hang_up()
        return self._send(payload, headers)

    def _send(self, payload: bytes, headers: Mapping[str, str]) -> requests.Response:
        if self._session is None:
            self._session = _new_session(self)
        timeout = (min(settings.WEBHOOK_CONNECT_SECONDS, self.seconds_left()), self.seconds_left())
        request = {"data": payload, "headers": dict(headers), "timeout": timeout, "stream": True}
        return self._session.request("POST", self._url, **request)

    def _read(self, response: requests.Response) -> str:
        """Return the beginning of the body, as it came. One that does not end is not waited for."""
        kept = bytearray()
        count = 0
        with suppress(urllib3_errors.HTTPError, OSError, ValueError):
            while count < ANSWER_BYTES_MAX and time.monotonic() < self._deadline:
                chunk = response.raw.read1(ANSWER_BYTES_MAX - count, decode_content=False)
                if not chunk:
                    if not _may_reuse_connection(response):
                        self._hang_up()
                    return readable(bytes(kept))
                count += len(chunk)
                kept += chunk[: ANSWER_BYTES_KEPT - len(kept)]
        self._hang_up()
        return readable(bytes(kept))

    def seconds_left(self) -> float:
        """Return how long the attempt may still take, and a moment when that is nothing."""
        return max(0.001, self._deadline - time.monotonic())

    def connected(self, connection: socket.socket) -> None:
        """Keep a handle on the connection that outlives what TLS does to the socket object."""
        self._forget_socket()
        self._socket = connection.dup()
        self._is_new_connection = True
        if self._is_late:
            self._cut()

    def _cut(self) -> None:
        """End whatever the connection is at; runs in the watchdog's thread."""
        self._is_late = True
        held = self._socket
        if held is not None:
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        self._forget_socket()

    def _forget_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _may_reuse_connection(response: requests.Response) -> bool:
    original = response.raw._original_response
    return isinstance(original, ReceiverResponse) and original.may_reuse_connection()


def readable(body: bytes) -> str:
    """Return bytes of anybody's as one line of text that a log, a page or a terminal may show."""
    return printable(body.decode("utf-8", errors="replace"), "\ufffd")


def word_for(problem: BaseException) -> str:
    """Return one of a few words for what went wrong."""
    causes = list(_causes(problem))
    for kinds, word in _WORDS:
        if any(isinstance(cause, kinds) for cause in causes):
            return word
    return "connection_failed"


def _causes(problem: BaseException | None) -> Any:
    """Yield an error, and those that it wraps in the ways of requests and urllib3 (bounded)."""
    for _ in range(12):
        if problem is None:
            return
        yield problem
        inner = getattr(problem, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((each for each in problem.args if isinstance(each, BaseException)), None)
        problem = inner or problem.__cause__ or problem.__context__


# The first that fits. Order matters: a timeout is a kind of OSError, a TLS error, too.
_WORDS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((LookupFailed, socket.gaierror), "dns"),
    ((RefusedAddress, InvalidIPAddress), "refused_address"),
    ((ConnectionRefusedError,), "connection_refused"),
    ((urllib3_errors.NewConnectionError,), "connection_failed"),
    ((requests.ConnectTimeout, urllib3_errors.ConnectTimeoutError), "connect_timeout"),
    ((requests.ReadTimeout, urllib3_errors.TimeoutError, TimeoutError), "timeout"),
    ((requests.exceptions.SSLError, urllib3_errors.SSLError, ssl.SSLError), "tls"),
    ((ConnectionError, urllib3_errors.ProtocolError, urllib3_errors.IncompleteRead), "connection_closed"),
    ((ValueError, requests.exceptions.InvalidURL), "protocol"),
)


class _Session(HTTPSession):
    """A session to which no answer is a redirect: requests would read such an answer's body whole."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: there is nowhere to go on to."""


def _new_session(line: Line) -> HTTPSession:
    config = Config(
        ip_filter_enable=True,
        ip_filter_allow_loopback_ips=settings.WEBHOOK_ALLOW_LOCALHOST,
        never_redirect=True,
        default_timeout=(settings.WEBHOOK_CONNECT_SECONDS, settings.WEBHOOK_TOTAL_SECONDS),
    )
    session = _Session(config)
    session.trust_env = False
    session.headers.clear()
    session.headers.update(
        {
            "User-Agent": f"PayFlow-Webhooks/{settings.VERSION}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for prefix, is_https in (("http://", False), ("https://", True)):
        session.mount(prefix, _Adapter(line, is_https))
    return session


@cache
def tls_context() -> ssl.SSLContext:
    """Return what verifies receivers, made once: reading all authorities takes longer than a handshake."""
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    context.load_verify_locations(certifi.where())
    return context


class _Adapter(IPFilterAdapter):
    """requests-hardened's adapter, with our rules on top, a limit on the lookup, and sockets we can shut."""

    def __init__(self, line: Line, is_https: bool) -> None:
        self._line = line
        super().__init__(is_https_proto=is_https, allow_loopback=settings.WEBHOOK_ALLOW_LOCALHOST)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        line = self._line

        class Plain(HTTPConnection):
            response_class = ReceiverResponse

            def _new_conn(self) -> socket.socket:
                connection = super()._new_conn()
                line.connected(connection)
                return connection

        class Tls(HTTPSConnection):
            response_class = ReceiverResponse

            def _new_conn(self) -> socket.socket:
                connection = super()._new_conn()
                line.connected(connection)
                return connection

        plain = type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain})
        tls = type("TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": Tls})
        self.poolmanager.pool_classes_by_scheme = {"http": plain, "https": tls}

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Look the host up, within the time that is left, and judge the very address that is connected to."""
        if not _lookups_free.acquire(blocking=False):
            raise NoLookupFree
        lookup = _lookups.submit(super().build_connection_pool_key_attributes, request, verify, cert)
        lookup.add_done_callback(lambda _: _lookups_free.release())
        try:
            host, pool = lookup.result(min(settings.WEBHOOK_CONNECT_SECONDS, self._line.seconds_left()))
        except FutureTimeoutError:
            raise LookupFailed("looking the host up took too long") from None
        except (requests.ConnectionError, UnicodeError) as problem:
            raise LookupFailed("the host has no address") from problem
        if not addresses.is_address_allowed(host["host"].strip("[]"), addresses.current_policy()):
            raise RefusedAddress("the address is not public")
        if host["scheme"] == "https":
            for name in ("ca_certs", "ca_cert_dir"):
                pool.pop(name, None)
            pool |= {"cert_reqs": "CERT_REQUIRED", "ssl_context": tls_context()}
        return host, pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave a pool as it was made: every certificate is verified, with `tls_context`."""
