"""Encryption at rest for what lies in Redis (Fernet: AES-128-CBC with HMAC-SHA-256).

What must stay true: who can read Redis reads nothing of it, and who can write there cannot pass one value
off as another: each purpose has a key of its own, derived from DJANGO_SECRET_KEY. Values that a former key
has sealed can be read as long as it stands in DJANGO_SECRET_KEY_FALLBACKS.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


def seal(plain: bytes, *, purpose: str) -> str:
    """Encrypt for one purpose; the result is ASCII."""
    return _keys(purpose).encrypt(plain).decode("ascii")


def unseal(secret: str, *, purpose: str) -> bytes | None:
    """Decrypt what was sealed for this purpose; None for everything else."""
    try:
        return _keys(purpose).decrypt(secret)
    except (InvalidToken, ValueError):
        return None


def derive(secret_key: str, purpose: str) -> bytes:
    """Return 32 bytes that only the holder of `secret_key` can compute."""
    return hmac.digest(_master(secret_key), purpose.encode(), hashlib.sha256)


def _keys(purpose: str) -> MultiFernet:
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(derive(secret, purpose))) for secret in secrets])


@lru_cache(maxsize=16)
def _master(secret_key: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"payflow sealed").derive(secret_key.encode())
