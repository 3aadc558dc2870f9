"""Dead letters: listed, and sent again one by one or by time; and the command for it."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from pytest_httpserver import HTTPServer

from payflow import clock
from payflow.mongodb import collection
from tests.webhooks import hooks
from tests.webhooks.hooks import subscribe, work
from webhooks import replay, staff
from webhooks.documents import Delivery, Subscription


@pytest.fixture
def dead(httpserver: HTTPServer) -> str:
    """A subscription with eight dead letters, one an hour; its receiver works by now."""
    httpserver.expect_request("/hook").respond_with_data("fine now")
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    hooks.tell(2)
    hooks.place(subscription_id)
    attempt = {
        "at": clock.now(),
        "status_code": 500,
        "latency_ms": 3,
        "error": None,
        "answer": "\x1b[0m",
        "claim": "x",
    }
    for row in hooks.deliveries(subscription_id):
        hours = 10 - row["sequence"]
        ended = {
            "status": "DEAD",
            "created_at": clock.now() - timedelta(hours=hours),
            "finished_at": clock.now() - timedelta(minutes=hours),
            "attempts": [attempt] * 8,
            "attempt_count": 8,
            "tries": 8,
        }
        change = {"$set": ended, "$unset": {"next_attempt_at": ""}}
        collection(Delivery).update_one({"_id": row["_id"]}, change)
    return subscription_id


def statuses(subscription_id: str) -> list[str]:
    return [row["status"] for row in hooks.deliveries(subscription_id)]


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("webhooks", *arguments, stdout=out)
    return out.getvalue()


def test_dead_letters_of_a_time_are_sent_again_and_arrive(dead: str, httpserver: HTTPServer) -> None:
    now = clock.now()
    since, until = now - timedelta(hours=7, minutes=30), now - timedelta(hours=3, minutes=30)
    assert replay.replay_dead(subscription_id=dead, since=since, until=until) == (4, False)
    assert statuses(dead) == ["DEAD"] * 2 + ["PENDING"] * 4 + ["DEAD"] * 2
    work(dead)
    assert statuses(dead) == ["DEAD"] * 2 + ["DELIVERED"] * 4 + ["DEAD"] * 2
    assert [request.headers["PayFlow-Sequence"] for request, _ in httpserver.log] == ["3", "4", "5", "6"]
    again = hooks.deliveries(dead)[2]
    assert (again["attempt_count"], again["tries"], len(again["attempts"])) == (9, 1, 9)


def test_a_replay_is_bounded_and_says_so(dead: str) -> None:
    now = clock.now()
    wide = {"subscription_id": dead, "since": now - timedelta(days=1), "until": now}
    assert replay.replay_dead(**wide, limit=3) == (3, True)
    assert statuses(dead) == ["PENDING"] * 3 + ["DEAD"] * 5
    assert replay.replay_dead(**wide, limit=10**9) == (5, False)
    assert replay.replay_dead(**wide) == (0, False)


def test_a_replay_touches_no_other_endpoint_and_nothing_that_arrived(dead: str) -> None:
    other = subscribe()
    collection(Delivery).update_one({"sequence": 1}, {"$set": {"status": "DELIVERED"}})
    now = clock.now()
    replay.replay_dead(subscription_id=other, since=now - timedelta(days=1), until=now)
    assert statuses(dead) == ["DELIVERED"] + ["DEAD"] * 7


@pytest.mark.parametrize("is_deleted", [True, False], ids=["deleted", "disabled"])
def test_dead_letters_of_an_endpoint_that_gets_nothing_stay_as_they_are(is_deleted: bool, dead: str) -> None:
    if is_deleted:
        collection(Subscription).delete_one({"_id": dead})
    else:
        hooks.change(dead, is_active=False, disabled_because="OWNER")
    before = hooks.deliveries(dead)
    with pytest.raises(CommandError, match="disabled, or no more"):
        run("replay", "--subscription", dead, "--since", "2026-01-31")
    work(dead)
    assert hooks.deliveries(dead) == before


def test_one_delivery_is_sent_again_whether_it_arrived_or_not(dead: str, httpserver: HTTPServer) -> None:
    first = hooks.deliveries(dead)[0]["_id"]
    for count in (1, 2):
        assert replay.redeliver(delivery_id=first, subscription_id=dead)
        work(dead)
        assert (statuses(dead)[0], len(httpserver.log)) == ("DELIVERED", count)
    assert not replay.redeliver(delivery_id=first, subscription_id=subscribe())


def test_staff_see_what_died_last_first(dead: str) -> None:
    found = [row["sequence"] for row in staff.list_dead(limit=3)]
    assert found == [8, 7, 6]
    assert [row["sequence"] for row in staff.list_dead(limit=2, subscription_id=dead)] == [8, 7]
    assert all("payload" not in row for row in staff.list_dead(limit=3))


def test_the_command_lists_and_replays(dead: str) -> None:
    failing = subscribe(consecutive_failures=7, failing_since=clock.now())
    assert dead in run("list")
    assert dead not in run("list", "--trouble")
    assert failing in run("list", "--trouble")
    assert run("dead", "--limit", "3").count(dead) == 3
    log = run("log", dead)
    assert log.count("500  3 ms") == 64
    assert "\x1b" not in log
    day = (clock.now() - timedelta(days=1)).date().isoformat()
    assert run("replay", "--subscription", dead, "--since", day, "--limit", "1").startswith(
        "1 dead letter sent on its way"
    )
    assert "7 dead letters" in run("replay", "--subscription", dead, "--since", day)
    assert run("dead") == "none\n"


def test_no_listing_shows_a_secret(dead: str) -> None:
    shown = run("list") + run("log", dead) + run("dead")
    assert "sealed" not in shown
    assert "whsec_" not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("replay", "--subscription", "x", "--since", "yesterday"),
        ("replay", "--subscription", "x", "--since", "2026-W05-6"),
        ("replay", "--subscription", "x", "--since", "20260131"),
        ("replay", "--subscription", "x", "--since", "2026-01-31T09:30"),
        ("list", "--limit", "\uff11"),
        ("list", "--limit", "1_0"),
        ("list", "--limit", " 1"),
        ("list", "--limit", "0"),
        ("log",),
    ],
)
def test_the_command_refuses_what_it_does_not_understand(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        run(*arguments)
