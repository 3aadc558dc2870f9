"""Receivers who cannot be paid count against a limit of their own: nobody finds out who has an account."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import LazySettings

from payflow.mongodb import collection
from payflow.rates import Rate
from tests.api.client import Api, Party, assert_problem
from transfers.documents import Transaction
from wallets import services as wallets

LIMIT = 3


@pytest.fixture(autouse=True)
def limited(settings: LazySettings) -> None:
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "unknown_receivers": Rate(LIMIT, 3_600)}


def pay(party: Party, receiver: str, **more: Any) -> Any:
    field = "receiver_email" if "@" in receiver else "receiver_id"
    return party.api.post_json("/transactions", {field: receiver, "amount": "1.00", **more})


def use_up(party: Party) -> None:
    for number in range(LIMIT):
        assert_problem(pay(party, f"nobody{number}@example.com"), 404, "receiver_not_found")


def batch(party: Party, *receivers: str) -> list[str]:
    """Send a transfer to each in one batch; return what came of each: a status or a problem's code."""
    transfers = [
        {("receiver_email" if "@" in receiver else "receiver_id"): receiver, "amount": "0.01"}
        for receiver in receivers
    ]
    response = party.api.post_json("/transactions/batch", {"transfers": transfers})
    assert response.status_code == 201, response.content
    results = response.json()["results"]
    return [
        each["problem"]["code"] if "problem" in each else each["transaction"]["status"] for each in results
    ]


def test_beyond_the_limit_known_and_unknown_get_one_answer(anna: Party, bob: Party, stranger: Party) -> None:
    assert pay(anna, bob.user.email).status_code == 201
    use_up(anna)
    before = collection(Transaction).count_documents({})
    answers = [
        pay(anna, receiver)
        for receiver in (
            stranger.user.email,
            "nobody@example.com",
            stranger.id,
            "6b03cca04b021853ceb26af9",
            "x",
        )
    ]
    details = {assert_problem(answer, 429, "rate_limited")["detail"] for answer in answers}
    assert len(details) == 1
    assert "unknown_receivers" in details.pop()
    assert all(int(answer["Retry-After"]) > 0 for answer in answers)
    assert collection(Transaction).count_documents({}) == before


def test_beyond_the_limit_whom_one_has_paid_before_is_paid(anna: Party, bob: Party) -> None:
    assert pay(anna, bob.user.email).status_code == 201
    use_up(anna)
    for receiver in (bob.user.email, bob.id):
        assert pay(anna, receiver).status_code == 201
    assert batch(anna, bob.id, bob.user.email) == ["INITIATED", "INITIATED"]


def test_receivers_who_are_paid_do_not_count(anna: Party, bob: Party, stranger: Party) -> None:
    for _ in range(2 * LIMIT):
        assert pay(anna, bob.user.email).status_code == 201
        assert pay(anna, stranger.id).status_code == 201
    use_up(anna)


def test_a_batch_tells_no_more_than_the_limit(anna: Party, bob: Party, stranger: Party) -> None:
    """One request tested a thousand addresses."""
    assert pay(anna, bob.id).status_code == 201
    unknown = [f"nobody{number}@example.com" for number in range(10)]
    outcomes = batch(anna, unknown[0], stranger.id, *unknown[1:5], stranger.user.email, bob.id, *unknown[5:])
    assert outcomes == [
        "receiver_not_found", "INITIATED", "receiver_not_found", "receiver_not_found", "rate_limited",
        "rate_limited", "rate_limited", "INITIATED", *["rate_limited"] * 5,
    ]  # fmt: skip
    assert_problem(pay(anna, "nobody@example.com"), 429, "rate_limited")


def test_a_batch_of_known_receivers_is_no_way_around_it(anna: Party, bob: Party, stranger: Party) -> None:
    use_up(anna)
    assert batch(anna, bob.id, stranger.user.email, "nobody@example.com") == ["rate_limited"] * 3


def test_one_named_twice_in_a_batch_counts_once(anna: Party) -> None:
    outcomes = batch(anna, *["nobody@example.com"] * 5, "other@example.com")
    assert outcomes == ["receiver_not_found"] * 6


@pytest.mark.parametrize("how", ["another currency", "frozen"])
def test_other_refusals_that_tell_of_a_receiver_count_too(how: str, anna: Party, bob: Party) -> None:
    """They move nothing and tell nobody, so they would be the better way to ask."""
    if how == "frozen":
        wallets.freeze_wallets(user_id=bob.id)
        wanted, code = {}, "wallet_closed"
    else:
        anna.api.post_json("/wallets", {"currency": "EUR"})
        wanted, code = {"currency": "EUR"}, "currency_mismatch"
    for _ in range(LIMIT):
        assert_problem(pay(anna, bob.id, **wanted), 409, code)
    assert_problem(pay(anna, bob.id, **wanted), 429, "rate_limited")


def test_without_a_wallet_of_ones_own_nothing_is_told(anna: Party, bob: Party) -> None:
    for receiver in (bob.id, bob.user.email, "nobody@example.com"):
        problem = assert_problem(pay(anna, receiver, currency="EUR"), 409, "currency_mismatch")
        assert problem["detail"] == "You have no EUR wallet."
    use_up(anna)


def test_each_user_has_a_limit_of_their_own(anna: Party, bob: Party, stranger: Party) -> None:
    use_up(anna)
    assert pay(bob, stranger.user.email).status_code == 201


def test_paying_oneself_tells_nothing_and_counts_as_nothing(anna: Party) -> None:
    use_up(anna)
    assert_problem(pay(anna, anna.user.email), 400, "self_transfer")


def test_a_repeat_with_its_key_is_answered_as_before(anna: Party, bob: Party) -> None:
    body = {"receiver_id": bob.id, "amount": "1.00"}
    first = anna.api.post_json("/transactions", body, Idempotency_Key="k")
    use_up(anna)
    again = anna.api.post_json("/transactions", body, Idempotency_Key="k")
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])


def test_the_headers_speak_of_the_limit_of_requests(anna: Party, bob: Party, settings: LazySettings) -> None:
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "transactions": Rate(50, 60)}
    assert pay(anna, bob.id)["RateLimit-Limit"] == "50"


@pytest.mark.usefixtures("redis_down")
def test_without_redis_money_goes_on(anna: Party, bob: Party) -> None:
    assert pay(anna, bob.id).status_code == 201
    for number in range(2 * LIMIT):
        assert_problem(pay(anna, f"nobody{number}@example.com"), 404, "receiver_not_found")


def test_who_is_not_signed_in_asks_nothing() -> None:
    response = Api().post_json("/transactions", {"receiver_email": "a@example.com", "amount": "1.00"})
    assert_problem(response, 401, "not_authenticated")
