"""Logs: one JSON object a line on stderr, with the correlation id in each.

What must stay true: no request body, header or setting is ever written here; only what a call names.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from payflow import clock, correlation

# What is never shown need not be found out: a quarter of the cost of a line (Python's logging HOWTO,
# "Optimization").
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "correlation_id", "data"}


class CorrelationFilter(logging.Filter):
    """Adds the current correlation id to each record that brings none of its own.

    A task works on rows of many requests: a line about one row brings the id that the row was stored with.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        if not hasattr(record, "correlation_id"):
            record.correlation_id = correlation.current()
        return True


class JsonFormatter(logging.Formatter):
    """Formats a record, with whatever the call passed in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        line = {
            "at": clock.rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "correlation_id": getattr(record, "correlation_id", ""),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode({k: v for k, v in line.items() if v != ""})


_encode = json.JSONEncoder(default=str).encode
