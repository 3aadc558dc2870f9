"""Password hashes: Argon2id at the OWASP minimum, and never more memory at once than this process has.

What must stay true: a burst of logins costs at most `HASHES_AT_ONCE_MAX * MEMORY_KIB` of memory, however
many threads the web server runs; a password typed on another keyboard (composed or decomposed accents)
is the same password.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from django.contrib.auth.hashers import Argon2PasswordHasher

from payflow.errors import Transient

# OWASP Password Storage Cheat Sheet: m=19456 (19 MiB), t=2, p=1.
MEMORY_KIB = 19_456
HASHES_AT_ONCE_MAX = 4
WAIT_SECONDS_MAX = 10.0

_slots = threading.BoundedSemaphore(HASHES_AT_ONCE_MAX)


class BoundedArgon2Hasher(Argon2PasswordHasher):
    """Argon2id with a bound on how many hashes are computed at once."""

    time_cost = 2
    memory_cost = MEMORY_KIB
    parallelism = 1

    def encode(self, password: str, salt: str) -> str:
        """Return the hash of `password`. Raises Transient when too many others wait."""
        with _slot():
            return super().encode(normalised(password), salt)

    def verify(self, password: str, encoded: str) -> bool:
        """Return whether `encoded` is a hash of `password`. Raises Transient when too many others wait."""
        with _slot():
            return super().verify(normalised(password), encoded)


def normalised(password: str) -> str:
    """Return the one form in which a password is hashed (Unicode NFC)."""
    return unicodedata.normalize("NFC", password)


@contextmanager
def _slot() -> Iterator[None]:
    if not _slots.acquire(timeout=WAIT_SECONDS_MAX):
        raise Transient("Too many people are signing in at this moment. Try again shortly.")
    try:
        yield
    finally:
        _slots.release()
