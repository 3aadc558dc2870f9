"""A sender's own reference on POST /transactions: what it may be, and that it names one transfer for ever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from payflow import redisdb
from tests.api.client import Party, assert_problem, facts, nothing_changes
from tests.api.test_transactions import REPLAYED, drive, pay, seen_by


@pytest.mark.parametrize("reference", ["x", "INV-2026/0001", "a.b_c:d/e-f", "0", "Z" * 64, "../.."])
def test_keeps_a_reference_exactly_and_shows_it_to_both(anna: Party, bob: Party, reference: str) -> None:
    started = pay(anna, bob, reference=reference).json()
    assert started["reference"] == reference
    drive(started["id"])
    assert seen_by(bob, started["id"])["reference"] == reference
    assert anna.api.get("/transactions").json()["results"][0]["reference"] == reference


@pytest.mark.parametrize(
    "reference",
    ["", " ", "a b", " a", "a\n", "\u00e4", "x" * 65, "a,b", '"a"', "a#", "a\x00", 1, None, [], {}, True],
)  # fmt: skip
def test_refuses_another_form(anna: Party, bob: Party, reference: Any) -> None:
    with nothing_changes():
        problem = assert_problem(pay(anna, bob, reference=reference), 400, "validation_error")
    assert [error["field"] for error in problem["errors"]] == ["reference"]


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_reference_is_used_once_whatever_came_of_it(anna: Party, bob: Party, has_failed: bool) -> None:
    first = pay(anna, bob, "500.00" if has_failed else "1.00", reference="invoice").json()
    drive(first["id"])
    with nothing_changes():
        problem = assert_problem(pay(anna, bob, "2.00", reference="invoice"), 409, "already_exists")
    assert [error["field"] for error in problem["errors"]] == ["reference"]


def test_references_are_a_sender_s_own_and_differ_by_case(anna: Party, bob: Party, stranger: Party) -> None:
    made = [pay(anna, bob, reference="a"), pay(stranger, bob, reference="a"), pay(anna, bob, reference="A")]
    made += [pay(anna, bob), pay(anna, bob)]
    assert [response.status_code for response in made] == [201] * 5


@pytest.mark.parametrize("redis_is_lost", [False, True])
def test_a_repeat_with_its_key_is_no_second_use(anna: Party, bob: Party, redis_is_lost: bool) -> None:
    first = pay(anna, bob, reference="a", Idempotency_Key="k")
    if redis_is_lost:
        redisdb.client().flushall()
    again = pay(anna, bob, reference="a", Idempotency_Key="k")
    assert (again.status_code, again.json(), again[REPLAYED]) == (201, first.json(), "true")
    assert_problem(pay(anna, bob, reference="a", Idempotency_Key="other"), 409, "already_exists")
    assert_problem(pay(anna, bob, reference="b", Idempotency_Key="k"), 422, "idempotency_key_reused")


def test_twenty_requests_at_once_with_one_reference_make_one_transfer(anna: Party, bob: Party) -> None:
    def ask(number: int) -> int:
        party = Party(anna.user, anna.another_client())
        return pay(party, bob, reference="a", Idempotency_Key=f"k{number}").status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(ask, range(20)))
    assert sorted(statuses) == [201] + [409] * 19
    assert [row["reference"] for row in facts()["transactions"]] == ["a"]


def test_a_reference_leads_to_its_transfer_for_who_gave_it(
    anna: Party, bob: Party, stranger: Party, staff: Party
) -> None:
    mine, theirs = (pay(party, bob, reference="a/1:b") for party in (anna, stranger))
    pay(anna, bob, reference="a")
    problem = assert_problem(pay(anna, bob, reference="a/1:b"), 409, "already_exists")
    where = problem["detail"].partition("GET ")[2].removesuffix(" shows it.")
    assert [row["id"] for row in anna.api.get(where).json()["results"]] == [mine.json()["id"]]
    assert [row["id"] for row in stranger.api.get(where).json()["results"]] == [theirs.json()["id"]]
    for party in (bob, staff):
        assert party.api.get(where).json()["results"] == []
    counts = {"status=INITIATED": 1, "status=FAILED": 0, "direction=sent": 1, "direction=received": 0}
    for more, count in counts.items():
        assert len(anna.api.get(f"{where}&{more}").json()["results"]) == count
    assert anna.api.get("/transactions?reference=A").json()["results"] == []


@pytest.mark.parametrize("reference", ["", "a b", "x" * 65, "%24ne", "%00"])
def test_refuses_to_look_for_what_is_no_reference(anna: Party, reference: str) -> None:
    response = anna.api.get(f"/transactions?reference={reference}")
    problem = assert_problem(response, 400, "validation_error")
    assert [error["field"] for error in problem["errors"]] == ["reference"]
