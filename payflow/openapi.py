"""The OpenAPI document as it is served: made once per process, for making it takes a while."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from functools import cache

from django.utils.http import quote_etag
from drf_spectacular.generators import SchemaGenerator

# A new version is seen after so long, without asking for it at each visit.
MAX_AGE_SECONDS = 300
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Document:
    """The document and what names its content."""

    body: bytes
    etag: str


def document() -> Document:
    """Return the document of the code that runs."""
    # Its generator cannot be at work in two threads at once.
    with _one_at_a_time:
        return _document()


@cache
def _document() -> Document:
    schema = SchemaGenerator().get_schema(request=None, public=True)
    body = json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode()
    return Document(body, quote_etag(hashlib.sha256(body).hexdigest()))
