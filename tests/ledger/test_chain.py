"""The ledger's arithmetic, as properties over random postings. No database."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.chain import (
    GENESIS_HASH,
    SIGNS,
    Contra,
    Entry,
    Kind,
    Posting,
    Reason,
    answers,
    digest,
    digest_document,
    extend,
    from_document,
)
from ledger.posting import stored_entry
from ledger.verification import entry_faults, link_faults, malformation
from payflow import clock, money
from payflow.crypto.mac_keys import read_mac_keys

KEYS = read_mac_keys([f"k:{'Ab1_' * 10}AbE"])
NOW = datetime(2026, 1, 31, 9, 30, 0, 125_000, tzinfo=UTC)
amounts = st.integers(1, money.AMOUNT_MINOR_MAX) | st.integers(1, 100)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)


@st.composite
def wishes(draw: st.DrawFn) -> list[Posting]:
    """Draw postings for one wallet of one currency."""
    kinds = draw(st.lists(st.sampled_from(Kind), max_size=40))
    made = []
    for number, kind in enumerate(kinds):
        external = kind in (Kind.DEPOSIT, Kind.WITHDRAWAL)
        operation = "debit" if kind is Kind.DECLINED else kind.value.lower()
        transaction = None if external else f"txn_{number:032}"
        stem = transaction or f"op_{number}"
        made.append(Posting(f"{stem}:{operation}", "wal_1", kind, draw(amounts), "USD", transaction))
    return made


@given(wishes(), moments)
def test_conserves_money(postings: list[Posting], now: datetime) -> None:
    entries = extend(None, postings, now)
    assert (entries[-1].balance_minor if entries else 0) == sum(entry.amount_minor for entry in entries)


@given(wishes(), moments)
def test_has_no_gap_and_no_negative_balance(postings: list[Posting], now: datetime) -> None:
    entries = extend(None, postings, now)
    assert [entry.sequence for entry in entries] == list(range(1, len(postings) + 1))
    assert all(entry.balance_minor >= 0 for entry in entries)


@given(wishes(), moments)
def test_every_posting_becomes_its_entry_or_a_declined_one(postings: list[Posting], now: datetime) -> None:
    for posting, entry in zip(postings, extend(None, postings, now), strict=True):
        assert answers(entry, posting)
        assert entry.amount_minor == SIGNS[entry.kind] * posting.amount_minor


@given(wishes(), moments)
def test_what_it_builds_the_audit_accepts(postings: list[Posting], now: datetime) -> None:
    previous = None
    for entry in extend(None, postings, now):
        document = stored_entry(entry, KEYS)
        assert malformation(document) == ""
        assert [*entry_faults(document, KEYS), *link_faults(previous, document)] == []
        previous = document


@given(wishes(), st.integers(0, 40), moments)
def test_building_in_parts_gives_the_same_chain(postings: list[Posting], cut: int, now: datetime) -> None:
    first = extend(None, postings[:cut], now)
    rest = extend(first[-1] if first else None, postings[cut:], now)
    assert first + rest == extend(None, postings, now)


@given(wishes(), moments)
def test_storing_and_loading_changes_nothing(postings: list[Posting], now: datetime) -> None:
    for entry in extend(None, postings, now):
        assert from_document(entry.to_document()) == entry
        assert digest_document(entry.to_document()) == digest(entry) == entry.hash


@given(wishes(), moments, st.timedeltas(timedelta(days=-400), timedelta(days=400)))
def test_times_never_go_back(postings: list[Posting], now: datetime, skew: timedelta) -> None:
    """Two machines' clocks differ; a wallet's history still has one direction."""
    first = extend(None, postings, now)
    later = extend(first[-1] if first else None, postings, now + skew)
    times = [entry.created_at for entry in first + later]
    assert times == sorted(times)


# --- The hash ---------------------------------------------------------------------------------------------

ENTRY = Entry(
    id="txn_1:debit",
    wallet_id="wal_1",
    sequence=7,
    kind=Kind.DEBIT,
    amount_minor=-250,
    balance_minor=750,
    requested_minor=250,
    currency="USD",
    contra=Contra.CLEARING,
    transaction_id="txn_1",
    reason="",
    created_at=NOW,
    previous_hash="a" * 64,
)
COVERED = [name for name in Entry._fields if name != "hash"]
OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(Kind),
    "contra": st.sampled_from(Contra),
    "created_at": moments,
    "transaction_id": st.none() | st.text(),
    **dict.fromkeys(("sequence", "amount_minor", "balance_minor", "requested_minor"), st.integers()),
}


@pytest.mark.parametrize("name", COVERED)
@given(st.data())
def test_the_hash_covers_every_field(name: str, data: st.DataObject) -> None:
    value = data.draw(OTHERS.get(name, st.text()))
    changed = ENTRY._replace(**{name: value})
    assert (digest(changed) == digest(ENTRY)) == (value == getattr(ENTRY, name))


@given(st.text(), st.none() | st.text(), st.integers(), st.sampled_from(Kind), moments)
def test_the_hash_is_over_a_json_array(
    text: str, transaction: str | None, number: int, kind: Kind, at: datetime
) -> None:
    """As docs/receipts.md tells others to compute it."""
    entry = ENTRY._replace(
        id=text,
        reason=text,
        transaction_id=transaction,
        balance_minor=number,
        kind=kind,
        created_at=at,
    )
    values = [getattr(entry, name) for name in COVERED]
    values[COVERED.index("created_at")] = clock.epoch_ms(at)
    canonical = json.dumps(values, separators=(",", ":"))
    assert digest(entry) == hashlib.sha256(canonical.encode()).hexdigest()


@given(st.text(), st.text(), st.text(), st.text())
def test_no_text_can_pass_for_two_fields(a: str, b: str, c: str, d: str) -> None:
    left, right = ENTRY._replace(id=a, wallet_id=b), ENTRY._replace(id=c, wallet_id=d)
    assert (digest(left) == digest(right)) == ((a, b) == (c, d))


def test_the_hash_never_changes_its_form() -> None:
    """Old entries must verify for ever: this digest was computed by hand from the canonical content."""
    assert digest(ENTRY) == "e1f3755e122aa0578c8de671de6baf7e2a34e12c8918d5141cd31cf14326b621"


# --- Decisions --------------------------------------------------------------------------------------------


def head(balance: int, currency: str = "USD") -> Entry:
    return ENTRY._replace(balance_minor=balance, currency=currency)


def wish(kind: Kind, amount: int, currency: str = "USD") -> Posting:
    return Posting("op_1:x", "wal_1", kind, amount, currency)


SOFT, HARD = money.BALANCE_MINOR_SOFT_MAX, money.INT64_MAX


@pytest.mark.parametrize(
    ("balance", "kind", "amount", "expected", "reason"),
    [
        (100, Kind.DEBIT, 100, Kind.DEBIT, ""),
        (100, Kind.DEBIT, 101, Kind.DECLINED, Reason.INSUFFICIENT_BALANCE),
        (100, Kind.WITHDRAWAL, 100, Kind.WITHDRAWAL, ""),
        (100, Kind.WITHDRAWAL, 101, Kind.DECLINED, Reason.INSUFFICIENT_BALANCE),
        (SOFT - 1, Kind.DEPOSIT, 1, Kind.DEPOSIT, ""),
        (SOFT - 1, Kind.DEPOSIT, 2, Kind.DECLINED, Reason.BALANCE_LIMIT),
        (SOFT, Kind.CREDIT, 1, Kind.CREDIT, ""),
        (SOFT, Kind.REFUND, 1, Kind.REFUND, ""),
        (HARD - 1, Kind.CREDIT, 1, Kind.CREDIT, ""),
    ],
)
def test_decides_at_the_limits(balance: int, kind: Kind, amount: int, expected: Kind, reason: str) -> None:
    (entry,) = extend(head(balance), [wish(kind, amount)], NOW)
    assert (entry.kind, entry.reason) == (expected, reason)


@pytest.mark.parametrize("kind", [Kind.CREDIT, Kind.REFUND])
def test_leaves_out_what_would_leave_int64(kind: Kind) -> None:
    assert extend(head(HARD), [wish(kind, 1)], NOW) == []


def test_leaves_out_another_currency_and_goes_on() -> None:
    entries = extend(head(10), [wish(Kind.DEPOSIT, 1, "EUR"), wish(Kind.DEPOSIT, 2)], NOW)
    assert [entry.balance_minor for entry in entries] == [12]


def test_a_chain_starts_behind_the_genesis_hash() -> None:
    (entry,) = extend(None, [wish(Kind.DEPOSIT, 1)], NOW)
    assert (entry.sequence, entry.previous_hash) == (1, GENESIS_HASH)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"kind": Kind.DECLINED, "amount_minor": 0}, True),
        ({"kind": Kind.CREDIT}, False),
        ({"wallet_id": "wal_2"}, False),
        ({"requested_minor": 251}, False),
    ],
)
def test_knows_whether_an_entry_answers_a_posting(changes: dict[str, Any], expected: bool) -> None:
    posting = Posting("txn_1:debit", "wal_1", Kind.DEBIT, 250, "USD", "txn_1")
    assert answers(ENTRY._replace(**changes), posting) is expected
