"""Stored documents that hold what PayFlow never wrote: the API shows none of it as if it were good.

Invariants:
- A representation is made only of a document that passed `require`. A list leaves the others out; an endpoint
  that is about one document answers `stored_data_invalid`.
- Each is counted, and logged once per process with its id and what is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from payflow import metrics
from payflow.errors import Refused
from payflow.money import EXPONENTS, INT64_MAX
from payflow.terminal import ascii_only

logger = logging.getLogger(__name__)
Check = Callable[[Any], bool]
Row = TypeVar("Row")
Shown = TypeVar("Shown")
ID_LENGTH_MAX = 100
LOGGED_MAX = 10_000
"""So many documents a process remembers as logged; then it begins again."""
_logged: set[tuple[str, str, str]] = set()


class StoredDataInvalid(Refused):
    """A stored document holds a value that PayFlow cannot show. Staff find its id in the log."""

    code = "stored_data_invalid"
    status = 500
    title = "Stored data invalid"
    advice = "Ask for help and name the `correlation_id`: repeating the request does not help."
    detail = "This record is damaged and cannot be shown. It has been logged."


def require(collection: str, document: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Raise StoredDataInvalid, and log and count it, unless every field of a stored document is good."""
    for field, is_good in checks.items():
        if not is_good(document.get(field)):
            raise invalid(collection, document.get("_id"), field)


def invalid(collection: str, document_id: Any, fault: str) -> StoredDataInvalid:
    """Log and count a stored document that cannot be shown; return the error to raise."""
    metrics.STORED_DATA_INVALID.labels(collection).inc()
    seen = (collection, ascii_only(str(document_id))[:ID_LENGTH_MAX], fault)
    if seen not in _logged:
        if len(_logged) >= LOGGED_MAX:
            _logged.clear()
        _logged.add(seen)
        extra = {"collection": collection, "document_id": seen[1], "fault": fault}
        logger.error("stored document cannot be shown", extra=extra)
    return StoredDataInvalid()


def represent_all(rows: Iterable[Row], represent: Callable[[Row], Shown]) -> list[Shown]:
    """Return the representations of those rows that can be shown."""
    shown = []
    for row in rows:
        with suppress(StoredDataInvalid):
            shown.append(represent(row))
    return shown


# --- Checks -----------------------------------------------------------------------------------------------


def is_text(value: Any) -> bool:
    """Say whether it is text."""
    return isinstance(value, str)


def is_time(value: Any) -> bool:
    """Say whether it is a time of the years 1 to 9999."""
    return isinstance(value, datetime)


def is_count(value: Any) -> bool:
    """Say whether it is a whole number from 0 to the largest int64."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INT64_MAX


def is_currency(value: Any) -> bool:
    """Say whether it is the code of a currency that PayFlow knows."""
    return isinstance(value, str) and value in EXPONENTS


def one_of(*values: str) -> Check:
    """Return the check for one of these words."""
    return lambda value: isinstance(value, str) and value in values


def optional(check: Check) -> Check:
    """Return the check for the same, or nothing."""
    return lambda value: value is None or check(value)
