"""The postman against a real mail server that says yes, no and nothing, and against death at every step."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from celery.contrib.testing.worker import start_worker
from django.conf import LazySettings
from django.conf import settings as settings_

from accounts.models import User
from payflow import clock
from payflow.celery import app
from payflow.mongodb import collection
from tests.transfers import world
from tests.transfers.mail_sink import Sink, make_due, only, stored
from tests.transfers.workers import eventually
from transfers import inbox, notices, postman
from transfers.documents import Notice, Transaction


def results() -> list[tuple[str, str]]:
    return [(attempt["result"], attempt["reason"]) for attempt in only()["attempts"]]


# --- What a server can say --------------------------------------------------------------------------------


def test_tells_both_parties_of_a_transfer_once(sink: Sink, alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 1_050)
    world.play(transaction)
    for _ in range(2):
        postman.send_due()
    to = {mail["To"]: mail for mail in sink.mails}
    people = {user.email: str(user.pk) for user in User.objects.all()}
    assert {people[address] for address in to} == {alice, bob}
    assert len(sink.mails) == 2
    subjects = {people[address]: mail["Subject"] for address, mail in to.items()}
    assert subjects == {alice: "You sent $10.50 to bob", bob: "You received $10.50 from alice"}
    mail = sink.mails[0]
    assert mail["From"] == "PayFlow <payments@payflow.example>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["List-Unsubscribe"].strip().startswith("<https://payflow.example/auth/unsubscribe?token=")
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    assert all(transaction in part.get_content() for part in mail.iter_parts())
    for notice in stored():
        assert (notice["status"], notice["attempt_count"]) == ("SENT", 1)
        assert not {"next_attempt_at", "claim"} & notice.keys()
        assert notice["finished_at"] >= notice["created_at"]


@pytest.mark.parametrize(
    ("rcpt", "data", "then", "reason"),
    [
        (["550 no such user"], [], "FAILED", "recipient refused, 550"),
        (["450 busy"], [], "PENDING", "recipient refused, 450"),
        (["close"], [], "PENDING", "not handed over (SMTPServerDisconnected)"),
        ([], ["554 spam"], "FAILED", "mail refused, 554"),
        ([], ["451 try later"], "PENDING", "mail refused, 451"),
        ([], ["close early"], "PENDING", "not handed over (SMTPServerDisconnected)"),
        ([], ["close"], "UNKNOWN", "the connection ended before the answer"),
        ([], ["211 what was that?"], "UNKNOWN", "the connection ended before the answer"),
    ],
)
def test_acts_on_what_the_server_said(
    rcpt: list[str], data: list[str], then: str, reason: str, sink: Sink, failed: str
) -> None:
    sink.rcpt, sink.data = [*rcpt], [*data]
    postman.send_due()
    notice = only()
    assert (notice["status"], notice["attempts"][-1]["reason"]) == (then, reason)
    given = len(sink.mails)
    # Whatever comes up again comes up later.
    postman.send_due()
    assert (only()["attempt_count"], len(sink.mails)) == (1, given)
    make_due()
    postman.send_due()
    if then == "PENDING":
        assert (only()["status"], len(sink.mails)) == ("SENT", 1)
    else:
        assert (only()["status"], len(sink.mails)) == (then, given)


def test_one_refused_mail_stops_no_other(sink: Sink, alice: str, bob: str) -> None:
    world.play(*[world.start(alice, bob, 1) for _ in range(3)])
    sink.rcpt, sink.data = ["550 no", "250 OK", "421 bye"], ["250 OK", "close"]
    postman.send_due()
    statuses = sorted(notice["status"] for notice in stored())
    assert statuses == ["FAILED", "PENDING", "SENT", "SENT", "SENT", "UNKNOWN"]
    assert len(sink.mails) == 4


def test_a_server_that_is_down_gets_it_when_it_is_up(sink: Sink, failed: str) -> None:
    sink.stop()
    postman.send_due()
    assert (only()["status"], results()) == (
        "PENDING",
        [("FAILED", "the server was not reached (ConnectionRefusedError)")],
    )
    assert clock.now() + timedelta(seconds=26) < only()["next_attempt_at"]
    sink.start()
    make_due()
    postman.send_due()
    assert (only()["status"], len(sink.mails)) == ("SENT", 1)


def test_gives_up_after_so_many_tries_and_staff_may_have_it_tried_anew(
    sink: Sink, failed: str, settings: LazySettings
) -> None:
    settings.NOTIFICATIONS_ATTEMPTS_MAX = 3
    sink.rcpt = ["450 busy"] * 3
    for _ in range(5):
        postman.send_due()
        make_due()
    assert (only()["status"], only()["attempt_count"]) == ("FAILED", 3)
    assert postman.retry([only()["_id"], "ntf_none"]) == 1
    postman.send_due()
    assert (only()["status"], [result for result, _ in results()]) == ("SENT", ["FAILED"] * 3 + ["SENT"])
    assert postman.retry([only()["_id"]]) == 0
    assert len(sink.mails) == 1


def test_no_log_line_names_an_address(sink: Sink, failed: str, caplog: pytest.LogCaptureFixture) -> None:
    user = User.objects.get(name="alice")
    sink.rcpt = [f"550 <{user.email}> is unknown here"]
    with caplog.at_level(logging.DEBUG):
        postman.send_due()
    # mail.log is the server.
    lines = [
        f"{record.getMessage()} {record.__dict__}" for record in caplog.records if record.name != "mail.log"
    ]
    assert any("notification not sent" in line for line in lines)
    assert not [line for line in lines if user.email in line]
    assert user.email not in str(only())


def test_the_next_try_comes_later_each_time_and_within_a_day() -> None:
    pauses = [postman.next_try_seconds(attempt, 0.5) for attempt in range(1, 30)]
    assert pauses[:7] == list(postman.TRIES_SECONDS)
    assert pauses == sorted(pauses)
    assert 12 * 3_600 < sum(pauses[:7]) < 24 * 3_600
    assert postman.next_try_seconds(1, 0.0) == pytest.approx(27.0)
    assert postman.next_try_seconds(1, 1.0) == pytest.approx(33.0)


@pytest.mark.parametrize(
    ("every_seconds", "recipients", "given"),
    [(600.0, [], 6), (0.0, [], 2), (600.0, ["450 busy"] * 6, 0)],
    ids=["while there is time", "a batch at least", "not while nothing gets through"],
)
def test_a_tick_goes_on_while_there_is_work(
    every_seconds: float,
    recipients: list[str],
    given: int,
    sink: Sink,
    alice: str,
    bob: str,
    settings: LazySettings,
) -> None:
    settings.NOTIFICATIONS_BATCH_MAX, settings.NOTIFICATIONS_EVERY_SECONDS = 2, every_seconds
    settings.NOTIFICATIONS_TICK_SECONDS_MAX = 600.0
    world.play(*[world.start(alice, bob, 1) for _ in range(3)])
    sink.rcpt = [*recipients]
    postman.send_due()
    assert len(sink.mails) == given
    assert len([notice for notice in stored() if notice.get("attempt_count")]) == max(given, 2)


@pytest.mark.parametrize(("waiting", "given"), [(0, 6), (20, 6), (21, 2)])
def test_a_rush_of_transfers_leaves_mails_a_batch_at_a_time(
    waiting: int, given: int, sink: Sink, alice: str, bob: str, settings: LazySettings
) -> None:
    settings.NOTIFICATIONS_BATCH_MAX, settings.NOTIFICATIONS_EVERY_SECONDS = 2, 600.0
    settings.NOTIFICATIONS_TICK_SECONDS_MAX, settings.SAGA_BATCH_MAX = 600.0, 20
    world.play(*[world.start(alice, bob, 1) for _ in range(3)])
    if waiting:
        inbox.push([f"txn_{number}" for number in range(waiting)])
    postman.send_due()
    assert len(sink.mails) == given


def test_without_redis_nobody_knows_of_a_rush(
    sink: Sink, alice: str, bob: str, settings: LazySettings, request: pytest.FixtureRequest
) -> None:
    settings.NOTIFICATIONS_BATCH_MAX, settings.NOTIFICATIONS_EVERY_SECONDS = 2, 600.0
    world.play(*[world.start(alice, bob, 1) for _ in range(3)])
    request.getfixturevalue("redis_down")
    postman.send_due()
    assert len(sink.mails) == 6


# --- Who gets none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"email_notifications": False}, {"is_active": False}])
def test_who_wants_no_mails_or_has_left_gets_none(change: dict, sink: Sink, failed: str, alice: str) -> None:
    User.objects.filter(pk=alice).update(**change)
    postman.send_due()
    assert (only()["status"], sink.mails) == ("SKIPPED", [])


def test_a_user_who_is_gone_gets_none(sink: Sink, failed: str, alice: str) -> None:
    User.objects.filter(pk=alice).delete()
    postman.send_due()
    assert only()["status"] == "SKIPPED"


def test_an_account_from_before_there_were_mails_gets_them(sink: Sink, failed: str) -> None:
    users = Notice._get_db()["users"]
    users.update_many({}, {"$unset": {"locale": "", "email_notifications": ""}})
    postman.send_due()
    assert only()["status"] == "SENT"


def test_one_that_cannot_be_written_stops_no_other(sink: Sink, alice: str, bob: str) -> None:
    broken, fine = world.start(alice, bob, 900_000), world.start(alice, bob, 900_001)
    world.play(broken, fine)
    collection(Transaction).update_one({"_id": broken}, {"$unset": {"failure": ""}})
    postman.send_due()
    assert {notice["transaction_id"]: notice["status"] for notice in stored()} == {
        broken: "FAILED",
        fine: "SENT",
    }


def test_a_hostile_name_makes_no_header(sink: Sink, alice: str, bob: str) -> None:
    User.objects.filter(pk=bob).update(name="Bob\r\nBcc: mallory@example.com\r\n\r\n<b>hi</b>")
    world.play(world.start(alice, bob, 900_000))
    postman.send_due()
    (mail,) = sink.mails
    assert "Bcc" not in mail
    assert mail["Subject"] == "Your payment of $9,000.00 to Bob Bcc: mallory@example.com <b>hi</b> failed"


def test_an_address_that_is_none_fails_at_once(sink: Sink, failed: str, alice: str) -> None:
    User.objects.filter(pk=alice).update(email="a@example.com\nBcc: b@example.com")
    postman.send_due()
    assert (only()["status"], sink.mails) == ("FAILED", [])


def test_nothing_is_sent_while_notifications_are_off(
    sink: Sink, failed: str, alice: str, bob: str, settings: LazySettings
) -> None:
    settings.NOTIFICATIONS_ENABLED = False
    postman.send_due()
    world.play(world.start(alice, bob, 900_000))
    assert (only()["status"], sink.mails) == ("PENDING", [])


def test_beat_has_a_worker_send_them(sink: Sink, failed: str) -> None:
    beat = settings_.CELERY_BEAT_SCHEDULE["notifications"]
    with start_worker(
        app, pool="solo", queues=["payflow-notifications"], perform_ping_check=False, shutdown_timeout=30
    ):
        app.send_task(beat["task"])
        eventually(lambda: only()["status"] == "SENT")
    assert len(sink.mails) == 1


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("GONE", "It answered 410: it is gone for good."),
        ("FAILING", "It has failed too often, for too long."),
    ],
)
def test_the_owner_of_a_disabled_endpoint_hears_of_it_once(
    reason: str, sentence: str, sink: Sink, alice: str
) -> None:
    since = clock.now()
    # The second as after a death before the wish to tell was taken back, and a change of the address.
    for url in ("https://x.example/\r\nBcc: y", "https://y.example/"):
        notices.write_down_disabled(
            subscription_id="wh_1", user_id=alice, url=url, reason=reason, since=since
        )
    postman.send_due()
    (mail,) = sink.mails
    assert mail["Subject"] == "Your webhook endpoint was disabled"
    text = mail.get_body(("plain",)).get_content()
    assert sentence in text
    assert "https://x.example/ Bcc: y" in text
