"""A batch whose writers die, race, come late or cannot go on: it is written whole, once, all the same."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings, settings
from django.core.management import call_command

from ledger.keys import transaction_mac_fault
from payflow import clock, mongodb
from payflow.api.parsers import PayloadTooLarge
from payflow.mongodb import collection
from tests.transfers import world
from transfers import batches, recovery, selectors, services
from transfers.documents import Transaction, TransferBatch
from transfers.errors import BatchUnfinished
from transfers.parties import TransferRequest
from transfers.services import Key
from transfers.states import Status

pytestmark = pytest.mark.usefixtures("audited")
KEY = Key("payroll", "digest")
POINTS = ["batch.planned", "batch.written", "batch.decided"]


@pytest.fixture(autouse=True)
def _settled(audited: None) -> Iterator[None]:
    """Whatever a test has left is ended by recovery, and nothing is missing or there twice."""
    yield
    recover()
    assert collection(TransferBatch).count_documents({"due_at": {"$exists": True}}) == 0
    for row in collection(TransferBatch).find():
        wanted = [t["_id"] for t in batches.transactions_of(row)]
        assert [t["_id"] for t in transactions({"batch_id": row["_id"]})] == wanted
        assert row["size"] - row["refused"] == len(wanted)
    call_command("audit", expect_settled=True, verbosity=0)


def transactions(query: dict[str, Any]) -> list[dict[str, Any]]:
    return list(collection(Transaction).find(query).sort("_id", 1))


def make_due() -> None:
    """Let recovery see everything that is unfinished as stalled."""
    past = {"$set": {"due_at": clock.after(clock.now(), -1)}}
    for document in (TransferBatch, Transaction):
        collection(document).update_many({"due_at": {"$exists": True}}, past)


def recover() -> None:
    """Let two ticks pass: one for batches, one for what they have become."""
    for _ in range(2):
        make_due()
        recovery.recover_stalled()


def wish(
    sender: str, receiver: str, amount_minor: int = 100, reference: str | None = None
) -> TransferRequest:
    return TransferRequest(sender, receiver, None, amount_minor, "USD", "", reference)


def wishes(sender: str, receiver: str) -> list[Any]:
    """Return six transfers: four good ones, one of them with a reference that is taken, and two bad ones."""
    refused = {"code": "validation_error"}
    found: list[Any] = [wish(sender, receiver, n, f"r{n}") for n in range(1, 5)]
    return [found[0], refused, *found[1:], wish(sender, sender)]


def begin(sender: str, receiver: str, key: Key | None = KEY) -> batches.StartedBatch:
    return batches.start_batch(sender_id=sender, wishes=wishes(sender, receiver), key=key)


def planned(sender: str, receiver: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a batch of which nothing but its document is written."""
    with monkeypatch.context() as patched:
        patched.setattr(batches, "finish", lambda row: (row, [], False))
        return begin(sender, receiver, None).row


@pytest.fixture
def taken(alice: str, bob: str) -> str:
    """The third good transfer's reference names another one already."""
    return services.start_transaction(request=wish(alice, bob, 7, "r3"), key=None).row["_id"]


def codes(row: dict[str, Any]) -> list[str | None]:
    return [item["problem"]["code"] if "problem" in item else None for item in row["items"]]


MIXED = [None, "validation_error", None, "already_exists", None, "self_transfer"]


class Death(BaseException):
    """A process ends here."""


def die_at(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    def die(name: str) -> None:
        if name == point:
            raise Death(point)

    monkeypatch.setattr(batches, "crash_point", die)


# --- Death ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("who", ["repeat", "recovery", "recovery, then repeat"])
def test_whoever_comes_after_a_death_finishes_the_batch(
    point: str, who: str, alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        die_at(patched, point)
        with pytest.raises(Death):
            begin(alice, bob)
    if "recovery" in who:
        recover()
        assert (world.balance_of(alice), world.balance_of(bob)) == (10_000 - 7 - 7, 7 + 7)
    if "repeat" in who:
        again = begin(alice, bob)
        # Whoever decides sets going; what was decided before is recovery's.
        assert again.is_ours == (who == "repeat" and point != "batch.decided")
        assert again.transactions == batches.transactions_of(again.row)
        assert (again.replayed, codes(again.row)) == (True, MIXED)
        assert begin(alice, bob) == batches.StartedBatch(again.row, again.transactions, True, False)
    assert len(transactions({"batch_id": {"$exists": True}})) == 3


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("there", [1, 2, 3])
def test_a_death_in_the_middle_of_the_insert_is_finished_too(
    there: int, alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = planned(alice, bob, monkeypatch)
    rows = [t for t in batches.transactions_of(row) if t["reference"] != "r3"]
    collection(Transaction).insert_many(rows[-there:])
    decided, written, is_ours = batches.finish(row)
    assert (codes(decided), len(written), is_ours) == (MIXED, 3, True)


CRASHING = """
import django; django.setup()
import sys
from tests.transfers import test_batches
test_batches.begin(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_process_leaves_a_batch_that_recovery_finishes(
    point: str, alice: str, bob: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "PAYFLOW_CRASH_AT": point, "PAYFLOW_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-c", CRASHING, alice, bob]
    killed = subprocess.run(
        command, cwd=settings.BASE_DIR, env={**environment, "DJANGO_SETTINGS_MODULE": "payflow.settings"},
        start_new_session=True, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    recover()
    assert (world.balance_of(alice), world.balance_of(bob)) == (10_000 - 10, 10)
    assert not begin(alice, bob).is_ours


# --- Races ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("taken")
def test_many_who_finish_one_batch_at_once_agree_and_one_of_them_sets_it_going(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = planned(alice, bob, monkeypatch)
    together = threading.Barrier(8)
    found: list[tuple[Any, Any, bool]] = []

    def finish() -> None:
        together.wait()
        found.append(batches.finish(row))

    threads = [threading.Thread(target=finish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [codes(decided) for decided, _, _ in found] == [MIXED] * 8
    assert [is_ours for _, _, is_ours in found].count(True) == 1


def test_a_writer_who_comes_back_late_changes_nothing(
    alice: str, bob: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = planned(alice, bob, monkeypatch)
    decided, written, _ = batches.finish(stale)
    world.play(*(t["_id"] for t in batches.transactions_of(decided)), taken)
    before = transactions({})
    assert batches.finish(stale) == (decided, written, False)
    assert transactions({}) == before


def test_a_batch_and_a_single_request_with_one_reference_make_one_transfer(alice: str, bob: str) -> None:
    together = threading.Barrier(2)
    found: list[Any] = []

    def single() -> None:
        together.wait()
        try:
            found.append(services.start_transaction(request=wish(alice, bob, 1, "r1"), key=None))
        except services.ReferenceUsed:
            found.append(None)

    thread = threading.Thread(target=single)
    thread.start()
    together.wait()
    refused = codes(begin(alice, bob, None).row)[0]
    thread.join(60)
    assert (refused == "already_exists") == (found[0] is not None)
    assert len(transactions({"reference": "r1"})) == 1


# --- Recovery ---------------------------------------------------------------------------------------------


def test_recovery_leaves_a_batch_alone_that_is_being_written(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = planned(alice, bob, monkeypatch)
    assert batches.finish_stalled() == 0
    assert row["due_at"] == clock.after(row["created_at"], settings.SAGA_STALLED_AFTER_SECONDS)


def test_a_batch_that_cannot_be_finished_stops_no_other_and_is_tried_less_and_less(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = (planned(alice, bob, monkeypatch) for _ in range(2))
    collection(TransferBatch).update_one({"_id": bad["_id"]}, {"$set": {"items.0": None}})
    pauses = []
    for attempts in (1, 2, 3):
        make_due()
        with caplog.at_level(logging.ERROR):
            batches.finish_stalled()
        row = collection(TransferBatch).find_one({"_id": bad["_id"]})
        assert row["attempts"] == attempts
        pauses.append((row["due_at"] - clock.now()).total_seconds())
    assert pauses == sorted(pauses)
    assert {t["batch_id"] for t in transactions({})} == {good["_id"]}
    collection(TransferBatch).update_one({"_id": bad["_id"]}, {"$set": {"items.0": bad["items"][0]}})


@pytest.mark.parametrize(
    "spoiled",
    [{"attempts": "x"}, {"attempts": 2**63 - 1}, {"attempts": -(2**63)}, {"items": None}, {"items": 7},
     {"items": [None] * 4}, {"refused": "x"}, {"created_at": "x"}, {"sender_id": None}],
    ids=str,
)  # fmt: skip
def test_an_odd_batch_stops_neither_other_batches_nor_transactions(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch, spoiled: dict[str, Any]
) -> None:
    bad, good = (planned(alice, bob, monkeypatch) for _ in range(2))
    alone = services.start_transaction(request=wish(alice, bob, 9), key=None).row["_id"]
    change = {"items": [None], **spoiled}
    collection(TransferBatch).update_one({"_id": bad["_id"]}, {"$set": change})
    recover()
    ended = {t["_id"] for t in transactions({"status": "COMPLETED"})}
    assert ended >= {alone, *(t["_id"] for t in batches.transactions_of(good))}
    row = collection(TransferBatch).find_one({"_id": bad["_id"]})
    assert "due_at" in row
    assert row["attempts"] in {1, 2}
    collection(TransferBatch).replace_one({"_id": bad["_id"]}, bad)


@pytest.mark.parametrize("is_odd", [False, True])
def test_a_batch_that_cannot_be_finished_is_seen(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_odd: bool
) -> None:
    assert selectors.report_saga().is_well
    batch = planned(alice, bob, monkeypatch)
    assert selectors.report_saga().is_well
    begun: Any = "x" if is_odd else clock.after(clock.now(), -3_600)
    collection(TransferBatch).update_one({"_id": batch["_id"]}, {"$set": {"created_at": begun}})
    report = selectors.report_saga()
    if not is_odd:
        assert (report.is_well, report.facts["status"]) == (False, "stalled")
        assert report.facts["queue_age_seconds"] >= 3_600
    with pytest.raises(SystemExit) as ended:
        call_command("audit", expect_settled=True)
    assert ended.value.code == 1
    assert f"L7: batch {batch['_id']} is not all written down" in capsys.readouterr().out
    call_command("audit")
    assert "is clean" in capsys.readouterr().out
    repaired = {"$set": {"created_at": batch["created_at"]}}
    collection(TransferBatch).update_one({"_id": batch["_id"]}, repaired)


def test_whatever_happens_to_batches_transactions_are_driven(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = services.start_transaction(request=wish(alice, bob, 9), key=None).row["_id"]
    with monkeypatch.context() as patched:
        patched.setattr(selectors, "find_stalled_batches", lambda **_: [None])
        recover()
    assert [t["_id"] for t in transactions({"status": "COMPLETED"})] == [alone]


def test_a_tick_that_takes_too_long_leaves_batches_to_the_next(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    for _ in range(2):
        planned(alice, bob, monkeypatch)
    make_due()
    settings.RECOVERY_TICK_SECONDS_MAX = 0
    assert batches.finish_stalled() == 0
    settings.RECOVERY_TICK_SECONDS_MAX = 20
    assert batches.finish_stalled() == 2


def test_a_tick_finishes_a_bounded_number_the_longest_overdue_first(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PER_TICK_MAX", 2)
    rows = []
    for n in range(3):
        rows.append(planned(alice, bob, monkeypatch)["_id"])
        due = {"$set": {"due_at": clock.after(clock.now(), -10 - n)}}
        collection(TransferBatch).update_one({"_id": rows[-1]}, due)
    assert batches.finish_stalled() == 2
    left = collection(TransferBatch).find({"due_at": {"$exists": True}})
    assert [row["_id"] for row in left] == rows[:1]


def test_what_comes_too_late_is_declined_and_not_lost(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {**planned(alice, bob, monkeypatch), "created_at": clock.after(clock.now(), -3_600)}
    # As it was planned then, with the MACs that were made then.
    row["items"] = [batches._with_mac(row, position, item) for position, item in enumerate(row["items"])]
    collection(TransferBatch).replace_one({"_id": row["_id"]}, row)
    recover()
    assert {t["failure"]["code"] for t in transactions({})} == {"expired"}
    assert world.balance_of(alice) == 10_000


def test_a_batch_that_no_document_can_hold_is_refused_as_a_whole(alice: str, bob: str) -> None:
    too_large = [wish(alice, bob), {"code": "x" * 17 * 2**20}]
    with pytest.raises(PayloadTooLarge):
        batches.start_batch(sender_id=alice, wishes=too_large, key=KEY)
    assert collection(TransferBatch).count_documents({}) == 0
    assert transactions({}) == []


def test_a_database_that_goes_away_is_told_and_the_repeat_finishes(
    alice: str, bob: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(name: str) -> None:
        if name == "batch.planned":
            settings.MONGODB_URI = "mongodb://127.0.0.1:9/?directConnection=true"
            settings.MONGODB_OPTIONS = {**options, "timeoutMS": 100}
            mongodb.reconnect()

    uri, options = settings.MONGODB_URI, settings.MONGODB_OPTIONS
    with monkeypatch.context() as patched:
        patched.setattr(batches, "crash_point", vanish)
        with pytest.raises(BatchUnfinished) as told:
            begin(alice, bob)
    settings.MONGODB_URI, settings.MONGODB_OPTIONS = uri, options
    mongodb.reconnect()
    again = begin(alice, bob)
    assert (again.replayed, len(again.transactions)) == (True, 4)
    assert again.row["_id"] in told.value.detail


def test_rows_are_written_as_a_single_request_writes_them(alice: str, bob: str) -> None:
    key = Key("single", "")
    single = services.start_transaction(request=wish(alice, bob, 5, "x"), key=key).row
    batch = batches.start_batch(sender_id=alice, wishes=[wish(alice, bob, 5, "y")], key=None)
    (row,) = transactions({"batch_id": batch.row["_id"]})
    own = {"_id", "reference", "initiated_at", "due_at", "history", "mac"}
    assert (transaction_mac_fault(row), transaction_mac_fault(single)) == ("", "")
    assert {k: v for k, v in row.items() if k not in own | {"batch_id"}} == {
        k: v for k, v in single.items() if k not in own | {"idempotency_key", "fingerprint"}
    }
    assert Status(row["status"]) is Status.INITIATED
