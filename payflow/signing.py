"""Signatures that anyone can check: Ed25519 (RFC 8032) as a detached JWS (RFC 7515, appendix F; RFC 8037)
over canonical JSON (RFC 8785), and the public keys as a JWK set (RFC 7517).

What must stay true: a value has exactly one canonical form; of a key's private part nothing appears in an
error, a log or a repr. Pure: no clock, database or setting.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

ALGORITHM = "EdDSA"
# JSON numbers that every parser reads alike (RFC 7493, 2.2); larger ones travel as strings.
INTEGER_MAX = 2**53 - 1
KEYS_MAX = 100
PEM_BYTES_MAX = 10_000
_DEPTH_MAX = 20
_SEED_BYTES = 32
_KID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


class UnusableKeys(Exception):  # noqa: N818 - it reads as what happened
    """Keys that cannot be used; says which and why, never what they hold."""


class BadSignature(Exception):  # noqa: N818
    """A signature that proves nothing, and why."""


class Uncanonical(ValueError):  # noqa: N818
    """A value that has no canonical form here."""


# --- Canonical JSON ---------------------------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    """Return the one way to write `value` as JSON: RFC 8785 without floats and with names in ASCII.

    Raises Uncanonical for anything else than strings, whole numbers within +-(2^53 - 1), booleans, null, and
    lists and objects of these.
    """
    _require_plain(value, _DEPTH_MAX)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise Uncanonical("half of a surrogate pair") from None


def _require_plain(value: Any, depth: int) -> None:
    if depth == 0:
        raise Uncanonical("nested too deep")
    if isinstance(value, dict):
        # Ordered by code point; RFC 8785 orders by UTF-16 unit. In ASCII they agree.
        if not all(isinstance(name, str) and name.isascii() for name in value):
            raise Uncanonical("a name that is not ASCII")
        for inner in value.values():
            _require_plain(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _require_plain(inner, depth - 1)
    elif isinstance(value, int):
        if abs(value) > INTEGER_MAX:
            raise Uncanonical("a number beyond 2^53 - 1")
    elif not (value is None or isinstance(value, str)):
        raise Uncanonical("a number that is not whole")


def to_base64url(raw: bytes) -> str:
    """Encode without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """Decode; raise ValueError unless `text` is the one encoding of what it stands for."""
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("not base64url") from None
    if to_base64url(raw) != text:
        raise ValueError("not base64url in its one form")
    return raw


# --- Keys -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """One key. Without its private part it only verifies."""

    kid: str
    public: Ed25519PublicKey = field(repr=False)
    private: Ed25519PrivateKey | None = field(default=None, repr=False)

    def derive_secret(self, purpose: str) -> bytes | None:
        """Return 32 bytes that only the holder of the private part can compute (HKDF, RFC 5869), or None."""
        if self.private is None:
            return None
        derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose.encode())
        return derivation.derive(self.private.private_bytes_raw())

    def as_jwk(self) -> dict[str, str]:
        """Return the public part (RFC 8037, section 2)."""
        x = to_base64url(self.public.public_bytes_raw())
        return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.kid, "use": "sig", "alg": ALGORITHM}


@dataclass(frozen=True)
class Keyring:
    """Keys of different names. The first signs; all of them are published and verify."""

    keys: tuple[Key, ...]

    def find(self, kid: str) -> Key | None:
        """Return the key of that name."""
        return next((key for key in self.keys if key.kid == kid), None)

    @property
    def signer(self) -> Key:
        """Return the key that signs. Raises UnusableKeys where there is none."""
        if not self.keys:
            raise UnusableKeys("there is no key to sign with")
        return self.keys[0]

    def sign(self, value: Any, *, typ: str) -> str:
        """Return a detached JWS, `<header>..<signature>`, over the canonical form of `value`."""
        key = self.signer
        if key.private is None:
            raise UnusableKeys("there is no key to sign with")
        header = to_base64url(canonical({"alg": ALGORITHM, "kid": key.kid, "typ": typ}))
        return f"{header}..{to_base64url(key.private.sign(_signing_input(header, value)))}"

    def verify(self, value: Any, jws: str, *, typ: str) -> Key:
        """Return the key whose signature this is. Raises BadSignature with the reason as a sentence."""
        header, signature, kid = _take_apart(jws, typ)
        key = self.find(kid)
        if key is None:
            raise BadSignature(f"It is signed with the key {kid!r}, which is not among the keys given.")
        try:
            key.public.verify(signature, _signing_input(header, value))
        except Uncanonical as error:
            raise BadSignature(f"It holds what nobody could have signed: {error}.") from None
        except InvalidSignature:
            raise BadSignature(
                f"The signature of key {kid!r} does not fit: the document or the signature was changed."
            ) from None
        return key

    def as_jwks(self) -> dict[str, Any]:
        """Return the public parts as a JWK set (RFC 7517, section 5)."""
        return {"keys": [key.as_jwk() for key in self.keys]}


def _signing_input(header: str, value: Any) -> bytes:
    """RFC 7515, section 5.1: the payload is put back where the detached form left it out."""
    return f"{header}.{to_base64url(canonical(value))}".encode("ascii")


def kid_of(jws: str) -> str:
    """Return the name of the key that a verified JWS was signed with."""
    return json.loads(from_base64url(jws.split(".")[0]))["kid"]


def _take_apart(jws: str, typ: str) -> tuple[str, bytes, str]:
    try:
        encoded, payload, signature = jws.split(".")
        header, raw = json.loads(from_base64url(encoded)), from_base64url(signature)
    except (ValueError, RecursionError):
        raise BadSignature("The signature is not a JWS.") from None
    if payload or not isinstance(header, dict):
        raise BadSignature("The signature is not a detached JWS.")
    # Nothing that is not understood is let pass, `crit` least of all; `none` and HMAC are no algorithms here.
    kid = header.get("kid")
    if header != {"alg": ALGORITHM, "kid": kid, "typ": typ} or not (
        isinstance(kid, str) and _KID.fullmatch(kid)
    ):
        raise BadSignature(f"The signature's header is not that of a {typ} signed with {ALGORITHM}.")
    return encoded, raw, kid


# --- Reading keys -----------------------------------------------------------------------------------------


def read_keys(entries: Sequence[str]) -> Keyring:
    """Return the keys that `kid:seed` or `kid:path.pem` stand for.

    A seed is 32 bytes in base64url (RFC 8037's `d`). A PEM file holds a private key, or a public one that
    only verifies. Raises UnusableKeys; it names an entry by its position, because any part may be the secret.
    """
    if len(entries) > KEYS_MAX:
        raise UnusableKeys(f"there are more than {KEYS_MAX}")
    ring = Keyring(tuple(_read_key(entry.strip(), f"key {n}") for n, entry in enumerate(entries, start=1)))
    if len({key.kid for key in ring.keys}) != len(ring.keys):
        raise UnusableKeys("two keys have the same name")
    if ring.keys and ring.keys[0].private is None:
        raise UnusableKeys("key 1 cannot sign: it is a public key")
    return ring


def _read_key(entry: str, which: str) -> Key:
    kid, _, material = entry.partition(":")
    if not (_KID.fullmatch(kid) and material):
        raise UnusableKeys(f"{which} does not have the form name:seed or name:path.pem")
    if material.endswith(".pem"):
        return _read_pem(kid, Path(material), which)
    try:
        seed = from_base64url(material)
    except ValueError:
        seed = b""
    if len(seed) != _SEED_BYTES:
        raise UnusableKeys(f"{which} is neither {_SEED_BYTES} bytes in base64url nor the path of a .pem file")
    private = Ed25519PrivateKey.from_private_bytes(seed)
    return Key(kid, private.public_key(), private)


def _read_pem(kid: str, path: Path, which: str) -> Key:
    try:
        with path.open("rb") as file:
            pem = file.read(PEM_BYTES_MAX)
        private = load_pem_private_key(pem, password=None) if b"PRIVATE KEY" in pem else None
        public = private.public_key() if private else load_pem_public_key(pem)
    except OSError:
        raise UnusableKeys(f"{which}: its .pem file cannot be read") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableKeys(f"{which}: its .pem file holds no key, or an encrypted one") from None
    if not isinstance(public, Ed25519PublicKey) or not isinstance(private, Ed25519PrivateKey | None):
        raise UnusableKeys(f"{which}: its .pem file holds a key of another kind than Ed25519")
    return Key(kid, public, private)


def read_jwks(document: Mapping[str, Any]) -> Keyring:
    """Return the Ed25519 keys of a JWK set; others are passed over (RFC 7517, section 5).

    Raises UnusableKeys when it is no JWK set or holds no such key.
    """
    members = document.get("keys")
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise UnusableKeys("this is no JWK set")
    if len(members) > KEYS_MAX:
        raise UnusableKeys(f"there are more than {KEYS_MAX} keys")
    keys = tuple(_read_jwk(m) for m in members if (m.get("kty"), m.get("crv")) == ("OKP", "Ed25519"))
    if not keys:
        raise UnusableKeys("there is no Ed25519 key in this JWK set")
    if len({key.kid for key in keys}) != len(keys):
        raise UnusableKeys("two keys have the same name")
    return Keyring(keys)


def _read_jwk(member: Mapping[str, Any]) -> Key:
    kid, x = member.get("kid"), member.get("x")
    if not (isinstance(kid, str) and _KID.fullmatch(kid) and isinstance(x, str)):
        raise UnusableKeys("a key of this JWK set has no usable kid or x")
    try:
        return Key(kid, Ed25519PublicKey.from_public_bytes(from_base64url(x)))
    except ValueError:
        raise UnusableKeys(f"the key {kid!r} is not an Ed25519 public key") from None
