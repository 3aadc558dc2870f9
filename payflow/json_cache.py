"""What Django's cache and the admin's sessions are stored as in Redis: JSON.

Django's own serializer unpickles what Redis holds: a write to Redis would run code in PayFlow.
"""

from __future__ import annotations

import json
from typing import Any


class JsonSerializer:
    """The serializer of `CACHES["default"]`: values are what JSON can hold."""

    def dumps(self, value: Any) -> bytes | int:
        """Return what Redis stores. Raises TypeError for a value that JSON cannot hold."""
        # INCR needs the number itself.
        return value if type(value) is int else json.dumps(value, separators=(",", ":")).encode()

    def loads(self, data: bytes) -> Any:
        """Return the value; None, as if it were not there, for bytes that are no JSON."""
        try:
            return json.loads(data)
        except ValueError:
            return None
