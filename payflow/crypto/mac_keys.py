"""Keys for message authentication codes: HMAC-SHA-256 (RFC 2104), a derived key (HKDF, RFC 5869) a purpose.

Pure: no clock, database or setting. Invariants:
- A MAC that was made for one purpose does not verify for another.
- No part of a key appears in an error, a log or a repr.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from payflow.signing import UnusableKeys, from_base64url

KEY_BYTES = 32
KEYS_MAX = 100
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Mac(NamedTuple):
    """A message authentication code in hex, and the id of the key that made it."""

    key_id: str
    mac: str


@dataclass(frozen=True, slots=True)
class MacKey:
    """One key: 32 random bytes and the name under which a MAC refers to them."""

    id: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class MacKeyring:
    """Keys of different names. The first makes MACs, all of them verify. There is at least one."""

    keys: tuple[MacKey, ...]

    def make(self, content: bytes, *, purpose: str) -> Mac:
        """Return the MAC over `content`, made with the first key."""
        key = self.keys[0]
        return Mac(key.id, _mac(key.secret, purpose, content))

    def find_fault(self, content: bytes, *, key_id: object, mac: object, purpose: str) -> str:
        """Return why a stored MAC does not prove `content`, or an empty string when it does."""
        if not (isinstance(key_id, str) and isinstance(mac, str) and key_id and mac):
            return "there is no MAC"
        for key in self.keys:
            if key.id == key_id:
                made = _mac(key.secret, purpose, content)
                fits = mac.isascii() and hmac.compare_digest(made, mac)
                return "" if fits else f"the MAC does not fit (key {key_id!r})"
        return f"the MAC names the key {key_id!r}, which is not known here"

    def is_known(self, key_id: object) -> bool:
        """Say whether a key has this name."""
        return any(key.id == key_id for key in self.keys)

    def is_first(self, key_id: object) -> bool:
        """Say whether the key that makes MACs has this name."""
        return self.keys[0].id == key_id


def _mac(secret: bytes, purpose: str, content: bytes) -> str:
    made = _keyed(secret, purpose).copy()
    made.update(content)
    return made.hexdigest()


@lru_cache(maxsize=256)
def _keyed(secret: bytes, purpose: str) -> hmac.HMAC:
    """Return an HMAC that has taken in the key and nothing else: copying it costs less than making one."""
    derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose.encode())
    return hmac.new(derivation.derive(secret), digestmod="sha256")


def read_mac_keys(entries: Sequence[str]) -> MacKeyring:
    """Return the keys that `key_id:key` stand for; a key is 32 bytes in base64url without padding.

    Raises UnusableKeys; it names an entry by its position, because any part may be the secret.
    """
    if not 0 < len(entries) <= KEYS_MAX:
        raise UnusableKeys(f"there must be from 1 to {KEYS_MAX}")
    keys = tuple(_read_key(entry.strip(), f"key {n}") for n, entry in enumerate(entries, start=1))
    if len({key.id for key in keys}) < len(keys):
        raise UnusableKeys("two keys have the same name")
    if len({key.secret for key in keys}) < len(keys):
        raise UnusableKeys("one key has two names")
    return MacKeyring(keys)


def _read_key(entry: str, which: str) -> MacKey:
    key_id, _, text = entry.partition(":")
    if not (_KEY_ID.fullmatch(key_id) and text):
        raise UnusableKeys(f"{which} does not have the form key_id:key")
    try:
        secret = from_base64url(text)
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise UnusableKeys(f"{which} is not {KEY_BYTES} bytes in base64url without padding")
    return MacKey(key_id, secret)
