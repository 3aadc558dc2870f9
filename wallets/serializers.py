"""Wallets as the API takes and shows them. Input and output never share a class."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from rest_framework import serializers

from ledger.chain import Entry, Kind
from ledger.selectors import BrokenEntry, entry_in
from payflow import clock
from payflow.api.fields import CurrencyField, RawAmountField, StrictSerializer, TimeField, in_minor_units
from payflow.api.pages import CursorField, PageQuery
from payflow.money import format_amount
from payflow.stored_data import invalid
from wallets.selectors import WalletState

OWN_WALLET = "Which of one's wallets: the one in this currency."


class OpenWallet(StrictSerializer):
    """POST /wallets."""

    currency = CurrencyField(help_text="The currency that it holds, for good.")


class CurrencyQuery(StrictSerializer):
    """?currency=."""

    currency = CurrencyField(default=settings.DEFAULT_CURRENCY, help_text=OWN_WALLET)


class Move(StrictSerializer):
    """POST /wallets/me/deposit and /withdraw; adds `amount_minor`."""

    amount = RawAmountField()
    currency = CurrencyField(default=settings.DEFAULT_CURRENCY, help_text=OWN_WALLET)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Read the amount in the currency's minor units."""
        return {**attrs, "amount_minor": in_minor_units(attrs["amount"], attrs["currency"])}


class HistoryQuery(PageQuery):
    """?currency=&kind=&limit=&cursor=."""

    currency = CurrencyField(default=settings.DEFAULT_CURRENCY, help_text=OWN_WALLET)
    kind = serializers.ChoiceField(
        choices=[kind.value for kind in Kind], required=False, help_text="Only entries of this kind."
    )
    cursor = CursorField("[1-9][0-9]{0,17}")

    def validate_cursor(self, value: str) -> int:
        """Return the sequence of the last entry seen."""
        return int(value)


class BalanceQuery(StrictSerializer):
    """?at=."""

    at = TimeField(required=False, help_text="A past moment, with its offset (RFC 3339); left out, now.")


def wallet_body(state: WalletState) -> dict[str, Any]:
    """Return a wallet as the API shows it."""
    wallet = state.wallet
    return {
        "id": wallet.id,
        "currency": wallet.currency,
        "balance": format_amount(state.balance_minor, wallet.currency),
        "status": wallet.status,
        "created_at": clock.rfc3339(wallet.created_at),
        "updated_at": clock.rfc3339(state.updated_at),
    }


def document_body(document: dict[str, Any]) -> dict[str, Any]:
    """Return a stored ledger entry as the API shows it. Raises StoredDataInvalid."""
    entry = entry_in(document)
    if isinstance(entry, BrokenEntry):
        raise invalid("ledger_entries", document["_id"], entry.reason)
    return entry_body(entry)


def entry_body(entry: Entry) -> dict[str, Any]:
    """Return a ledger entry as the API shows it."""
    return {
        "id": entry.id,
        "wallet_id": entry.wallet_id,
        "sequence": entry.sequence,
        "kind": entry.kind.value,
        "amount": format_amount(entry.amount_minor, entry.currency),
        "requested_amount": format_amount(entry.requested_minor, entry.currency),
        "balance": format_amount(entry.balance_minor, entry.currency),
        "currency": entry.currency,
        "transaction_id": entry.transaction_id,
        "reason": entry.reason or None,
        "created_at": clock.rfc3339(entry.created_at),
        "hash": entry.hash,
    }
