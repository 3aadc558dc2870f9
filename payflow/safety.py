"""What production must not start with, and nobody. Pure: it reads no environment and no setting by itself.

What must stay true: a reason names a variable, never its value.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import getaddresses
from itertools import combinations

from django.core.exceptions import ImproperlyConfigured

from payflow import signing, text
from payflow.crypto import mac_keys

DEVELOPMENT_SECRET = "development-only-secret-never-use-it-where-money-is-real"  # noqa: S105
SECRET_LENGTH_MIN = 32
SEALING_KEY_BYTES = 32
# Random keys repeat themselves less: one with fewer different bytes was typed by somebody, and so was a
# secret with fewer different characters (of 32 random hexadecimal digits one in 30 million has so few).
_DIFFERENT_BYTES_MIN = 12
_DIFFERENT_CHARACTERS_MIN = 8
_HOST = re.compile(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]", re.ASCII)
# Below these everybody registers names, as below `.com`.
_SHARED_SUFFIX = re.compile(r"\.(ac|co|com|edu|gob|gov|gv|ltd|ne|net|or|org|plc)\.[a-z]{2}", re.IGNORECASE)
_ORIGIN = re.compile(r"https://[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:[0-9]{1,5})?", re.ASCII)
_SENDER = re.compile(r"(?:(?P<name>[^<>]{1,100}) )?<(?P<address>[^<>]+)>|(?P<bare>[^<>]+)")
# A header of every mail holds links that begin with it.
_PUBLIC_URL = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?", re.ASCII)


def read_receipt_keys(entries: Sequence[str], *, is_production: bool) -> tuple[signing.Keyring, str]:
    """Return the keys, and why they cannot be used or an empty string; the reason holds nothing of them."""
    seed = hashlib.sha256(f"{DEVELOPMENT_SECRET}-receipts".encode()).digest()
    development = signing.read_keys([f"development:{signing.to_base64url(seed)}"])
    if not entries:
        return development, "is not set" if is_production else ""
    try:
        keys = signing.read_keys(entries)
    except signing.UnusableKeys as error:
        return development, f"cannot be used: {error}"
    published = development.signer.as_jwk()["x"]
    if is_production and any(key.as_jwk()["x"] == published for key in keys.keys):
        return keys, "holds the published development key"
    for position, key in enumerate(keys.keys, 1):
        if is_production and key.private and _is_typed(key.private.private_bytes_raw()):
            return keys, f"is weak: key {position} is not random"
    return keys, ""


def read_sealing_keys(entries: Sequence[str], *, is_production: bool) -> tuple[list[str], str]:
    """Return the Fernet keys that seal webhook secrets, and why they cannot be used or an empty string."""
    seed = hashlib.sha256(f"{DEVELOPMENT_SECRET}-webhooks".encode()).digest()
    development = base64.urlsafe_b64encode(seed).decode("ascii")
    if not entries:
        return [development], "is not set" if is_production else ""
    for position, entry in enumerate(entries, 1):
        try:
            key = base64.b64decode(entry, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != SEALING_KEY_BYTES:
            return [
                development
            ], f"cannot be used: key {position} is not {SEALING_KEY_BYTES} bytes in base64url"
        if is_production and key == seed:
            return [development], "holds the published development key"
        if is_production and _is_typed(key):
            return [development], f"is weak: key {position} is not random"
    if len(set(entries)) < len(entries):
        return [development], "names one key twice"
    return list(entries), ""


def read_ledger_keys(
    entries: Sequence[str], *, is_production: bool, other_secrets: Mapping[str, Sequence[str | bytes]]
) -> tuple[mac_keys.MacKeyring, str]:
    """Return the keys that authenticate ledger entries, and why they cannot be used or an empty string.

    `other_secrets` are the values of the other settings that hold secrets: no ledger key may be one of them.
    """
    seed = hashlib.sha256(f"{DEVELOPMENT_SECRET}-ledger".encode()).digest()
    development = mac_keys.read_mac_keys([f"development:{signing.to_base64url(seed)}"])
    if not entries:
        return development, "is not set" if is_production else ""
    try:
        keys = mac_keys.read_mac_keys(entries)
    except signing.UnusableKeys as error:
        return development, f"cannot be used: {error}"
    if not is_production:
        return keys, ""
    used = {form: name for name, values in other_secrets.items() for v in values for form in _forms(v)}
    for position, key in enumerate(keys.keys, 1):
        if key.secret == seed:
            return keys, "holds the published development key"
        if _is_typed(key.secret):
            return keys, f"is weak: key {position} is not random"
        if name := next((used[form] for form in _forms(key.secret) if form in used), ""):
            return keys, f"cannot be used: key {position} is a secret of {name}, too"
    return keys, ""


def _is_typed(key: bytes) -> bool:
    """Say whether a key of random bytes was not made at random."""
    return len(set(key)) < _DIFFERENT_BYTES_MIN or _repeats(key)


def _repeats(value: str | bytes) -> bool:
    """Say whether a value is one part of itself, again and again."""
    return value in (value + value)[1:-1]  # type: ignore[operator]  # both are of one type


def _forms(secret: str | bytes) -> set[bytes]:
    """Return the bytes that a secret stands for: a text may be base64url, with or without padding."""
    if isinstance(secret, bytes):
        return {secret, signing.to_base64url(secret).encode()}
    forms = {secret.encode()}
    with suppress(ValueError):
        forms.add(signing.from_base64url(secret.rstrip("=")))
    return forms


def refuse_unsafe_production(
    *,
    secrets: Mapping[str, str],
    receipt_keys_fault: str,
    sealing_keys_fault: str,
    ledger_keys_fault: str,
    addresses: Mapping[str, str],
    address_faults: Sequence[str],
    allowed_hosts: Sequence[str],
    debug: bool,
    deposits_open: bool,
    webhooks_open: Mapping[str, bool],
) -> None:
    """Raise ImproperlyConfigured with every reason at once, so that one restart is enough."""
    reasons = [f"{name} {fault}" for name, value in secrets.items() if (fault := fault_of_secret(value))]
    reasons += [
        f"{one} and {other} are the same"
        for (one, value), (other, same) in combinations(secrets.items(), 2)
        if value and value == same
    ]
    if receipt_keys_fault:
        reasons.append(f"RECEIPT_SIGNING_KEYS {receipt_keys_fault}")
    if sealing_keys_fault:
        reasons.append(f"WEBHOOK_SECRET_KEYS {sealing_keys_fault}")
    if ledger_keys_fault:
        reasons.append(f"LEDGER_KEYS {ledger_keys_fault}")
    reasons += [f"{name} is not set" for name, value in addresses.items() if not value]
    reasons += address_faults
    if debug:
        reasons.append("PAYFLOW_DEBUG is on")
    if deposits_open:
        reasons.append("DEPOSITS_OPEN is on: anyone could create money")
    reasons += [
        f"{name} is on: webhooks could reach what is not public" for name, on in webhooks_open.items() if on
    ]
    if not allowed_hosts or not all(names_a_service(host) for host in allowed_hosts):
        reasons.append("ALLOWED_HOSTS does not name this service's hosts")
    refuse_in_production(dict.fromkeys(reasons, True))


def names_a_service(host: str) -> bool:
    """Say whether an entry of ALLOWED_HOSTS is a host, or a domain (`.pay.example`) with one owner."""
    if not _HOST.fullmatch(host):
        return False
    return not host.startswith(".") or (host.count(".") > 1 and not _SHARED_SUFFIX.fullmatch(host))


def has_unsafe_origin(origins: Sequence[str]) -> bool:
    """Say whether an entry of a list of origins is not one https origin (`https://shop.example`)."""
    return not all(_ORIGIN.fullmatch(origin) for origin in origins)


def refuse_in_production(faults: Mapping[str, bool]) -> None:
    """Raise ImproperlyConfigured with every reason that is true."""
    if reasons := [reason for reason, is_so in faults.items() if is_so]:
        raise ImproperlyConfigured(
            "PayFlow refuses to start in production: "
            + "; ".join(reasons)
            + ". Set these in the environment (.env.example explains each),"
            + " or set PAYFLOW_ENV=development on a machine where no money is real."
        )


def refuse_unsafe_mail(
    *, is_smtp: bool, has_password: bool, is_encrypted: bool, sender: str, public_url: str
) -> None:
    """Raise ImproperlyConfigured unless mails leave by SMTP, from somebody, with links that are safe."""
    reasons = []
    if not is_smtp:
        reasons.append("EMAIL_URL does not name an SMTP server")
    if has_password and not is_encrypted:
        reasons.append("EMAIL_URL would send its password unencrypted: use smtp+tls:// or smtp+ssl://")
    if not is_sender(sender):
        reasons.append("DEFAULT_FROM_EMAIL does not say who sends")
    if not _PUBLIC_URL.fullmatch(public_url):
        reasons.append("PUBLIC_URL is not the https address of this service")
    if reasons:
        raise ImproperlyConfigured(
            f"PayFlow refuses to send notifications in production: {'; '.join(reasons)}."
            " Set these in the environment, or NOTIFICATIONS_ENABLED=false."
        )


def is_sender(sender: str) -> bool:
    """Say whether every mail program reads this header as one address, with or without a name before it."""
    match = _SENDER.fullmatch(sender)
    if match is None or "=?" in sender:
        return False
    name, address = match["name"], match["address"] or match["bare"]
    addresses = [each for _, each in getaddresses([sender])]
    return text.is_email(address) and addresses == [address] and (name is None or text.is_name(name))


def fault_of_secret(value: str, *, length_min: int = SECRET_LENGTH_MIN) -> str:
    """Return why a secret must not be used, or an empty string."""
    if not value:
        return "is not set"
    if value.startswith((DEVELOPMENT_SECRET, "change-me")):
        return "is the published development value"
    if len(value) < length_min:
        return f"is shorter than {length_min} characters"
    if len(set(value)) < _DIFFERENT_CHARACTERS_MIN or _repeats(value):
        return "is weak: it is not random"
    return ""


def refuse_out_of_range(ranges: Sequence[tuple[str, float, float, float]]) -> None:
    """Raise ImproperlyConfigured for variables that are not within bounds: (name, value, lowest, highest)."""
    reasons = [
        f"{name} must be at least {lowest:g}"
        if math.isinf(highest)
        else f"{name} must be from {lowest:.8g} to {highest:.8g}"
        for name, value, lowest, highest in ranges
        if not lowest <= value <= highest
    ]
    if reasons:
        raise ImproperlyConfigured(f"PayFlow refuses to start: {'; '.join(reasons)}.")


def read_whole_number(name: str, text: str, *, highest: int) -> int | None:
    """Return the number from 1 to `highest` in a variable, None for `off`. Raises ImproperlyConfigured."""
    if text.strip().lower() in ("", "off"):
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text.strip(), re.ASCII) or not 1 <= int(text) <= highest:
        raise ImproperlyConfigured(f"PayFlow refuses to start: {name} must be from 1 to {highest}, or off.")
    return int(text)
