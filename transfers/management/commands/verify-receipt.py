# ruff: noqa: N999 - the module's name is the command's
"""`manage.py verify-receipt FILE`: is this receipt genuine and true?

Offline: it opens neither MongoDB nor Redis, unless --online asks for the ledger. With --keys it uses nobody's
secrets either. Exit status: 0 valid, 1 not valid, 2 it could not be read or compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from pymongo.errors import PyMongoError

from payflow import signing
from payflow.api import parsers
from payflow.errors import Transient
from payflow.signing import Keyring, UnusableKeys
from transfers import issuing, receipt_rules
from transfers.receipts import Part, is_disclosed

NOT_VALID = 1
NOT_READ = 2
FILE_BYTES_MAX = 65_536


class Command(BaseCommand):
    """Reads a receipt and changes nothing."""

    help = "Verify a receipt. Exits 0 when it is valid, 1 when it is not, 2 when that could not be found out."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("file", type=Path, help="the answer of GET /transactions/{id}/receipt")
        parser.add_argument(
            "--keys", type=Path, metavar="JWKS_FILE",
            help="the answer of GET /ledger/keys (default: the keys of this installation)",
        )  # fmt: skip
        parser.add_argument("--online", action="store_true", help="compare it with this ledger, too")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the verdict."""
        document = _read(options["file"])
        receipt, signature = document.get("receipt"), document.get("signature")
        if not (isinstance(receipt, dict) and isinstance(signature, str)) or len(document) != 2:
            raise CommandError(f"{options['file']} holds no receipt with its signature.", returncode=NOT_READ)
        keys = _read_keys(options["keys"]) if options["keys"] else settings.RECEIPT_SIGNING_KEYS
        reasons = receipt_rules.verify(receipt, signature, keys)
        notes: list[str] = []
        if options["online"] and not reasons:
            reasons, notes = _compare(receipt, signature)
        if reasons:
            lines = ["This receipt is NOT VALID.", *(f"  {_printable(reason)}" for reason in reasons)]
            raise CommandError("\n".join(lines), returncode=NOT_VALID)
        self.stdout.write(self.style.SUCCESS("This receipt is valid."))
        for line in (*_summary(receipt, signing.kid_of(signature)), *notes):
            self.stdout.write(f"  {_printable(line)}")
        if options["online"]:
            self.stdout.write("  The ledger of this installation agrees.")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.", returncode=NOT_READ) from error
    if len(raw) > FILE_BYTES_MAX:
        raise CommandError(f"{path} is longer than {FILE_BYTES_MAX:,} bytes.", returncode=NOT_READ)
    try:
        return parsers.loads(raw)
    except parsers.MalformedBody as error:
        reason = _printable(error.detail.replace("The body", str(path)))
        raise CommandError(reason, returncode=NOT_READ) from error


def _read_keys(path: Path) -> Keyring:
    try:
        return signing.read_jwks(_read(path))
    except UnusableKeys as error:
        raise CommandError(
            f"{path} cannot be used: {_printable(str(error))}.", returncode=NOT_READ
        ) from error


def _compare(receipt: Part, signature: str) -> tuple[list[str], list[str]]:
    key = settings.RECEIPT_SIGNING_KEYS.find(signing.kid_of(signature))
    try:
        comparison = issuing.compare_with_ledger(receipt=receipt, key=key)
    except (Transient, PyMongoError) as error:
        reason = "It could not be compared: the database did not answer."
        raise CommandError(reason, returncode=NOT_READ) from error
    return comparison.contradictions, comparison.not_compared


def _summary(receipt: Part, kid: str) -> Iterator[str]:
    transaction, entries = receipt["transaction"], receipt["entries"]
    parties = f"from user {transaction['sender_id']} to user {transaction['receiver_id']}"
    yield f"{transaction['amount']} {transaction['currency']} {parties}"
    failure = transaction["failure"]
    how = (
        f" ({failure['code']}; {'given back' if failure['refunded'] else 'nothing was taken'})"
        if failure
        else ""
    )
    yield f"{transaction['id']}: {transaction['status']}{how} at {transaction['completed_at']}"
    for part in entries:
        operation = part["id"].rpartition(":")[2]
        form = f"entry {part['sequence']}, hash recomputed" if is_disclosed(part) else "sealed"
        yield f"{operation}: {part['kind']} {part['amount_minor']} in wallet {part['wallet_id']} ({form})"
    yield f"issued to the {receipt['issued_to']} by {receipt['issuer']} at {receipt['issued_at']}, key {kid}"


def _printable(text: str) -> str:
    """A file may hold anything; nothing in it may steer the terminal."""
    return text.encode("unicode_escape").decode("ascii")
