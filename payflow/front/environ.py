"""Makes a WSGI environment (PEP 3333) of an ASGI connection scope.

Invariants:
- A header whose name holds an underscore never gets in: WSGI cannot tell `X_Forwarded_For` from
  `X-Forwarded-For`, so a client could choose its address.
- `PATH_INFO` is the decoded path, `RAW_URI` the request target as it was sent.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

_ALWAYS: dict[str, Any] = {
    "SCRIPT_NAME": "",
    "wsgi.version": (1, 0),
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
}
# One value each (RFC 9110, 8.3 and 8.6); the server refuses two lengths that differ.
_SINGLE = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}


def environ_of(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the environment; `wsgi.input` is empty."""
    raw_path, query = scope["raw_path"], scope["query_string"]
    path = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
    server, client = scope["server"], scope["client"]
    environ = {
        **_ALWAYS,
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "REMOTE_ADDR": client[0],
        "REQUEST_METHOD": scope["method"],
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "RAW_URI": (raw_path + b"?" + query if query else raw_path).decode("latin-1"),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(),
    }
    for raw_name, raw_value in scope["headers"]:
        name = _SINGLE.get(raw_name)
        if name:
            environ.setdefault(name, raw_value.decode("latin-1"))
            continue
        name = _name(raw_name)
        if not name:
            continue
        value = raw_value.decode("latin-1")
        # Several lines are one list (RFC 9110, 5.3); cookies are joined by their own sign (RFC 9113, 8.2.3).
        environ[name] = f"{environ[name]}{_SIGN.get(name, ',')}{value}" if name in environ else value
    return environ


def sketch_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return what the front's own answers depend on, for a fraction of the cost."""
    sketch = {"wsgi.url_scheme": scope["scheme"]}
    for raw_name, raw_value in scope["headers"]:
        name = _SKETCHED.get(raw_name)
        if name:
            sketch[name] = raw_value.decode("latin-1")
    return sketch


_SIGN = {"HTTP_COOKIE": "; "}
_SKETCHED = {
    b"x-correlation-id": "HTTP_X_CORRELATION_ID",
    b"x-request-id": "HTTP_X_REQUEST_ID",
    b"origin": "HTTP_ORIGIN",
    b"x-forwarded-proto": "HTTP_X_FORWARDED_PROTO",
    b"content-length": "CONTENT_LENGTH",
    b"transfer-encoding": "HTTP_TRANSFER_ENCODING",
}


@lru_cache(maxsize=256)
def _name(name: bytes) -> str:
    """Return the environment's name of a header, or an empty string for one that is dropped."""
    return "" if b"_" in name else "HTTP_" + name.decode("latin-1").replace("-", "_").upper()
