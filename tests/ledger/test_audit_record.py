"""The audit's own record: nobody changes, deletes or puts back a part of it unseen, and nothing else alarms.

Each deed is what somebody can do who writes to the database but has no ledger key. After a round of the
record it must show as UNVERIFIED: in the report, in /health, in the metric and in the full audit. And what
happens to an honest system (dying anywhere, several ticks at once, a lagging primary, an empty Redis) must
not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import LazySettings
from django.conf import settings as django_settings

from ledger import audit_record, checkpoints, monitor, record_scan, seen, settling
from ledger.audit_record import Overtaken
from ledger.documents import AuditState, Checkpoint, Finding, LedgerEntry
from ledger.posting import post
from payflow import clock, metrics, redisdb
from payflow.crypto.mac_keys import read_mac_keys
from payflow.mongodb import collection
from payflow.signing import to_base64url
from tests.ledger.books import deposit, rewrite, wallet_id
from tests.ledger.story import Story
from tests.ledger.test_checkpoints import Audit

TICKS_IN_A_ROUND = 3
OLD, NEW = (f"{name}:{to_base64url(bytes(range(n, n + 32)))}" for n, name in ((1, "old"), (101, "new")))
Database = dict[Any, list[dict[str, Any]]]
RECORD = (AuditState, Checkpoint, Finding)


@pytest.fixture
def watched(story: Story) -> Audit:
    """Everything is verified, and something is found: Bob's chain is broken."""
    audit = Audit(story.books)
    audit.tick()
    rewrite("last:withdrawal", reason="x")
    for _ in range(2):
        audit.tick()
    assert set(monitor.latest().counts) == {"L1"}
    return audit


@pytest.fixture
def sound(story: Story) -> Audit:
    """Everything is verified, and nothing is wrong."""
    audit = Audit(story.books)
    for _ in range(2):
        audit.tick()
    assert monitor.latest().status == "CLEAN"
    return audit


def copy_of_the_record() -> Database:
    return {document: list(collection(document).find()) for document in RECORD}


def put_back(saved: Database, *documents: Any) -> None:
    for document in documents or RECORD:
        collection(document).delete_many({})
        if saved[document]:
            collection(document).insert_many(deepcopy(saved[document]))


def restart_every_process() -> None:
    """Nobody remembers anything but Redis."""
    seen.forget()
    audit_record.forget_that_it_began()


def empty_redis() -> None:
    redisdb.client().flushdb()


def assert_unverified(audit: Audit) -> None:
    frozen = list(audit.frozen)
    for _ in range(TICKS_IN_A_ROUND):
        audit.tick()
    report = monitor.latest()
    assert report.unverified
    assert report.status in {"UNVERIFIED", "VIOLATED"}
    assert not monitor.report_health().is_well
    assert metrics.AUDIT_VERIFIED._value.get() == 0
    assert metrics.AUDIT_CLEAN._value.get() == 0
    assert audit.books.audit().unverified
    # An alarm of this kind freezes no wallet, but one that a checkpoint was made up for.
    assert set(audit.frozen) - set(frozen) <= {"wal_other"}


def assert_trusted(audit: Audit, status: str = "CLEAN") -> None:
    for _ in range(TICKS_IN_A_ROUND):
        assert not audit.tick().is_halted
    report = monitor.latest()
    assert (report.unverified, report.status) == ("", status)
    assert metrics.AUDIT_VERIFIED._value.get() == 1
    assert audit.books.audit().unverified == ""


# --- What somebody does who can write to the database -----------------------------------------------------


def drop(*documents: Any) -> Callable[[], None]:
    def deed() -> None:
        for document in documents:
            collection(document).delete_many({})

    return deed


def delete_one(document: Any) -> Callable[[], None]:
    def deed() -> None:
        assert collection(document).delete_one({}).deleted_count == 1

    return deed


def change(document: Any, **changes: Any) -> Callable[[], None]:
    def deed() -> None:
        assert collection(document).update_one({}, {"$set": changes}).modified_count == 1

    return deed


def add_a_finding() -> None:
    row = collection(Finding).find_one({})
    collection(Finding).insert_one({**row, "_id": "L1:other"})


def add_a_checkpoint() -> None:
    row = collection(Checkpoint).find_one({})
    collection(Checkpoint).insert_one({**row, "_id": "wal_other"})


DEEDS: dict[str, Callable[[], None]] = {
    "drop everything": drop(*RECORD),
    "drop the state": drop(AuditState),
    "drop the checkpoints": drop(Checkpoint),
    "drop the findings": drop(Finding),
    "delete a checkpoint": delete_one(Checkpoint),
    "delete a finding": delete_one(Finding),
    "add a finding": add_a_finding,
    "add a checkpoint": add_a_checkpoint,
    "close a finding": change(Finding, is_open=False),
    "move a finding into another beginning": change(Finding, beginning=99),
    "change the verdict": change(AuditState, **{"verdict.at": clock.now()}),
    "change the position": change(AuditState, **{"position.wallets": "wal_z"}),
    "change the counter": change(AuditState, counter=10**6),
    "take the alarm away": change(AuditState, mac="0" * 64),
    "make the state something else": change(AuditState, registers=7),
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=[name.replace(" ", "-") for name in DEEDS])
def test_what_is_done_to_the_record_shows(watched: Audit, deed: Callable[[], None]) -> None:
    deed()
    assert_unverified(watched)


@pytest.mark.parametrize("lost", ["nothing", "redis", "processes", "both"])
@pytest.mark.parametrize(
    "documents", [(AuditState,), (Checkpoint,), RECORD], ids=["state", "checkpoints", "all"]
)
def test_an_older_record_shows_while_anybody_remembers(
    story: Story, sound: Audit, documents: tuple[Any, ...], lost: str
) -> None:
    saved = copy_of_the_record()
    post([deposit(story.alice, 5), deposit(wallet_id(), 5)])
    sound.tick()
    if lost in ("redis", "both"):
        empty_redis()
    if lost in ("processes", "both"):
        restart_every_process()
    put_back(saved, *documents)
    if (documents, lost) == (RECORD, "both"):
        # This is what `audit --against FILE` is for.
        assert_trusted(sound)
    else:
        assert_unverified(sound)


def test_a_checkpoint_that_is_put_back_shows(story: Story, sound: Audit) -> None:
    saved = collection(Checkpoint).find_one({"_id": story.alice})
    post([deposit(story.alice, 5)])
    sound.tick()
    collection(Checkpoint).replace_one({"_id": story.alice}, saved)
    post([deposit(story.alice, 5)])
    assert_unverified(sound)


def test_a_record_that_was_wrong_once_stays_unverified(story: Story, sound: Audit) -> None:
    kept = collection(Checkpoint).find_one({"_id": story.alice})
    collection(Checkpoint).delete_one({"_id": story.alice})
    assert_unverified(sound)
    collection(Checkpoint).delete_one({"_id": story.alice})
    collection(Checkpoint).insert_one(kept)
    for _ in range(4):
        sound.tick()
    assert monitor.latest().status == "UNVERIFIED"


def test_everything_wiped_does_not_begin_by_itself(sound: Audit) -> None:
    for document in (*RECORD, LedgerEntry):
        collection(document).delete_many({})
    sound.books.facts.clear()
    assert_unverified(sound)


def test_it_is_found_however_many_there_are(story: Story, settings: LazySettings) -> None:
    settings.AUDIT_WALLETS_MAX = 3
    post([deposit(wallet_id(), 5) for _ in range(10)])
    audit = Audit(story.books)
    for _ in range(8):
        audit.tick()
    assert monitor.latest().status == "CLEAN"
    collection(Checkpoint).delete_one({"_id": story.bob})
    for _ in range(18):
        post([deposit(story.alice, 1)])
        audit.tick()
    assert monitor.latest().status == "UNVERIFIED"


# --- A new beginning ----------------------------------------------------------------------------------------


def accept(audit: Audit) -> None:
    verdict = audit.books.audit(against_checkpoints=False)
    settling.begin_anew(verdict, by="sam", reason="restored", freeze=audit.freeze)


@pytest.mark.parametrize("name", ["drop everything", "drop the checkpoints", "change the counter"])
def test_a_new_beginning_is_accepted_and_recorded(
    story: Story, sound: Audit, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    DEEDS[name]()
    assert_unverified(sound)
    accept(sound)
    assert monitor.latest().status == "UNKNOWN"
    assert_trusted(sound)
    beginning = monitor.latest().beginning
    assert beginning is not None
    assert (beginning["by"], beginning["reason"]) == ("sam", "restored")
    assert beginning["instead_of"]
    assert [r.by for r in caplog.records if r.message == "the audit begins anew"] == ["sam"]
    assert monitor.latest().entries == 7


def test_what_is_broken_is_never_clean_after_a_new_beginning(story: Story, watched: Audit) -> None:
    drop(*RECORD)()
    assert_unverified(watched)
    accept(watched)
    assert monitor.latest().status == "VIOLATED"
    assert_trusted(watched, "VIOLATED")


def test_a_process_that_remembers_more_than_redis_believes_a_new_beginning(sound: Audit) -> None:
    for _ in range(5):
        sound.tick()
    counter = seen.highest()
    drop(*RECORD)()
    empty_redis()
    restart_every_process()
    accept(sound)
    seen.note(counter)
    assert_trusted(sound)


def test_a_writer_of_an_earlier_beginning_changes_nothing(story: Story, sound: Audit) -> None:
    record = audit_record.load()
    known = checkpoints.find([story.alice], record.beginning)[story.alice]
    entry = collection(LedgerEntry).find_one({"wallet_id": story.alice, "sequence": 5})
    record.commit([checkpoints.move(known, entry, clock.now())])
    late = record.state
    drop(AuditState)()
    accept(sound)
    sound.tick()
    stale = audit_record.Record(late)
    stale.make_changes()
    with pytest.raises(Overtaken):
        stale.commit()
    assert_trusted(sound)


# --- What must not alarm ------------------------------------------------------------------------------------


def test_a_first_start_begins_by_itself(story: Story) -> None:
    restart_every_process()
    empty_redis()
    audit = Audit(story.books)
    assert monitor.report_health().is_well
    assert_trusted(audit)


def test_many_first_posts_at_once_begin_once() -> None:
    results: list[str] = []

    def begin() -> None:
        post([deposit(wallet_id(), 5)])
        results.append(audit_record.read_state().fault)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [""] * 8


def test_redis_may_be_emptied_or_away(sound: Audit, request: pytest.FixtureRequest) -> None:
    empty_redis()
    assert_trusted(sound)
    request.getfixturevalue("redis_down")
    assert_trusted(sound)


def test_all_processes_may_be_restarted(sound: Audit) -> None:
    restart_every_process()
    assert_trusted(sound)


def test_a_primary_that_lags_for_a_moment_is_no_alarm(sound: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just after an election the new primary shows an older state, or none; a moment later the latest."""
    earlier = copy_of_the_record()[AuditState]
    sound.tick()
    for old in ([], earlier):
        now = copy_of_the_record()
        put_back({AuditState: old}, AuditState)
        assert audit_record.read_state().may_pass
        shows_again = SimpleNamespace(sleep=lambda _, now=now: put_back(now, AuditState))
        monkeypatch.setattr(audit_record, "time", shows_again)
        monkeypatch.setattr(audit_record, "DOUBT_SECONDS", 60.0)
        assert monitor.latest().status == "UNKNOWN"
        assert not sound.tick().is_halted
        monkeypatch.setattr(audit_record, "DOUBT_SECONDS", 0.0)
        assert monitor.latest().unverified == ""


def test_a_page_that_was_read_too_early_is_no_alarm(story: Story, sound: Audit) -> None:
    """One scan does not add up, the next one does."""
    before = copy_of_the_record()
    post([deposit(story.alice, 5)])
    sound.tick()
    now = copy_of_the_record()
    put_back(before, Checkpoint)
    record = audit_record.load()
    scan = record_scan.scan(record, "checkpoints", 500)
    assert (scan.fault, scan.register["mismatches"]) == ("", 1)
    record.commit(registers={**record.state["registers"], "checkpoints": scan.register})
    put_back(now, Checkpoint)
    assert_trusted(sound)


def test_a_changed_key_with_the_old_one_behind_it_changes_nothing(
    story: Story, settings: LazySettings
) -> None:
    settings.LEDGER_KEYS = read_mac_keys([OLD])
    for document in (LedgerEntry, *RECORD):
        collection(document).delete_many({})
    restart_every_process()
    empty_redis()
    story = Story()
    audit = Audit(story.books)
    assert_trusted(audit)
    rewrite("last:withdrawal", reason="x")
    audit.tick()
    settings.LEDGER_KEYS = read_mac_keys([NEW, OLD])
    for _ in range(4):
        audit.tick()
    assert_trusted(audit, "VIOLATED")
    # Nothing of the record needs the old key any more.
    for document in RECORD:
        assert collection(document).distinct("key_id", {"_id": {"$ne": story.bob}}) == ["new"]
    settings.LEDGER_KEYS = read_mac_keys([NEW])
    assert monitor.latest().unverified == ""


def test_a_lost_key_halts_the_audit_and_freezes_nobody(
    story: Story, sound: Audit, settings: LazySettings
) -> None:
    settings.LEDGER_KEYS = read_mac_keys([NEW])
    assert_unverified(sound)
    assert "not known here" in monitor.latest().unverified


def test_ticks_beside_each_other_add_up(story: Story, settings: LazySettings) -> None:
    settings.AUDIT_WALLETS_MAX = 2
    audits = [Audit(story.books) for _ in range(3)]
    failures: list[BaseException] = []

    def go_on(audit: Audit) -> None:
        try:
            for _ in range(12):
                post([deposit(wallet_id(), 1), deposit(story.alice, 1)])
                audit.tick()
        except BaseException as error:  # noqa: BLE001 - a thread's failure must fail the test
            failures.append(error)

    threads = [threading.Thread(target=go_on, args=[audit]) for audit in audits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    settings.AUDIT_WALLETS_MAX = 500
    assert_trusted(audits[0])
    assert [audit.frozen for audit in audits] == [[], [], []]


@pytest.mark.parametrize("point", ["audit.recorded", "audit.changed"])
def test_a_tick_that_dies_anywhere_leaves_a_record_that_adds_up(
    story: Story, tmp_path: Path, point: str
) -> None:
    """Processes die at the point again and again, each at its next arrival there, the last one lives."""
    code = (
        "import os, signal, django; django.setup(); import payflow.crashpoints as c; "
        "from ledger import audit_record, monitor\n"
        f"left = [int(os.environ['ARRIVALS'])]\n"
        "def reach(name):\n"
        f"    left[0] -= name == {point!r}\n"
        "    if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "audit_record.crash_point = reach\n"
        "monitor.tick(transactions=None, freeze=lambda wallet: None)\n"
    )
    rewrite("last:withdrawal", reason="x")
    deaths = 0
    for arrivals in (0, 1, 1, 2, 2, 99):
        post([deposit(wallet_id(), 1), deposit(story.alice, 1)])
        environment = {**os.environ, "ARRIVALS": str(arrivals), "MONGODB_DATABASE": database_name()}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=django_settings.BASE_DIR, check=False
        )
        deaths += done.returncode == -9
        # Whoever reads it next makes the changes, or takes them into account.
        assert story.books.audit().unverified == ""
    assert (done.returncode, deaths) == (0, 5)
    assert_trusted(Audit(story.books), "VIOLATED")


def database_name() -> str:
    return str(django_settings.MONGODB_DATABASE)


# --- Freezes ------------------------------------------------------------------------------------------------


def test_a_wallet_that_is_thawed_in_the_database_is_frozen_again(
    story: Story, watched: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    watched.frozen.clear()
    watched.tick()
    assert watched.frozen == [story.bob]
    told = [r for r in caplog.records if r.message == "a broken wallet was not frozen; it is again"]
    assert [record.wallet_id for record in told] == [story.bob]
