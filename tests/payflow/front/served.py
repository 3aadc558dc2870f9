"""What granian serves in the tests of the server: Django behind the front, and a few addresses of our own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from payflow import wsgi
from payflow.front.front import Front, Shape

FOLDER = Path(os.environ.get("TEST_FRONT_FOLDER", "."))


def _application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/seen":
        seen = {name: value for name, value in environ.items() if isinstance(value, str)}
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({**seen, "body": environ["wsgi.input"].read().decode()}).encode()]
    if path.startswith("/hold/"):
        (FOLDER / f"begun-{path[6:]}").touch()
        while not (FOLDER / "release").exists():
            time.sleep(0.01)
        start_response("200 OK", [])
        return [b"held"]
    return wsgi.application(environ, start_response)


application = Front(
    _application,
    Shape(threads=1, waiting_max=2, per_caller_max=2, wait_seconds_max=60.0, body_seconds_max=1.0),
)
