"""MACs over whole documents of the audit's record (`ledger/audit_record.py`), whatever they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ledger.keys import audit_mac, audit_mac_fault
from ledger.verification import Document
from payflow import clock


def seal(kind: str, document: Document) -> dict[str, Any]:
    """Return a document with a MAC over all of it."""
    content = {name: value for name, value in document.items() if name not in ("key_id", "mac")}
    return {**content, **audit_mac([kind, _canonical(content)])}


def seal_fault(kind: str, document: Document) -> str:
    """Return why the MAC of a stored document does not prove it, or an empty string."""
    content = {name: value for name, value in document.items() if name not in ("key_id", "mac")}
    try:
        values = [kind, _canonical(content)]
    except (TypeError, ValueError):
        return "it holds what the audit never writes"
    return audit_mac_fault(document, values)


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return f"at {clock.epoch_ms(value)}"
    raise TypeError


def weight(document: Document) -> int:
    """Return what a document adds to its register's sum."""
    try:
        return int(str(document.get("mac")), 16)
    except ValueError:
        return 0
