"""Seals: a MAC (HMAC-SHA-256, RFC 2104) over what the audit remembers; its key is made of DJANGO_SECRET_KEY.

What must stay true: who can write to the database but does not know the key can delete what is sealed, but
never change it unseen. Each seal names its key, so that a key that was changed is not taken for a forgery:
the old one goes into DJANGO_SECRET_KEY_FALLBACKS until everything carries a new seal.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.utils.crypto import salted_hmac

_SALT = "payflow.ledger.audit"


def seal(values: Sequence[str | int]) -> dict[str, str]:
    """Return the seal over some values, as it is stored beside them."""
    return {"key_id": _key_id(settings.SECRET_KEY), "mac": _mac(values, settings.SECRET_KEY)}


def fits(stored: Mapping[str, Any], values: Sequence[str | int]) -> bool:
    """Say whether the seal in a stored document is ours and made over these values."""
    macs = [_mac(values, secret) for secret in _secrets() if _key_id(secret) == stored.get("key_id")]
    return any(hmac.compare_digest(mac, str(stored.get("mac"))) for mac in macs)


def is_known(stored: Mapping[str, Any]) -> bool:
    """Say whether a seal names a key that is known here."""
    return stored.get("key_id") in {_key_id(secret) for secret in _secrets()}


def is_old(stored: Mapping[str, Any]) -> bool:
    """Say whether a seal names another key than the one in use."""
    return bool(stored.get("key_id") != _key_id(settings.SECRET_KEY))


def _secrets() -> list[str]:
    return [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]


@lru_cache(maxsize=16)
def _key_id(secret: str) -> str:
    return salted_hmac(f"{_SALT}.key", "", secret, algorithm="sha256").hexdigest()[:16]


def _mac(values: Sequence[str | int], secret: str) -> str:
    canonical = json.dumps(list(values), separators=(",", ":"))
    return salted_hmac(_SALT, canonical, secret, algorithm="sha256").hexdigest()
