"""A receiver's response, and whether its connection may carry another request.

`http.client` reads past one interim status only (100), reads numbers as Python does, and drops what it has
buffered behind a body. A response taken for that to a later request would mark a delivery as DELIVERED that
was not.

Invariants:
- Every 1xx but 101 is read past (RFC 9110, 15.2), up to INTERIM_MAX; the caller's deadline bounds the time.
- A connection is reused only after a response of HTTP/1.1 whose end both sides must see at the same byte, and
  behind which nothing has come.
"""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import suppress
from http import HTTPStatus
from http.client import BadStatusLine, HTTPException, HTTPResponse, RemoteDisconnected
from typing import Any

INTERIM_MAX = 20
_INTERIM_HEADERS_MAX = 100
_LINE_BYTES_MAX = 65_536
_STATUS_LINE = re.compile(r"(HTTP/1\.[01]) ([1-9][0-9]{2})(?: ([^\r\n]*))?\r?\n", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,15}", re.ASCII)
_WITHOUT_BODY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class ReceiverResponse(HTTPResponse):
    """Reads one response; `may_reuse_connection` holds once its body has been read to the end."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._connection = sock
        self._nothing_behind: bool | None = None

    def _read_status(self) -> tuple[str, int, str]:
        """Return the status line of the final response. Raises HTTPException."""
        for _ in range(INTERIM_MAX + 1):
            version, status, reason = self._read_status_line()
            if status >= HTTPStatus.OK or status == HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            self._skip_headers()
        raise HTTPException("too many interim responses")

    def _read_status_line(self) -> tuple[str, int, str]:
        line = self.fp.readline(_LINE_BYTES_MAX + 1).decode("iso-8859-1")
        if not line:
            raise RemoteDisconnected("the connection was closed without a response")
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise BadStatusLine(line[:80])
        return match[1], int(match[2]), match[3] or ""

    def _skip_headers(self) -> None:
        for _ in range(_INTERIM_HEADERS_MAX):
            line = self.fp.readline(_LINE_BYTES_MAX + 1)
            if not line or len(line) > _LINE_BYTES_MAX:
                raise HTTPException("an interim response broke off or is too long")
            if line in (b"\r\n", b"\n"):
                return
        raise HTTPException("an interim response has too many headers")

    def may_reuse_connection(self) -> bool:
        """Say whether the response ended where both sides must see its end, with nothing behind it."""
        if self._nothing_behind is None:
            self._nothing_behind = self._look_behind()
        return self._nothing_behind and self._has_certain_end()

    def _has_certain_end(self) -> bool:
        """Say whether the headers allow one reading: no chunks, one plain Content-Length, no odd line."""
        headers = self.headers
        if self.version != 11 or self.will_close or headers.defects or headers.get_payload():
            return False
        if "Transfer-Encoding" in headers or "Upgrade" in headers:
            return False
        lengths = headers.get_all("Content-Length", [])
        if self.status in _WITHOUT_BODY:
            return lengths in ([], ["0"])
        return len(lengths) == 1 and _LENGTH.fullmatch(lengths[0]) is not None

    def _close_conn(self) -> None:  # what http.client calls at the end of a body
        if self._nothing_behind is None:
            self._nothing_behind = self._look_behind()
        super()._close_conn()  # type: ignore[misc]

    def _look_behind(self) -> bool:
        """Say whether neither the buffer, nor TLS, nor the socket holds another byte; never waits."""
        if self.fp is None:
            return False
        timeout = None
        try:
            timeout = self._connection.gettimeout()
            self._connection.settimeout(0)
            return not self.fp.peek(1)
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
            return True
        except (OSError, ValueError):
            return False
        finally:
            with suppress(OSError):
                self._connection.settimeout(timeout)
