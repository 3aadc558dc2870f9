"""Reads over stored documents that hold anything: one odd row takes no list away from its owner or staff.

Every answer is held against the OpenAPI document (conftest.py): no odd value leaves as if it were good.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mongoengine
import pytest
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.errors import DuplicateKeyError

from payflow import admin, health, metrics, redisdb, stored_data
from tests.api.client import Party, assert_problem
from tests.payflow.test_admin_odd import MISSING, ODD
from tests.transfers.world import make_due, row_of
from transfers import recovery, saga

TRANSACTION = (
    "sender_id", "receiver_id", "amount_minor", "currency", "status", "description", "reference", "batch_id",
    "failure", "history", "initiated_at", "completed_at", "settlement", "due_at", "attempts",
    "correlation_id", "sender_wallet_id", "receiver_wallet_id", "idempotency_key", "fingerprint",
    "needs_attention", "unknown",
)  # fmt: skip
BATCH = ("sender_id", "created_at", "size", "refused", "items", "due_at", "attempts", "fingerprint")
WALLET = ("user_id", "currency", "status", "frozen_because", "created_at", "updated_at", "unknown")
ENTRY = (
    "sequence",
    "kind",
    "amount_minor",
    "balance_minor",
    "currency",
    "created_at",
    "reason",
    "hash",
    "mac",
)
EXAMPLES = 30
INVALID = "stored_data_invalid"


@pytest.fixture(autouse=True)
def _nothing_logged() -> None:
    stored_data._logged.clear()


def send(sender: Party, receiver: Party, amount: str = "1.00", key: str | None = None) -> str:
    headers = {"Idempotency_Key": key} if key else {}
    body = {"receiver_id": receiver.id, "amount": amount}
    return str(sender.api.post_json("/transactions", body, **headers).json()["id"])


def batch_of(sender: Party, receiver: Party, key: str) -> str:
    transfers = [{"receiver_id": receiver.id, "amount": amount} for amount in ("1.00", "2.00", "3.00")]
    answer = sender.api.post_json("/transactions/batch", {"transfers": transfers}, Idempotency_Key=key)
    return str(answer.json()["id"])


@contextmanager
def mutated(collection: str, id_: str, field: str, value: Any) -> Iterator[None]:
    """Change one field of a document for a while; what a unique index refuses is not changed."""
    stored = admin.stored(collection)
    before: Any = stored.find_one({"_id": id_})
    change = {"$unset": {field: ""}} if value is MISSING else {"$set": {field: value}}
    try:
        stored.update_one({"_id": id_}, change, bypass_document_validation=True)
        yield
    except DuplicateKeyError:
        pass
    finally:
        stored.replace_one({"_id": id_}, before)


def whatever(fields: tuple[str, ...], check: Callable[[str, Any], None]) -> None:
    """Run a check with every field holding everything that MongoDB stores."""

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(fields), ODD)
    def run(field: str, value: Any) -> None:
        check(field, value)

    run()


def good_or_invalid(response: Any) -> None:
    """The document is shown, is not the caller's any more, or is said to be damaged."""
    if response.status_code == 500:
        assert_problem(response, 500, INVALID)
    else:
        assert response.status_code in (200, 201, 404, 409, 422), response.content


def ids_in(party: Party, path: str) -> list[str]:
    response = party.api.get(path)
    assert response.status_code == 200, response.content
    return [row["id"] for row in response.json()["results"]]


def test_an_odd_transaction_takes_no_list_away(anna: Party, bob: Party, staff: Party) -> None:
    batch = batch_of(anna, bob, "a-batch")
    one, odd, other = sorted(ids_in(anna, "/transactions"))

    def check(field: str, value: Any) -> None:
        with mutated("transactions", odd, field, value):
            for party, path in (
                (anna, "/transactions"), (bob, "/transactions?direction=received"),
                (staff, f"/transactions?batch={batch}"), (anna, "/transactions?status=INITIATED"),
            ):  # fmt: skip
                assert set(ids_in(party, path)) - {odd} == {one, other}
            good_or_invalid(staff.api.get(f"/transactions/{odd}"))
            good_or_invalid(anna.api.get(f"/transactions/{odd}/receipt"))
            for party in (anna, staff):
                summary = party.api.get(f"/transactions/batch/{batch}")
                assert summary.status_code == 200, summary.content

    whatever(TRANSACTION, check)


def test_an_odd_transaction_is_no_answer_to_a_repeat(anna: Party, bob: Party) -> None:
    odd = send(anna, bob, key="a-key")

    def check(field: str, value: Any) -> None:
        if field in ("sender_id", "idempotency_key"):
            return  # then it is no repeat
        with mutated("transactions", odd, field, value):
            body = {"receiver_id": bob.id, "amount": "1.00"}
            redisdb.client().flushdb()  # the answer that is kept there would hide it
            good_or_invalid(anna.api.post_json("/transactions", body, Idempotency_Key="a-key"))

    whatever(TRANSACTION, check)


def test_an_odd_batch_is_shown_or_said_to_be_damaged(anna: Party, bob: Party, staff: Party) -> None:
    batch = batch_of(anna, bob, "a-batch")

    def check(field: str, value: Any) -> None:
        with mutated("transfer_batches", batch, field, value):
            for party in (anna, staff):
                good_or_invalid(party.api.get(f"/transactions/batch/{batch}"))
            assert len(ids_in(anna, "/transactions")) == 3

    whatever(BATCH, check)


def test_an_odd_wallet_takes_no_other_away(anna: Party, staff: Party) -> None:
    euros = anna.api.post_json("/wallets", {"currency": "EUR"}).json()["id"]

    def check(field: str, value: Any) -> None:
        with mutated("wallets", euros, field, value):
            assert set(ids_in(anna, "/wallets")) - {euros} == {anna.wallet.id}
            for party, path in (
                (staff, f"/wallets/{euros}/balance"), (anna, "/wallets/me?currency=EUR"),
                (anna, "/wallets/me/history?currency=EUR"),
            ):  # fmt: skip
                good_or_invalid(party.api.get(path))
            assert anna.api.get("/wallets/me").status_code == 200

    whatever(WALLET, check)


def test_an_odd_entry_takes_no_history_away(anna: Party) -> None:
    for _ in range(2):
        anna.receive(1_00)
    history = ids_in(anna, "/wallets/me/history")
    odd = history[1]

    def check(field: str, value: Any) -> None:
        with mutated("ledger_entries", odd, field, value):
            assert set(ids_in(anna, "/wallets/me/history")) - {odd} == {history[0], history[2]}

    whatever(ENTRY, check)


def test_a_wallet_whose_newest_entry_is_odd_takes_no_other_away(anna: Party) -> None:
    euros = anna.api.post_json("/wallets", {"currency": "EUR"}).json()["id"]
    anna.receive(1_00, "EUR")
    entry: Any = mongoengine.get_db().ledger_entries.find_one({"wallet_id": euros})
    with mutated("ledger_entries", entry["_id"], "amount_minor", 7):
        assert ids_in(anna, "/wallets") == [anna.wallet.id]


def test_pages_go_on_past_odd_rows(anna: Party, bob: Party) -> None:
    ids = [send(anna, bob) for _ in range(4)]
    with mutated("transactions", ids[1], "currency", "XXX"), mutated("transactions", ids[2], "history", 5):
        seen, cursor = [], ""
        for _ in range(4):
            page = anna.api.get(f"/transactions?limit=1{cursor}").json()
            seen += [row["id"] for row in page["results"]]
            cursor = f"&cursor={page['next']}"
        assert (seen, page["next"]) == ([ids[3], ids[0]], None)


def test_an_odd_row_is_logged_once_and_counted(
    anna: Party, bob: Party, caplog: pytest.LogCaptureFixture
) -> None:
    odd = send(anna, bob)
    counter = metrics.STORED_DATA_INVALID.labels("transactions")
    before = counter._value.get()
    with mutated("transactions", odd, "currency", "XXX"), caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert ids_in(anna, "/transactions") == []
        assert_problem(anna.api.get(f"/transactions/{odd}"), 500, INVALID)
    lines = [record for record in caplog.records if record.msg == "stored document cannot be shown"]
    assert [(line.document_id, line.fault) for line in lines] == [(odd, "currency")]
    assert counter._value.get() == before + 4


# --- The money of others ----------------------------------------------------------------------------------


def test_recovery_moves_the_others_whatever_one_row_holds(anna: Party, bob: Party) -> None:
    def check(field: str, value: Any) -> None:
        one, odd, other = (send(anna, bob, "0.01") for _ in range(3))
        make_due(one, odd, other)
        with mutated("transactions", odd, field, value):
            recovery.recover_stalled()
            assert [row_of(id_)["status"] for id_ in (one, other)] == ["COMPLETED", "COMPLETED"]
            assert set(health.REPORTS) == set(health._make_reports())

    whatever(TRANSACTION, check)


@pytest.mark.parametrize("status", ["INITIATED", "DEBITED", "CREDITED", "REFUNDING"])
@pytest.mark.parametrize(
    ("field", "value"), [("initiated_at", DatetimeMS(-(2**60))), ("due_at", DatetimeMS(-(2**60)))], ids=str
)
def test_a_date_beyond_python_s_stops_no_other_row(
    anna: Party, bob: Party, status: str, field: str, value: Any
) -> None:
    odd, other = send(anna, bob), send(anna, bob)
    if status != "INITIATED":
        saga.debit([odd])
    make_due(odd, other)
    with mutated("transactions", odd, "status", status), mutated("transactions", odd, field, value):
        recovery.recover_stalled()
    assert row_of(other)["status"] == "COMPLETED"
