"""The secrets that sign deliveries, in the form of the Standard Webhooks specification: `whsec_` + base64.

What must stay true: MongoDB holds a secret only sealed (Fernet: AES-128-CBC with HMAC-SHA-256) by a key that
is in the settings and nowhere else; a secret is shown in the answer that creates it and never again, and no
log line, repr or page of the admin holds one.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets as random
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from webhooks.errors import InvalidSecret, SealBroken

PREFIX = "whsec_"
NEW_BYTES = 32
BYTES_MIN, BYTES_MAX = 24, 64
# The newest, and those before it that still sign. A rotation beyond that ends the oldest early: one that
# follows a leak must never be refused.
SECRETS_MAX = 3
# As many characters as the longest secret has.
TEXT_LENGTH_MAX = len(PREFIX) + (BYTES_MAX + 2) // 3 * 4
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}", re.ASCII)


def new_secret() -> str:
    """Return a new secret of 32 random bytes."""
    return PREFIX + base64.b64encode(random.token_bytes(NEW_BYTES)).decode("ascii")


def check_secret(text: str) -> str:
    """Return a secret that a client has chosen. Raises InvalidSecret, which does not repeat it."""
    encoded = text.removeprefix(PREFIX)
    if encoded == text:
        raise InvalidSecret(f"A secret begins with {PREFIX}.")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    # Libraries differ in how they read spare bits and padding: only one spelling of each key is taken.
    if not _BASE64.fullmatch(encoded) or base64.b64encode(key).decode("ascii") != encoded:
        raise InvalidSecret(f"After {PREFIX} comes standard base64 with its padding (RFC 4648, section 4).")
    if not BYTES_MIN <= len(key) <= BYTES_MAX:
        raise InvalidSecret(f"A secret holds {BYTES_MIN} to {BYTES_MAX} bytes; this one holds {len(key)}.")
    return text


def sealed(secret: str, *, now: datetime) -> dict[str, Any]:
    """Return a secret as a subscription keeps it; the newest one does not expire."""
    token = _fernet().encrypt(secret.encode("ascii")).decode("ascii")
    return {"sealed": token, "created_at": now}


def signing_secrets(stored: Sequence[Mapping[str, Any]], *, now: datetime) -> list[str]:
    """Return the secrets that sign at `now`, the newest first. Raises SealBroken.

    `stored` is a subscription's `secrets`.
    """
    return [_open(each["sealed"]) for each in stored if not has_expired(each, now=now)]


def has_expired(stored: Mapping[str, Any], *, now: datetime) -> bool:
    """Say whether a stored secret signs no more."""
    expires_at = stored.get("expires_at")
    return expires_at is not None and expires_at <= now


def resealed(stored: Sequence[Mapping[str, Any]], *, now: datetime) -> list[dict[str, Any]]:
    """Return a subscription's unexpired secrets, sealed by the first key. Raises SealBroken."""
    return [{**each, "sealed": _rotate(each["sealed"])} for each in stored if not has_expired(each, now=now)]


def is_sealed_by_first_key(token: str) -> bool:
    """Say whether the key that now seals has sealed this."""
    try:
        Fernet(settings.WEBHOOK_SECRET_KEYS[0]).decrypt(token)
    except InvalidToken:
        return False
    return True


def _open(token: str) -> str:
    try:
        return _fernet().decrypt(token).decode("ascii")
    except InvalidToken:
        raise SealBroken("A webhook secret cannot be opened; is a key missing?") from None


def _rotate(token: str) -> str:
    try:
        return _fernet().rotate(token).decode("ascii")
    except InvalidToken:
        raise SealBroken("A webhook secret cannot be opened; is a key missing?") from None


def _fernet() -> MultiFernet:
    return _fernet_of(tuple(settings.WEBHOOK_SECRET_KEYS))


@lru_cache(maxsize=4)
def _fernet_of(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])
