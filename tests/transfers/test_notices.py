"""Which notices are written down, that they are written once, and what they say."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from pymongo.errors import BulkWriteError

from payflow import clock
from payflow.celery import app
from payflow.errors import Transient
from payflow.mongodb import collection
from tests.transfers import world
from tests.transfers.workers import prefork_worker
from transfers import inbox, moves, notice_texts, notices, postman, recovery, saga, tasks
from transfers.documents import Kind, Notice, Transaction
from wallets import services as wallet_services

LINK = "https://payflow.example/auth/unsubscribe?token=a%3Ab"
ROW: dict[str, Any] = {
    "_id": "txn_1",
    "amount_minor": 123_456,
    "currency": "EUR",
    "description": "Rent",
    "completed_at": datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
    "failure": {"code": "insufficient_balance", "detail": "The balance was too low.", "refunded": False},
}


def write_down() -> int:
    return notices.write_down(transactions_max=100)


def written() -> set[tuple[str, str]]:
    return {(row["kind"], row["user_id"]) for row in collection(Notice).find()}


# --- Which --------------------------------------------------------------------------------------------------


def test_both_hear_of_a_transfer_and_only_the_sender_of_a_failure(alice: str, bob: str) -> None:
    world.play(world.start(alice, bob, 900_000))
    assert write_down() == 1
    assert written() == {("TRANSFER_FAILED", alice)}
    world.play(world.start(alice, bob, 100))
    assert write_down() == 1
    assert written() == {("TRANSFER_FAILED", alice), ("TRANSFER_SENT", alice), ("TRANSFER_RECEIVED", bob)}


def test_of_one_that_was_refunded_only_the_sender_hears(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    saga.debit([transaction])
    wallet_services.freeze_wallets(user_id=bob)
    saga.refund(saga.credit([transaction]).refused)
    assert world.row_of(transaction)["failure"]["refunded"]
    write_down()
    assert written() == {("TRANSFER_FAILED", alice)}


def test_one_that_has_not_ended_is_told_of_to_nobody(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    saga.credit(saga.debit([transaction]))
    assert write_down() == 0
    saga.complete([transaction])
    assert write_down() == 1


def test_the_first_that_ended_come_first_and_no_more_than_are_asked_for(alice: str, bob: str) -> None:
    transactions = [world.start(alice, bob, 100) for _ in range(3)]
    for transaction in reversed(transactions):
        world.play(transaction)
        time.sleep(0.002)
    notices.write_down(transactions_max=2)
    assert {row["transaction_id"] for row in collection(Notice).find()} == set(transactions[1:])
    assert [notices.write_down(transactions_max=2) for _ in range(2)] == [1, 0]


def test_with_notifications_off_nobody_is_told_of_what_ended_meanwhile(
    alice: str, bob: str, settings: LazySettings
) -> None:
    settings.NOTIFICATIONS_ENABLED = False
    world.play(world.start(alice, bob, 100))
    settings.NOTIFICATIONS_ENABLED = True
    assert write_down() == 0


def test_announcing_and_writing_again_and_again_writes_nothing_more(alice: str, bob: str) -> None:
    transactions = [world.start(alice, bob, 100) for _ in range(3)]
    world.play(*transactions)
    due = [world.row_of(transaction)["notices_due_at"] for transaction in transactions]
    write_down()
    before = list(collection(Notice).find().sort("_id", 1))
    for _ in range(2):
        moves.announce([world.row_of(transaction) for transaction in transactions])
        # As after a death before it was taken back.
        for transaction, at in zip(transactions, due, strict=True):
            collection(Transaction).update_one({"_id": transaction}, {"$set": {"notices_due_at": at}})
        assert write_down() == 3
    assert list(collection(Notice).find().sort("_id", 1)) == before
    assert len(before) == 6


def test_a_kill_while_it_ends_loses_and_doubles_nothing(alice: str, bob: str, tmp_path: Path) -> None:
    transaction = world.start(alice, bob, 100)
    armed = {"PAYFLOW_CRASH_AT": "saga.moved_to_completed", "PAYFLOW_DATA_DIR": str(tmp_path)}
    with prefork_worker(armed) as worker:
        inbox.push([transaction])
        tasks.start_saga()
        assert worker.wait(timeout=60) == -signal.SIGKILL
    # Before its last event was told: what is written down may have been sent by then.
    postman.send_due()
    world.make_due(transaction)
    recovery.recover_stalled()
    postman.send_due()
    assert written() == {("TRANSFER_SENT", alice), ("TRANSFER_RECEIVED", bob)}
    assert [row["attempt_count"] for row in collection(Notice).find()] == [1, 1]


@pytest.mark.parametrize(
    "details",
    [
        {
            "writeErrors": [],
            "writeConcernErrors": [{"code": 64, "errmsg": "timed out"}],
        },
        {
            "writeErrors": [{"index": 0, "code": 189, "errmsg": "stepped down"}],
            "writeConcernErrors": [],
        },
    ],
    ids=["not lasting", "not written"],
)
def test_a_write_that_may_not_last_is_done_again(
    details: dict[str, Any], alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a replica set says when it loses its primary; the transaction stays on the list."""

    class Unsure:
        def insert_many(self, rows: list, *, ordered: bool) -> None:
            raise BulkWriteError(details)

    world.play(world.start(alice, bob, 100))
    real = notices.collection
    with monkeypatch.context() as patched:
        patched.setattr(
            notices, "collection", lambda of, **more: Unsure() if of is Notice else real(of, **more)
        )
        with pytest.raises(Transient):
            write_down()
    assert write_down() == 1
    assert written() == {("TRANSFER_SENT", alice), ("TRANSFER_RECEIVED", bob)}


def test_what_ended_long_ago_is_removed(
    alice: str, bob: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "REMOVED_MAX", 2)
    world.play(*[world.start(alice, bob, 100) for _ in range(4)])
    write_down()
    everything = [row["_id"] for row in collection(Notice).find().sort("_id", 1)]
    old, recent = (clock.after(clock.now(), -86_400 * days) for days in (8, 6))
    settings.NOTIFICATIONS_RETENTION_DAYS = 7
    for ids, at in ((everything[:5], old), (everything[5:7], recent)):
        collection(Notice).update_many({"_id": {"$in": ids}}, {"$set": {"finished_at": at}})
    app.tasks[settings.CELERY_BEAT_SCHEDULE["notification_removal"]["task"]]()
    assert [row["_id"] for row in collection(Notice).find().sort("_id", 1)] == everything[5:]
    assert notices.remove_old() == 0


# --- What they say ------------------------------------------------------------------------------------------


def letter(kind: Kind, *, other: str = "Bob", locale: str = "en_US", **change: Any) -> notice_texts.Letter:
    return notice_texts.transfer_letter(
        kind, {**ROW, **change}, other_name=other, locale=locale, unsubscribe_url=LINK
    )


@pytest.mark.parametrize(
    ("kind", "subject", "sentence"),
    [
        (Kind.SENT, "You sent €1,234.56 to Bob", "The money has arrived."),
        (Kind.RECEIVED, "You received €1,234.56 from Bob", "The money is in your wallet."),
        (Kind.FAILED, "Your payment of €1,234.56 to Bob failed", "Nothing was taken."),
    ],
)
def test_says_what_happened(kind: Kind, subject: str, sentence: str) -> None:
    found = letter(kind)
    assert found.subject == subject
    for body in (found.text, found.html):
        assert sentence in body
        assert "Rent" in body
        assert "txn_1" in body
        assert "Jan 31, 2026, 9:30:00\N{NARROW NO-BREAK SPACE}AM UTC" in body
        assert LINK in body


def test_says_that_the_money_is_back() -> None:
    refunded = {**ROW["failure"], "detail": "Refused.", "refunded": True}
    text = letter(Kind.FAILED, failure=refunded).text
    assert "Refused.\nAll of the money is back in your wallet." in text
    assert "Nothing was taken" not in text


def test_writes_in_the_locale_of_who_reads_it() -> None:
    found = letter(Kind.SENT, locale="de_DE")
    assert found.subject == "You sent 1.234,56\N{NO-BREAK SPACE}€ to Bob"
    assert "31.01.2026, 09:30:00 UTC" in found.html


class Elements(HTMLParser):
    """What a mail program would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [value or "" for name, value in attrs if name in ("src", "href", "background")]
        self.outside += [value or "" for name, value in attrs if name == "style" and "url(" in (value or "")]


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '"><img src=https://evil.example/x>',
        "</td></tr></table><h1>Your account is locked</h1>",
        "{{ content }}{% now 'Y' %}",
        "line\r\nSubject: other\n\nNew paragraph",
        "\u202egnp.exe\u2066\x1b[31m\x00",
        "x" * 5_000,
    ],
)
def test_what_people_wrote_stays_in_its_place(hostile: str) -> None:
    plain = letter(Kind.RECEIVED)
    found = letter(Kind.RECEIVED, other=hostile, description=hostile)
    assert Elements(found.html).tags == Elements(plain.html).tags
    assert len(found.text.splitlines()) == len(plain.text.splitlines())
    assert found.subject.isprintable()
    assert len(found.subject) < 400
    assert not {"\u202e", "\u2066", "\x1b", "\x00"} & {*found.text, *found.html}


def test_a_mail_loads_nothing_and_links_to_one_place() -> None:
    assert Elements(letter(Kind.SENT).html).outside == [LINK]


def test_text_is_not_escaped_for_html() -> None:
    assert "From: Tom & Jerry's <b>" in letter(Kind.RECEIVED, other="Tom & Jerry's <b>").text
