"""MACs of the ledger: only a process that has LEDGER_KEYS can have written an entry or the audit's state.

MongoDB never has these keys. The first one makes MACs, all of them verify.

Invariants:
- An entry's MAC is made over its hash, and the hash covers everything else in the entry: a MAC proves neither
  another wallet or sequence nor other content.
- Entries and the audit's state have keys of their own, derived from the same ledger key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings

from payflow.crypto.mac_keys import Mac, MacKeyring

ENTRY = "payflow ledger entry"
AUDIT = "payflow ledger audit"

Value = str | int | None


def ledger_keys() -> MacKeyring:
    """Return the keys of this installation."""
    keyring: MacKeyring = settings.LEDGER_KEYS
    return keyring


def entry_mac(entry_hash: str, keys: MacKeyring) -> Mac:
    """Return the MAC of an entry; it is stored beside the hash."""
    return keys.make(entry_hash.encode(), purpose=ENTRY)


def entry_mac_fault(entry: Mapping[str, Any], keys: MacKeyring) -> str:
    """Return why the MAC of a stored entry does not prove its hash, or an empty string when it does."""
    return keys.find_fault(
        entry["hash"].encode("utf-8", "replace"),
        key_id=entry.get("key_id"),
        mac=entry.get("mac"),
        purpose=ENTRY,
    )


def audit_mac(values: Sequence[Value]) -> dict[str, str]:
    """Return `key_id` and `mac` over values that the audit keeps, as they are stored beside them.

    The first value says what the others are, so that a document never passes for one of another kind.
    """
    return ledger_keys().make(_encode(values), purpose=AUDIT)._asdict()


def audit_mac_fault(stored: Mapping[str, Any], values: Sequence[Value]) -> str:
    """Return why the MAC in a stored document does not prove these values, or an empty string."""
    return ledger_keys().find_fault(
        _encode(values), key_id=stored.get("key_id"), mac=stored.get("mac"), purpose=AUDIT
    )


def is_known(stored: Mapping[str, Any]) -> bool:
    """Say whether the MAC in a stored document names a key that is known here."""
    return ledger_keys().is_known(stored.get("key_id"))


def is_current(stored: Mapping[str, Any]) -> bool:
    """Say whether the MAC in a stored document names the key that makes MACs now."""
    return ledger_keys().is_first(stored.get("key_id"))


def _encode(values: Sequence[Value]) -> bytes:
    return json.dumps(list(values), separators=(",", ":")).encode()
