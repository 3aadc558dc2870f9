"""The postman dies, races and stands still: no mail is sent twice for it, and none is forgotten."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings

from payflow import redisdb
from payflow.errors import Transient
from payflow.mongodb import collection
from tests.transfers import world
from tests.transfers.mail_sink import Sink, make_due, only, postman_process, stored
from tests.transfers.workers import eventually
from tests.webhooks.workers import webhooks_worker
from transfers import notices, postman, tasks
from transfers.documents import NoticeStatus, Transaction


def test_one_killed_once_they_are_written_down_is_followed_by_one_who_sends_them(
    sink: Sink, alice: str, bob: str, tmp_path: Path
) -> None:
    world.play(world.start(alice, bob, 100))
    armed = {"PAYFLOW_CRASH_AT": "notices.written", "PAYFLOW_DATA_DIR": str(tmp_path)}
    assert postman_process(sink, armed).wait(timeout=60) == -signal.SIGKILL
    assert [(notice["status"], notice.get("attempt_count")) for notice in stored()] == [("PENDING", None)] * 2
    assert collection(Transaction).find_one()["notices_due_at"]
    for _ in range(2):
        postman.send_due()
    assert sorted(sink.ids) == sorted(notice["_id"] for notice in stored())
    assert "notices_due_at" not in collection(Transaction).find_one()


@pytest.mark.parametrize(("point", "given"), [("notices.sending", 0), ("notices.handed_over", 1)])
def test_one_killed_around_the_handing_over_is_never_sent_again(
    point: str, given: int, sink: Sink, failed: str, tmp_path: Path
) -> None:
    armed = {"PAYFLOW_CRASH_AT": point, "PAYFLOW_DATA_DIR": str(tmp_path)}
    assert postman_process(sink, armed).wait(timeout=60) == -signal.SIGKILL
    assert (only()["status"], len(sink.mails)) == ("SENDING", given)
    postman.send_due()
    assert only()["status"] == "SENDING"
    make_due()  # its claim has run out
    assert [postman.send_due()["UNKNOWN"] for _ in range(2)] == [1, 0]
    assert (only()["status"], len(sink.mails)) == ("UNKNOWN", given)
    assert postman.retry([only()["_id"]]) == 0


def test_several_whose_acceptance_dies_with_the_sender_are_never_sent_again(
    sink: Sink, alice: str, bob: str, tmp_path: Path
) -> None:
    world.play(world.start(alice, bob, 100))
    armed = {"PAYFLOW_CRASH_AT": "notices.accepted", "PAYFLOW_DATA_DIR": str(tmp_path)}
    assert postman_process(sink, armed).wait(timeout=60) == -signal.SIGKILL
    assert [notice["status"] for notice in stored()] == ["SENDING"] * 2
    make_due()
    assert postman.send_due()["UNKNOWN"] == 2
    assert ([notice["status"] for notice in stored()], len(sink.mails)) == (["UNKNOWN"] * 2, 2)


def test_how_the_others_went_is_written_down_whatever_happens_to_one(
    sink: Sink, alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.play(*[world.start(alice, bob, 1) for _ in range(7)])
    mark, marked = postman._mark_sending, []

    def mark_a_dozen(row: dict, claim: str) -> bool:
        marked.append(row)
        if len(marked) > 12:
            raise Transient("the database is away")
        return mark(row, claim)

    with monkeypatch.context() as patched:
        patched.setattr(postman, "_mark_sending", mark_a_dozen)
        with pytest.raises(Transient):
            postman.send_due()
    states = [(notice["status"], notice.get("claim"), notice.get("attempt_count")) for notice in stored()]
    assert Counter(states) == {("SENT", None, 1): 12, ("PENDING", None, None): 2}
    assert postman.send_due() == {"UNKNOWN": 0, "SENT": 2, "DIGESTED": 0}
    assert sorted(sink.ids) == sorted(notice["_id"] for notice in stored())


def test_what_was_accepted_is_written_down_before_the_goodbye(
    sink: Sink, alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may take its time over that, and a worker that is told to stop has little."""
    world.play(world.start(alice, bob, 1))
    hang_up, seen = postman._hang_up, []

    def look_first(connection: Any) -> None:
        seen.append([notice["status"] for notice in stored()])
        hang_up(connection)

    monkeypatch.setattr(postman, "_hang_up", look_first)
    postman.send_due()
    assert seen == [["SENT", "SENT"]]


@pytest.mark.parametrize(("seconds_max", "unwritten"), [(-1.0, [1] * 4), (600.0, [1, 2, 3, 4])])
def test_a_slow_server_leaves_little_unwritten(
    seconds_max: float,
    unwritten: list[int],
    sink: Sink,
    alice: str,
    bob: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world.play(*[world.start(alice, bob, 1) for _ in range(2)])
    monkeypatch.setattr(postman, "SENT_UNWRITTEN_SECONDS_MAX", seconds_max)
    hand_over, seen = postman._hand_over, []

    def look_first(*arguments: Any) -> postman.Outcome:
        seen.append(sum(notice["status"] == "SENDING" for notice in stored()))
        return hand_over(*arguments)

    monkeypatch.setattr(postman, "_hand_over", look_first)
    postman.send_due()
    assert seen == unwritten


@pytest.mark.parametrize(("status", "is_lasting"), [("SENT", False), ("FAILED", True), ("UNKNOWN", True)])
def test_only_that_a_mail_was_accepted_may_be_lost_with_the_machine(
    status: str, is_lasting: bool, failed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is UNKNOWN then. A refusal must not be: nobody would try again."""
    asked, real = [], postman.collection

    def collection(document: type, *, lasting: bool = True) -> Any:
        asked.append(lasting)
        return real(document, lasting=lasting)

    notices.write_down(transactions_max=1)
    row = only()
    monkeypatch.setattr(postman, "collection", collection)
    postman._write_outcome([row], "claim", postman.Outcome(NoticeStatus(status)), postman.Facts({}, {}))
    assert asked == [is_lasting]


def test_one_who_was_only_slow_still_says_how_it_went(
    sink: Sink, failed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim ran out while it spoke to the server."""
    hand_over = postman._hand_over

    def slow(*arguments: object) -> postman.Outcome:
        make_due()
        assert postman._give_up_on_the_dead() == 1
        return hand_over(*arguments)

    monkeypatch.setattr(postman, "_hand_over", slow)
    postman.send_due()
    assert (only()["status"], len(sink.mails)) == ("SENT", 1)


def test_one_whose_claim_ran_out_before_leaves_it_to_the_next(
    sink: Sink, failed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen between claim and mark: another has taken the notice by then."""
    mark = postman._mark_sending

    def late(row: dict, claim: str) -> bool:
        make_due()
        assert postman._claim("another")
        return mark(row, claim)

    monkeypatch.setattr(postman, "_mark_sending", late)
    postman.send_due()
    assert (only()["claim"], only()["status"], sink.mails) == ("another", "PENDING", [])


def test_processes_that_race_send_each_once(sink: Sink, alice: str, bob: str, settings: LazySettings) -> None:
    settings.NOTIFICATIONS_PER_HOUR_MAX = 100
    world.play(*[world.start(alice, bob, 1) for _ in range(40)])
    racing = [
        postman_process(sink, {"NOTIFICATIONS_BATCH_MAX": "30", "NOTIFICATIONS_PER_HOUR_MAX": "100"})
        for _ in range(4)
    ]
    assert [process.wait(timeout=120) for process in racing] == [0] * 4
    postman.send_due()
    postman.send_due()
    assert sorted(sink.ids) == sorted(notice["_id"] for notice in stored())
    assert {notice["status"] for notice in stored()} == {"SENT"}
    assert len(sink.ids) == 80


def test_an_emptied_redis_forgets_no_mail(sink: Sink, failed: str) -> None:
    redisdb.client().flushall()
    postman.send_due()
    assert (only()["status"], len(sink.mails)) == ("SENT", 1)


def test_what_is_over_when_the_time_is_up_goes_back(
    sink: Sink, alice: str, bob: str, settings: LazySettings
) -> None:
    world.play(world.start(alice, bob, 1))
    settings.NOTIFICATIONS_TICK_SECONDS_MAX = -1.0
    postman.send_due()
    assert [(n["status"], n.get("claim")) for n in stored()] == [("PENDING", None)] * 2
    settings.NOTIFICATIONS_TICK_SECONDS_MAX = 20.0
    postman.send_due()
    assert len(sink.mails) == 2


def test_a_worker_told_to_stop_begins_no_other_mail(sink: Sink, alice: str, bob: str) -> None:
    """Whoever tells it has little patience, and a mail that dies in the middle is never sent again."""
    world.play(*[world.start(alice, bob, 1) for _ in range(10)])
    sink.thinks_seconds = 0.5
    with webhooks_worker({"EMAIL_URL": sink.url, "NOTIFICATIONS_ENABLED": "true"}) as worker:
        tasks.send_notices.delay()
        eventually(lambda: sink.mails)
        worker.terminate()
        assert worker.wait(60) == 0
    assert len(sink.mails) < 20
    counts = Counter(notice["status"] for notice in stored())
    assert counts == {"SENT": len(sink.mails), "PENDING": 20 - len(sink.mails)}
