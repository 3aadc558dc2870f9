"""What batches count as: one request each, and each of their transfers in a limit of its own."""

from __future__ import annotations

import pytest
from django.conf import LazySettings

from payflow.rates import Rate
from tests.api.client import Party, assert_problem, nothing_changes
from tests.api.test_batches import send, to

DAY = 86_400


@pytest.fixture
def five_transfers(settings: LazySettings) -> None:
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "batched": Rate(5, DAY)}


@pytest.mark.usefixtures("five_transfers")
def test_each_transfer_of_a_batch_counts_good_or_bad(anna: Party, bob: Party, stranger: Party) -> None:
    first = send(anna, to(bob), {}, {"receiver_email": "nobody@example.com", "amount": "1.00"})
    assert (first.status_code, first["RateLimit-Limit"], first["RateLimit-Remaining"]) == (201, "5", "2")
    with nothing_changes():
        refused = send(anna, to(bob), to(bob), to(bob), Idempotency_Key="k")
        assert_problem(refused, 429, "rate_limited")
        assert 0 < int(refused["Retry-After"]) <= DAY
        assert refused["RateLimit-Remaining"] == "2"
    assert send(stranger, *[to(bob)] * 5).status_code == 201, "a limit is every user's own"
    assert anna.api.post_json("/transactions", to(bob)).status_code == 201, "another limit"


@pytest.mark.usefixtures("five_transfers")
def test_a_batch_that_does_not_fit_leaves_room_for_one_that_does(anna: Party, bob: Party) -> None:
    answers = [send(anna, *[to(bob)] * size) for size in (2, 4, 3, 1)]
    assert [answer.status_code for answer in answers] == [201, 429, 201, 429]
    assert [answer["RateLimit-Remaining"] for answer in answers] == ["3", "3", "0", "0"]


@pytest.mark.usefixtures("five_transfers")
def test_what_is_no_batch_counts_no_transfers(anna: Party, bob: Party) -> None:
    assert_problem(send(anna), 400, "validation_error")
    assert send(anna, *[to(bob)] * 5).status_code == 201


@pytest.mark.parametrize("is_in_redis", [False, True])
def test_a_repeat_is_the_first_answer_and_counts_no_transfers(
    anna: Party, bob: Party, settings: LazySettings, is_in_redis: bool
) -> None:
    settings.IDEMPOTENCY_ANSWER_BYTES_MAX = 2**20 if is_in_redis else 0
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "batched": Rate(5, DAY)}
    answers = [send(anna, *[to(bob)] * 3, Idempotency_Key="k") for _ in "abc"]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert ["Idempotent-Replayed" in answer for answer in answers] == [False, True, True]
    assert answers[0].content == answers[1].content == answers[2].content
    assert send(anna, *[to(bob)] * 4, Idempotency_Key="k").status_code == 422, "another batch with the key"
    assert send(anna, *[to(bob)] * 3).status_code == 429
    assert send(anna, *[to(bob)] * 2).status_code == 201


def test_a_refused_batch_uses_up_no_idempotency_key(anna: Party, bob: Party, settings: LazySettings) -> None:
    limits = settings.RATE_LIMITS
    settings.RATE_LIMITS = {**limits, "batched": Rate(1, DAY)}
    assert send(anna, to(bob), to(bob), Idempotency_Key="k").status_code == 429
    settings.RATE_LIMITS = limits
    response = send(anna, to(bob), to(bob), Idempotency_Key="k")
    assert (response.status_code, "Idempotent-Replayed" in response) == (201, False)


@pytest.mark.parametrize(("transactions", "tightest"), [(1, ("1", "0")), (90, ("5", "4"))])
def test_the_tightest_of_a_batch_s_limits_is_told(
    anna: Party, bob: Party, settings: LazySettings, transactions: int, tightest: tuple[str, str]
) -> None:
    rates = {"transactions": Rate(transactions, DAY), "batched": Rate(5, DAY)}
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, **rates}
    response = send(anna, to(bob))
    assert (response["RateLimit-Limit"], response["RateLimit-Remaining"]) == tightest


@pytest.mark.usefixtures("five_transfers", "redis_down")
def test_without_redis_batches_go_on_uncounted(anna: Party, bob: Party) -> None:
    assert send(anna, *[to(bob)] * 6).status_code == 201
