"""The continuous audit: what it costs and remembers, how it goes on, and that it raises no false alarm."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings

from ledger import audit_record, checkpoints, findings, incremental, monitor, record_scan, rounds, settling
from ledger.audit_record import Overtaken
from ledger.documents import AuditState, Checkpoint, Finding, LedgerEntry
from ledger.errors import StillBroken
from ledger.monitor import Tick
from ledger.posting import post
from payflow import clock
from payflow.mongodb import collection
from tests.ledger.books import Books, deposit, rewrite, wallet_id, withdrawal
from tests.ledger.story import Story

SECRET, NEXT_SECRET = "the first secret of this test" * 2, "the second secret of this test" * 2


class Audit:
    """The continuous audit over a story; it notes whom it froze."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.frozen: list[str] = []

    def freeze(self, wallet: str) -> bool:
        is_new = wallet not in self.frozen
        if is_new:
            self.frozen.append(wallet)
        return is_new

    def tick(self) -> Tick:
        return monitor.tick(transactions=self.books, freeze=self.freeze)

    def details(self) -> list[str]:
        return [violation["detail"] for violation in monitor.latest().violations]


@pytest.fixture
def watched(story: Story) -> Audit:
    return Audit(story.books)


def heads() -> dict[str, tuple[int, str]]:
    rows = collection(LedgerEntry).find().sort({"wallet_id": 1, "sequence": 1})
    return {row["wallet_id"]: (row["sequence"], row["hash"]) for row in rows}


def remembered() -> dict[str, tuple[int, str]]:
    return {row["_id"]: (row["sequence"], row["hash"]) for row in collection(Checkpoint).find()}


def sequence(wallet: str) -> int:
    return int(checkpoint_of(wallet)["sequence"])


def checkpoint_of(wallet: str) -> dict[str, Any]:
    return dict(checkpoints.find([wallet], audit_record.load().beginning)[wallet])


# --- How far ------------------------------------------------------------------------------------------------


def test_nothing_is_known_before_the_first_tick(story: Story) -> None:
    report = monitor.latest()
    assert (report.status, report.checked_at, report.entries) == ("UNKNOWN", None, 0)


def test_an_empty_ledger_is_clean() -> None:
    assert Audit(Books()).tick() == Tick(seconds=pytest.approx(0, abs=60))
    assert monitor.latest().status == "CLEAN"


def test_checkpoints_follow_the_heads(story: Story, watched: Audit) -> None:
    assert watched.tick().verified == 7
    assert remembered() == heads()
    story.books.pay(story.bob, story.alice, 5)
    assert watched.tick().verified == 2
    assert remembered() == heads()
    report = monitor.latest()
    assert (report.status, report.wallets, report.entries, report.behind_entries) == ("CLEAN", 2, 9, 0)
    assert report.behind_seconds is not None
    assert report.rounds["entries"].ended_at is not None


def test_a_tick_is_bounded_and_the_next_goes_on(story: Story, watched: Audit, settings: LazySettings) -> None:
    settings.AUDIT_NEW_ENTRIES_MAX = settings.AUDIT_OLD_ENTRIES_MAX = settings.AUDIT_WALLETS_MAX = 3
    wallets = [wallet_id() for _ in range(10)]
    post([deposit(wallet, 5) for wallet in wallets for _ in range(3)])
    ticks = []
    for _ in range(60):
        ticks.append(watched.tick())
        if monitor.latest().behind_seconds is not None:
            break
    assert len(ticks) > 5
    assert max(tick.verified for tick in ticks) <= 3 * 3 + 4
    assert max(tick.reverified for tick in ticks) <= 3
    assert remembered() == heads()
    assert monitor.latest().entries == 37


def test_the_lag_says_what_is_left(story: Story, watched: Audit, settings: LazySettings) -> None:
    watched.tick()
    settings.AUDIT_NEW_ENTRIES_MAX = 1
    settings.AUDIT_OLD_ENTRIES_MAX = 2
    # With one wallet at a time the other one waits.
    settings.AUDIT_WALLETS_MAX = 1
    settings.AUDIT_TICK_SECONDS_MAX = 0
    caught_up = monitor.latest().behind_seconds
    post([deposit(story.alice, 1), deposit(story.bob, 1)])
    assert watched.tick().behind == 1
    report = monitor.latest()
    assert report.behind_entries == 1
    assert report.behind_seconds > caught_up


def test_a_verdict_that_nobody_renews_is_no_verdict(watched: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.tick()
    later(monkeypatch, 3_600)
    assert monitor.latest().status == "UNKNOWN"


def test_what_a_tick_reads_does_not_grow_with_history(
    monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    settings.AUDIT_OLD_ENTRIES_MAX, settings.AUDIT_WALLETS_MAX = 50, 5
    monkeypatch.setattr(rounds, "NEWEST_BATCH_ENTRIES", 20)
    wallets, read, audit = [wallet_id() for _ in range(10)], [], Audit(Books())
    reads: list[int] = []
    real = rounds.committed

    def counted(document: Any) -> Any:
        return Counting(real(document), reads)

    monkeypatch.setattr(rounds, "committed", counted)
    for _ in range(3):
        for _ in range(20):
            post([deposit(wallet, 1) for wallet in wallets for _ in range(3)])
        for _ in range(30):
            audit.tick()
        post([deposit(wallets[0], 1)])
        reads.clear()
        assert audit.tick().verified == 1
        read.append(sum(reads))
    assert max(read) <= 2 * 20 + 50 + 5
    assert audit.frozen == []


class Counting:
    """A collection that counts the documents taken from it."""

    def __init__(self, inner: Any, reads: list[int]) -> None:
        self._inner, self._reads = inner, reads

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in {"find", "aggregate", "sort", "limit"}:
            return found
        return lambda *given, **named: Counting(found(*given, **named), self._reads)

    def __iter__(self) -> Any:
        for item in self._inner:
            self._reads.append(1)
            yield item


# --- Several at once ----------------------------------------------------------------------------------------


def test_ticks_beside_each_other_and_beside_writers_raise_no_false_alarm(story: Story) -> None:
    audits = [Audit(story.books) for _ in range(3)]
    stop = threading.Event()
    failures: list[BaseException] = []

    def until_stopped(act: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                while not stop.is_set():
                    act()
            except BaseException as error:  # noqa: BLE001 - a thread's failure must fail the test
                failures.append(error)

        return run

    pay = [
        lambda: story.books.pay(story.alice, story.bob, 1),
        lambda: post([deposit(story.alice, 2), withdrawal(story.bob, 1)]),
    ]
    threads = [threading.Thread(target=until_stopped(act)) for act in (*pay, *(a.tick for a in audits))]
    for thread in threads:
        thread.start()
    stop.wait(4)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    last = Audit(story.books)
    last.tick()
    assert [audit.frozen for audit in (*audits, last)] == [[], [], [], []]
    assert remembered() == heads()
    assert story.audit().is_clean


def test_a_checkpoint_moves_only_from_where_it_was_read(story: Story, watched: Audit) -> None:
    """A writer that has stood still meanwhile changes nothing."""
    watched.tick()
    stale, known = audit_record.load(), checkpoint_of(story.alice)
    entries = {row["sequence"]: row for row in collection(LedgerEntry).find({"wallet_id": story.alice})}
    post([deposit(story.alice, 1)])
    watched.tick()
    with pytest.raises(Overtaken):
        stale.commit([checkpoints.move(known, entries[5], clock.now())])
    assert sequence(story.alice) == 6


def test_a_tick_that_was_overtaken_ends_and_the_other_stands(
    watched: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.tick()
    scan = record_scan.scan

    def overtaken(*given: Any, **named: Any) -> Any:
        audit_record.load().commit(position={"wallets": "wal_x"})
        return scan(*given, **named)

    monkeypatch.setattr(record_scan, "scan", overtaken)
    assert watched.tick().is_overtaken
    assert collection(AuditState).find_one({})["position"]["wallets"] == "wal_x"
    assert watched.frozen == []


# --- What is broken -----------------------------------------------------------------------------------------


def break_alice(story: Story) -> str:
    """Return the id of the entry that was changed."""
    entry_id = f"{story.paid}:debit"
    rewrite(entry_id, amount_minor=-2_999)
    return entry_id


def test_a_break_is_told_once(story: Story, watched: Audit, caplog: pytest.LogCaptureFixture) -> None:
    watched.tick()
    break_alice(story)
    news = [watched.tick().news for _ in range(4)]
    assert news == [1, 0, 0, 0]
    told = [record for record in caplog.records if record.message == "ledger invariant broken"]
    assert [(r.levelname, r.wallet_id, r.sequence) for r in told] == [("ERROR", story.alice, 2)]
    assert watched.frozen == [story.alice]


def test_the_wallet_is_frozen_before_it_is_written_down(story: Story, watched: Audit) -> None:
    """A death in between must leave the break to be found again."""
    break_alice(story)

    def die(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        monitor.tick(transactions=story.books, freeze=die)
    assert collection(Finding).count_documents({}) == 0
    watched.tick()
    assert watched.frozen == [story.alice]


def test_everybody_else_goes_on(story: Story, watched: Audit) -> None:
    watched.tick()
    break_alice(story)
    watched.tick()
    post([deposit(story.bob, 5)])
    assert watched.tick().verified == 1
    assert sequence(story.bob) == 3


def test_an_entry_without_a_position_is_found(story: Story, watched: Audit) -> None:
    watched.tick()
    rewrite(f"{story.paid}:debit", sequence="two")
    watched.tick()
    assert watched.frozen == [story.alice]
    assert watched.tick().news == 0


def test_a_transaction_that_came_right_is_cleared(story: Story, watched: Audit) -> None:
    fact = story.books.facts[story.paid]
    story.books.move(story.paid, "FAILED")
    watched.tick()
    assert {v["transaction_id"] for v in monitor.latest().violations} == {story.paid}
    assert watched.frozen == []
    story.books.facts[story.paid] = fact
    watched.tick()
    assert monitor.latest().status == "CLEAN"
    assert collection(Finding).distinct("cleared_by") == ["the audit"]


# --- What is missing ----------------------------------------------------------------------------------------


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = clock.now() + timedelta(seconds=seconds)
    monkeypatch.setattr(clock, "now", lambda: now)


def hide(wallet: str, sequence: int) -> Callable[[], None]:
    """Let the end of a chain be invisible, as just after an election; return what shows it again."""
    query = {"wallet_id": wallet, "sequence": {"$gte": sequence}}
    rows = list(collection(LedgerEntry).find(query))
    collection(LedgerEntry).delete_many(query)
    return lambda: collection(LedgerEntry).insert_many(rows)


@pytest.mark.parametrize("sequence", [5, 1])
def test_a_tail_that_comes_back_was_never_missing(
    story: Story, watched: Audit, monkeypatch: pytest.MonkeyPatch, sequence: int
) -> None:
    watched.tick()
    show = hide(story.alice, sequence)
    for _ in range(3):
        assert watched.tick().news == 0
    show()
    watched.tick()
    later(monkeypatch, 60)
    hide(story.alice, sequence)
    watched.tick()
    assert (watched.frozen, monitor.latest().status) == ([], "CLEAN")


def test_a_tail_that_stays_away_is_told_by_a_later_tick(
    story: Story, watched: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.tick()
    hide(story.alice, 5)
    assert watched.tick().news == 0
    later(monkeypatch, incremental.MISSING_SECONDS_MIN - 1)
    assert watched.tick().news == 0
    later(monkeypatch, 1.1)
    # The wallet's chain, and the transaction whose refund it was.
    assert watched.tick().news == 2
    assert watched.frozen == [story.alice]


def test_an_entry_that_was_seen_is_looked_for_until_it_is_there(
    story: Story, watched: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest entries are seen, and gone when they are to be followed."""
    watched.tick()
    post([deposit(story.alice, 1)])
    targets = rounds.newest(1, entries_max=100, report=lambda _: None)
    hide(story.alice, 6)
    with monkeypatch.context() as patched:
        patched.setattr(rounds, "newest", lambda *_, **__: targets)
        assert watched.tick().behind == 1
    assert watched.frozen == []
    later(monkeypatch, 60)
    assert watched.tick().news == 1
    assert watched.frozen == [story.alice]


# --- Settling -----------------------------------------------------------------------------------------------


def test_a_broken_chain_cannot_be_settled(story: Story, watched: Audit) -> None:
    watched.tick()
    break_alice(story)
    watched.tick()
    for accept in (False, True):
        with pytest.raises(StillBroken):
            settling.settle_wallet(story.alice, by="sam", accept=accept)
    assert monitor.latest().status == "VIOLATED"


def test_a_repaired_chain_is_settled(story: Story, watched: Audit) -> None:
    watched.tick()
    entry_id = break_alice(story)
    watched.tick()
    rewrite(entry_id, amount_minor=-3_000)
    assert settling.settle_wallet(story.alice, by="sam", accept=False) == 1
    assert watched.tick().news == 0
    assert monitor.latest().status == "CLEAN"
    assert collection(Finding).find_one({})["cleared_by"] == "sam"
    break_alice(story)
    assert watched.tick().news == 1


def test_a_cut_tail_is_settled_only_by_accepting_it(
    story: Story, watched: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incremental, "MISSING_SECONDS_MIN", 0)
    watched.tick()
    collection(LedgerEntry).delete_one({"wallet_id": story.alice, "sequence": 5})
    for _ in range(2):
        watched.tick()
    with pytest.raises(StillBroken, match="#5 was verified and is gone"):
        settling.settle_wallet(story.alice, by="sam", accept=False)
    assert settling.settle_wallet(story.alice, by="sam", accept=True) == 1
    assert sequence(story.alice) == 4
    watched.tick()
    assert findings.broken_wallets([story.alice], 1) == set()


def test_what_is_settled_is_what_was_verified(
    story: Story, watched: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.tick()
    compare = checkpoints.compare

    def grow_first(*given: Any, **named: Any) -> None:
        post([deposit(story.alice, 1)])
        compare(*given, **named)

    monkeypatch.setattr(checkpoints, "compare", grow_first)
    settling.settle_wallet(story.alice, by="sam", accept=False)
    assert sequence(story.alice) == 5
    assert watched.tick().verified == 1


# --- A wallet opened later ----------------------------------------------------------------------------------


def test_a_wallet_opened_later_needs_no_checkpoint_yet(story: Story, watched: Audit) -> None:
    watched.tick()
    post([deposit(wallet_id(), 1)])
    assert story.audit().is_clean
    assert watched.tick().verified == 1
    assert watched.frozen == []
