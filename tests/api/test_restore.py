"""A restored database under a Redis that was left alone: what Redis remembers of it does not count."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts.sessions import list_families
from payflow import generation, redisdb
from payflow.generation import TOKENS_KEPT, Relation, Seen, relation
from tests.api import auth_client
from tests.api.client import Api, Party, assert_problem, facts
from tests.api.test_idempotency import REPLAYED, requests_to, slots
from tests.api.test_metrics import sample
from tests.restoring import dump, restore
from transfers import inbox, tasks

PATHS = ("/transactions", "/transactions/batch", "/wallets/me/deposit", "/wallets/me/withdraw", "/wallets")
WEBHOOK = {"url": "https://example.com/hook", "events": ["TRANSACTION_COMPLETED"]}


def ask(party: Party, path: str, body: Any) -> Any:
    return party.api.post_json(path, body, Idempotency_Key="k")


@pytest.mark.parametrize("path", PATHS)
def test_a_repeat_after_a_restore_acts_anew(anna: Party, bob: Party, path: str) -> None:
    """Not even a tick of recovery lies between the dump and the restore."""
    body = requests_to(anna, bob)[path]
    copy = dump()
    first = ask(anna, path, body)
    assert (first.status_code, REPLAYED in first) == (201, False)
    restore(copy)
    before = facts()
    again = ask(anna, path, body)
    assert (again.status_code, REPLAYED in again) == (201, False)
    assert facts() != before
    third = ask(anna, path, body)
    assert (third.content, third[REPLAYED]) == (again.content, "true")


@pytest.mark.parametrize("path", PATHS)
def test_a_repeat_before_the_dump_is_replayed_after_the_restore(anna: Party, bob: Party, path: str) -> None:
    """What the copy holds has happened, whatever Redis remembers."""
    body = requests_to(anna, bob)[path]
    first = ask(anna, path, body)
    copy = dump()
    anna.receive(1)
    restore(copy)
    again = ask(anna, path, body)
    assert (again.status_code, again.content, again[REPLAYED]) == (201, first.content, "true")


def test_a_key_may_be_used_for_something_else_after_a_restore(anna: Party, bob: Party) -> None:
    copy = dump()
    ask(anna, "/transactions", {"receiver_id": bob.id, "amount": "1.00"})
    restore(copy)
    other = ask(anna, "/transactions", {"receiver_id": bob.id, "amount": "2.00"})
    assert (other.status_code, REPLAYED in other) == (201, False)


def test_a_refusal_of_the_former_database_is_not_repeated(anna: Party, bob: Party) -> None:
    copy = dump()
    anna.api.post_json("/wallets/me/withdraw", {"amount": "100.00"})
    refused = ask(anna, "/wallets/me/withdraw", {"amount": "50.00"})
    assert_problem(refused, 409, "insufficient_balance")
    restore(copy)
    again = ask(anna, "/wallets/me/withdraw", {"amount": "50.00"})
    assert (again.status_code, REPLAYED in again) == (201, False)


def test_other_work_in_between_hides_nothing(anna: Party, stranger: Party, bob: Party) -> None:
    """The restored database goes on counting; it never counts up to what Redis has seen."""
    copy = dump()
    ask(anna, "/wallets", {"currency": "EUR"})
    restore(copy)
    for currency in ("EUR", "JPY", "KWD"):
        stranger.api.post_json("/wallets", {"currency": currency}, Idempotency_Key=currency)
    again = ask(anna, "/wallets", {"currency": "EUR"})
    assert (again.status_code, REPLAYED in again) == (201, False)


def test_sessions_of_the_former_database_are_over() -> None:
    user = auth_client.register()
    copy = dump()
    later = auth_client.post(
        "/auth/login", {k: auth_client.REGISTER[k] for k in ("email", "password")}
    ).json()
    assert len(list_families(user_id=user["user"]["id"])) == 2
    restore(copy)
    refused = auth_client.post("/auth/refresh", {"refresh": later["refresh"]})
    auth_client.assert_problem(refused, 401, "not_authenticated")
    assert list_families(user_id=user["user"]["id"]) == []


def test_recovery_finds_a_restore_by_itself(
    anna: Party, bob: Party, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.recover()
    former = generation.current() or {}
    copy = dump()
    ask(anna, "/transactions", {"receiver_id": bob.id, "amount": "1.00"})
    redisdb.client().set("payflow:cache:session", "a staff member's")
    redisdb.client().zadd("payflow:ended-sessions", {"family": 2**31})
    assert inbox.count() == 1
    tasks.recover()
    restore(copy)
    caplog.set_level(logging.ERROR, "payflow.generation")
    tasks.recover()
    tasks.recover()
    assert inbox.count() == 0
    assert slots() == {}
    assert redisdb.client().get("payflow:cache:session") is None
    assert redisdb.client().zscore("payflow:ended-sessions", "family") == 2**31
    now = generation.current() or {}
    assert (now["generation"] != former["generation"], now["is_accepted"]) == (True, False)
    said = [record.message for record in caplog.records]
    assert said.count("the database was restored from an older copy; a new generation begins") == 1


def test_health_and_metrics_say_so_until_an_operator_accepts_it(anna: Party) -> None:
    tasks.recover()
    copy = dump()
    tasks.recover()
    restore(copy)
    tasks.recover()
    told = Api().get("/health").json()
    assert (told["status"], told["database"]["status"]) == ("degraded", "restored")
    assert sample("payflow_database_restored") == 1
    call_command("generation", "--accept", "--reason", "restored the dump of 3 o'clock", stdout=StringIO())
    told = Api().get("/health").json()
    assert (told["status"], told["database"]["status"]) == ("ok", "up")
    assert sample("payflow_database_restored") == 0


def test_a_copy_from_before_there_were_generations_is_another_database(anna: Party, bob: Party) -> None:
    copy = {name: rows for name, rows in dump().items() if name != "database_generation"}
    ask(anna, "/wallets", {"currency": "EUR"})
    restore(copy)
    again = ask(anna, "/wallets", {"currency": "EUR"})
    assert (again.status_code, REPLAYED in again) == (201, False)
    assert (generation.current() or {})["is_accepted"] is False


def test_an_emptied_redis_is_no_restore(anna: Party) -> None:
    tasks.recover()
    redisdb.client().flushall()
    tasks.recover()
    assert (generation.current() or {})["is_accepted"] is True


def test_an_older_redis_is_no_restore() -> None:
    tasks.recover()
    remembered = redisdb.client().get(generation.KEY)
    for _ in range(3):
        generation.advance()
    redisdb.client().set(generation.KEY, str(remembered))
    assert generation.look()
    assert (generation.current() or {})["is_accepted"] is True


@pytest.mark.parametrize("garbage", ["", "x", "x y z", "x 1", "x \u0661 z", "\u00e4 -1 z"])
def test_what_is_no_token_counts_as_not_there(garbage: str) -> None:
    generation.look()
    redisdb.client().set(generation.KEY, garbage)
    generation.look()
    assert (generation.current() or {})["is_accepted"] is True


def test_many_processes_at_once_raise_no_alarm() -> None:
    generation.look()
    begun = (generation.current() or {})["generation"]
    with ThreadPoolExecutor(16) as pool:
        settled = list(pool.map(lambda n: generation.advance() if n % 2 else generation.look(), range(400)))
    assert all(settled)
    assert (generation.current() or {})["generation"] == begun


def test_many_processes_that_find_a_restore_begin_one_generation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    generation.look()
    copy = dump()
    generation.advance()
    restore(copy)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: generation.look(), range(64)))
    begun = (generation.current() or {})["generation"]
    assert generation.look()
    assert (generation.current() or {})["generation"] == begun
    assert str(redisdb.client().get(generation.KEY)).startswith(begun)


def test_an_operator_begins_a_generation_by_hand(anna: Party) -> None:
    ask(anna, "/wallets", {"currency": "EUR"})
    printed = StringIO()
    call_command("generation", "--begin", "--reason", "restored on another machine", stdout=printed)
    assert "restored on another machine" in printed.getvalue()
    assert slots() == {}
    assert (generation.current() or {})["is_accepted"] is True


@pytest.mark.parametrize(
    "options", [["--begin"], ["--accept"], ["--accept", "--reason", "nothing was found"]]
)
def test_the_command_says_what_it_lacks(options: list[str]) -> None:
    with pytest.raises(CommandError, match=r"--reason|no restore to accept"):
        call_command("generation", *options)


TOKENS = [f"t{n}" for n in range(1, 8)]
ROW = {"generation": "g", "mark": 7, "tokens": TOKENS[2:]}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (None, Relation.SAME),
        (Seen("g", 7, "t7"), Relation.SAME),
        (Seen("g", 3, "t3"), Relation.SAME),
        (Seen("g", 2, "forgotten"), Relation.SAME),
        (Seen("g", 7, "x"), Relation.RESTORED),
        (Seen("g", 3, "x"), Relation.RESTORED),
        (Seen("g", 8, "t8"), Relation.RESTORED),
        (Seen("h", 7, "t7"), Relation.OTHER),
    ],
)
def test_says_what_a_database_is_to_what_redis_has_seen(seen: Seen | None, expected: Relation) -> None:
    assert relation(seen, ROW) is expected


def test_the_tokens_are_bounded() -> None:
    for _ in range(TOKENS_KEPT + 5):
        generation.advance()
    row = generation._generations().find_one()
    assert len(row["tokens"]) == TOKENS_KEPT
    assert len(json.dumps(row["tokens"])) < 5_000
