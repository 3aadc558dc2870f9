"""Many mails: senders and recipients have turns, and beyond so many in an hour one digest tells the rest."""

from __future__ import annotations

import signal
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings

from accounts.models import User
from payflow import clock
from payflow.mongodb import collection
from tests.transfers import world
from tests.transfers.mail_sink import Sink, make_due, postman_process, stored
from transfers import digests, notice_queue, notices, postman, selectors
from transfers.digests import Line
from transfers.documents import Kind, Notice, NoticeStatus
from transfers.notice_texts import digest_letter

HOUR = datetime.fromisoformat("2026-01-31T09:00:00+00:00")


@pytest.fixture(autouse=True)
def turns() -> None:
    notice_queue._go_on_after.clear()


def pay(sender: str, *receivers: str) -> None:
    """Let a sender pay so many, a cent each."""
    world.play(*[world.start(sender, receiver, 1) for receiver in receivers])


def statuses(user_id: str) -> Counter[str]:
    return Counter(row["status"] for row in stored() if row["user_id"] == user_id)


def recipients(sink: Sink) -> list[str]:
    ids = {user.email: str(user.pk) for user in User.objects.all()}
    return [ids[mail["To"]] for mail in sink.mails]


def close_the_hour() -> None:
    """Let the hour of every digest be over."""
    query = {"kind": Kind.DIGEST.value, "status": NoticeStatus.PENDING.value}
    past = clock.after(clock.now(), -1)
    collection(Notice).update_many(query, {"$set": {"next_attempt_at": past}})


# --- Turns ------------------------------------------------------------------------------------------------


@pytest.fixture
def crowd(settings: LazySettings, alice: str) -> list[str]:
    """Five strangers who have paid alice 30 times each."""
    settings.NOTIFICATIONS_PER_HOUR_MAX = 10_000
    settings.NOTIFICATIONS_BATCH_MAX, settings.NOTIFICATIONS_EVERY_SECONDS = 20, 0.0
    strangers = [world.person(f"stranger{number}", balance_minor=1_000) for number in range(5)]
    for stranger in strangers:
        pay(stranger, *[alice] * 30)
    return strangers


@pytest.mark.parametrize("is_new", [True, False], ids=["the same recipient", "another recipient"])
def test_a_mail_waits_for_turns_and_not_for_everybodys_mails(
    is_new: bool, crowd: list[str], sink: Sink, alice: str
) -> None:
    """It came last, behind 300 others, and is in the first batch of 20."""
    victim = world.person("victim", balance_minor=1_000)
    friend = alice if is_new else world.person("friend")
    pay(victim, friend)
    postman.send_due()
    assert len(sink.mails) == 20
    senders = {row["sender_id"] for row in stored() if row["status"] == "SENT"}
    assert {victim, *crowd} <= senders
    assert victim in recipients(sink)


def test_one_sender_with_many_recipients_delays_nobody_elses(settings: LazySettings, sink: Sink) -> None:
    settings.NOTIFICATIONS_BATCH_MAX, settings.NOTIFICATIONS_EVERY_SECONDS = 4, 0.0
    payer = world.person("payer", balance_minor=1_000)
    pay(payer, *[world.person(f"worker{number:02}") for number in range(30)])
    victim, friend = world.person("victim", balance_minor=1_000), world.person("zoe")
    pay(victim, friend)
    for _ in range(2):
        postman.send_due()
    assert {victim, friend} <= set(recipients(sink))


def test_turns_go_in_a_circle_and_read_one_row_each(crowd: list[str], alice: str) -> None:
    notices.write_down(transactions_max=1_000)
    now, names = clock.now(), sorted(crowd)
    seen = [
        row["sender_id"]
        for _ in range(4)
        for id_ in notice_queue._one_each("sender_id", now, 2)
        for row in stored()
        if row["_id"] == id_
    ]
    assert seen == [*names, *names][:8]
    query = {**notice_queue._due(now), "sender_id": {"$gt": names[1]}}
    cursor = collection(Notice).find(query, {"sender_id": 1}, hint="due_by_sender")
    plan = cursor.sort([("sender_id", 1), ("next_attempt_at", 1)]).limit(1).explain()["executionStats"]
    assert plan["totalDocsExamined"] == 1
    assert plan["totalKeysExamined"] < 5


def test_mails_that_wait_for_their_next_try_are_passed_by_with_one_seek(crowd: list[str]) -> None:
    notices.write_down(transactions_max=1_000)
    first = min(crowd)
    later = clock.after(clock.now(), 600)
    collection(Notice).update_many({"sender_id": first}, {"$set": {"next_attempt_at": later}})
    query = {**notice_queue._due(clock.now()), "sender_id": {"$gt": ""}}
    cursor = collection(Notice).find(query, {"sender_id": 1}, hint="due_by_sender")
    plan = cursor.sort([("sender_id", 1), ("next_attempt_at", 1)]).limit(1).explain()["executionStats"]
    assert plan["totalKeysExamined"] < 10


def test_health_asks_whether_mails_are_handled_not_how_many_wait(
    crowd: list[str], sink: Sink, settings: LazySettings
) -> None:
    notices.write_down(transactions_max=1_000)
    long_ago = clock.now() - timedelta(seconds=settings.NOTIFICATIONS_OVERDUE_SECONDS_MAX + 100)
    collection(Notice).update_many({}, {"$set": {"next_attempt_at": long_ago}})
    assert not selectors.report_notices().is_well
    postman.send_due()
    assert selectors.report_notices().is_well
    collection(Notice).update_many({"finished_at": {"$exists": True}}, {"$set": {"finished_at": long_ago}})
    assert not selectors.report_notices().is_well


# --- The cap and the digest -------------------------------------------------------------------------------


def test_beyond_the_cap_one_digest_says_the_rest(
    sink: Sink, alice: str, bob: str, settings: LazySettings
) -> None:
    settings.NOTIFICATIONS_PER_HOUR_MAX, settings.NOTIFICATIONS_BATCH_MAX = 3, 10
    settings.NOTIFICATIONS_EVERY_SECONDS = 600.0
    pay(alice, *[bob] * 20)
    for _ in range(10):
        postman.send_due()
    assert Counter(recipients(sink)) == {alice: 3, bob: 3}
    assert statuses(bob) == {"SENT": 3, "DIGESTED": 17, "PENDING": 1}
    close_the_hour()
    for _ in range(3):
        postman.send_due()
    assert Counter(recipients(sink)) == {alice: 4, bob: 4}
    mails = dict(zip(recipients(sink)[-2:], sink.mails[-2:], strict=True))
    assert mails[bob]["Subject"] == mails[alice]["Subject"] == "17 transfers in one hour"
    for part in mails[bob].iter_parts():
        assert "Received" in part.get_content()
        assert "17 transfers: $0.17" in part.get_content()
        assert "/transactions" in part.get_content()
    assert "Sent: 17 transfers: $0.17" in mails[alice].get_body(("plain",)).get_content()
    assert mails[bob]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


def test_the_next_hour_has_mails_of_its_own(sink: Sink, alice: str, bob: str, settings: LazySettings) -> None:
    settings.NOTIFICATIONS_PER_HOUR_MAX = 2
    pay(alice, *[bob] * 5)
    postman.send_due()
    an_hour_ago = clock.after(clock.now(), -3_600)
    collection(Notice).update_many({"status": "SENT"}, {"$set": {"finished_at": an_hour_ago}})
    pay(alice, bob)
    postman.send_due()
    assert Counter(recipients(sink)) == {alice: 3, bob: 3}


def test_other_messages_are_in_no_digest(sink: Sink, alice: str, bob: str, settings: LazySettings) -> None:
    settings.NOTIFICATIONS_PER_HOUR_MAX = 1
    pay(alice, *[bob] * 3)
    for number in range(3):
        notices.write_down_disabled(
            subscription_id=f"wh_{number}", user_id=alice, url="https://x.example/", reason="GONE",
            since=clock.now(),
        )  # fmt: skip
    postman.send_due()
    assert Counter(recipients(sink))[alice] == 4


def test_a_mail_of_unknown_outcome_counts_and_is_in_no_digest(
    sink: Sink, alice: str, bob: str, settings: LazySettings
) -> None:
    settings.NOTIFICATIONS_PER_HOUR_MAX = 1
    sink.data = ["close", "close"]
    pay(alice, bob)
    postman.send_due()
    pay(alice, bob)
    postman.send_due()
    assert statuses(bob) == {"UNKNOWN": 1, "DIGESTED": 1, "PENDING": 1}
    assert statuses(alice) == {"UNKNOWN": 1, "DIGESTED": 1, "PENDING": 1}


def test_a_digest_whose_outcome_is_unknown_is_not_sent_again(
    sink: Sink, alice: str, bob: str, settings: LazySettings
) -> None:
    settings.NOTIFICATIONS_PER_HOUR_MAX = 1
    pay(alice, *[bob] * 3)
    postman.send_due()
    given = len(sink.mails)
    close_the_hour()
    sink.data = ["close", "close"]
    postman.send_due()
    sink.data = []
    make_due()
    postman.send_due()
    # The server has taken each, and the answer was lost.
    assert len(sink.mails) == given + 2
    assert statuses(bob)["UNKNOWN"] == statuses(alice)["UNKNOWN"] == 1


def test_who_wants_no_mails_gets_no_digest(sink: Sink, alice: str, bob: str, settings: LazySettings) -> None:
    settings.NOTIFICATIONS_PER_HOUR_MAX = 1
    pay(alice, *[bob] * 3)
    postman.send_due()
    given = Counter(recipients(sink))
    User.objects.filter(pk=bob).update(email_notifications=False)
    close_the_hour()
    postman.send_due()
    assert Counter(recipients(sink)) == given + Counter({alice: 1})


def test_a_digest_of_nothing_is_not_sent(sink: Sink, alice: str) -> None:
    row = notices.digest_row(alice, HOUR, due_at=clock.after(clock.now(), -1))
    collection(Notice).insert_one(row)
    postman.send_due()
    assert (statuses(alice), sink.mails) == ({"SKIPPED": 1}, [])


@pytest.mark.parametrize("point", ["notices.digest_written", "notices.digested"])
def test_a_sender_that_dies_on_the_way_to_a_digest_mails_nothing_twice(
    point: str, sink: Sink, alice: str, bob: str, settings: LazySettings, tmp_path: Path
) -> None:
    settings.NOTIFICATIONS_PER_HOUR_MAX = 2
    pay(alice, *[bob] * 6)
    env = {
        "PAYFLOW_CRASH_AT": point, "PAYFLOW_DATA_DIR": str(tmp_path), "NOTIFICATIONS_PER_HOUR_MAX": "2",
    }  # fmt: skip
    assert postman_process(sink, env).wait(timeout=60) == -signal.SIGKILL
    collection(Notice).update_many(
        {"status": "PENDING", "claim": {"$exists": True}},
        {"$set": {"next_attempt_at": clock.after(clock.now(), -1)}},
    )
    for _ in range(3):
        postman.send_due()
    close_the_hour()
    postman.send_due()
    assert Counter(recipients(sink)) == {alice: 3, bob: 3}
    assert sum(line.count for row in stored() for line in digests.lines_of(row["_id"])) == 8
    assert len(set(sink.ids)) == len(sink.ids)


def test_a_notice_in_somebody_elses_hands_is_left_alone(alice: str, bob: str, settings: LazySettings) -> None:
    settings.NOTIFICATIONS_PER_HOUR_MAX = 1
    pay(alice, *[bob] * 4)
    notices.write_down(transactions_max=100)
    mine = [row for row in stored() if row["user_id"] == bob]
    later = clock.after(clock.now(), 60)
    for row, claim in zip(mine, ["me", "me", "another", "another"], strict=True):
        change = {"$set": {"claim": claim, "next_attempt_at": later}}
        collection(Notice).update_one({"_id": row["_id"]}, change)
    kept = digests.take_out_too_many(mine[:2], "me")
    assert [row["_id"] for row in kept] == [mine[0]["_id"]]
    assert statuses(bob) == {"PENDING": 4, "DIGESTED": 1}


# --- What it says -----------------------------------------------------------------------------------------


def letter(*lines: Line, locale: str = "en_US") -> Any:
    facts = {"since": HOUR, "until": HOUR + timedelta(hours=1)}
    return digest_letter(facts, lines, locale=locale, unsubscribe_url="https://payflow.example/u")


def test_says_how_many_and_sums_per_currency(settings: LazySettings) -> None:
    settings.PUBLIC_URL = "https://payflow.example"
    found = letter(
        Line(Kind.RECEIVED, "EUR", 5_000, 1_234_567),
        Line(Kind.RECEIVED, "JPY", 130, 99_000),
        Line(Kind.FAILED, "USD", 1, 5),
    )
    assert found.subject == "5,131 transfers in one hour"
    assert "Received: 5,130 transfers: €12,345.67, ¥99,000" in found.text
    assert "Failed: 1 transfer: $0.05" in found.text
    assert "Sent:" not in found.text
    assert "All of them: GET https://payflow.example/transactions" in found.text
    for body in (found.text, found.html):
        assert "Jan 31, 2026, 9:00:00\N{NARROW NO-BREAK SPACE}AM UTC" in body
        assert "5,130 transfers" in body


def test_says_it_in_the_locale_of_who_reads_it() -> None:
    found = letter(Line(Kind.SENT, "EUR", 5_131, 1_234_567), locale="de_DE")
    assert found.subject == "5.131 transfers in one hour"
    assert "12.345,67\N{NO-BREAK SPACE}€" in found.text


def test_sums_that_no_int64_holds_are_exact() -> None:
    rows = [
        {
            **notices._row(Kind.SENT, "u" * 24, f"txn_{number}:X", HOUR),
            "status": "DIGESTED", "digest_id": "ntf_d", "amount_minor": 10**15 + number, "currency": "USD",
        }
        for number in range(9_300)
    ]  # fmt: skip
    collection(Notice).insert_many(rows)
    (line,) = digests.lines_of("ntf_d")
    assert line.amount_minor == sum(10**15 + number for number in range(9_300)) > 2**63
