"""Places: gapless, given once, in order, whoever places at once and whenever one dies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payflow import clock
from payflow.events import EventType
from payflow.mongodb import collection
from tests.webhooks import hooks
from tests.webhooks.hooks import LIFE, counted, events_of, subscribe
from webhooks import fanout, sequencing
from webhooks.documents import Delivery, Subscription


def test_places_are_given_in_the_order_of_creation_and_make_deliveries_due() -> None:
    first, second = subscribe(), subscribe()
    hooks.tell(5)
    for subscription_id in (first, second):
        assert {row.get("next_attempt_at") for row in hooks.deliveries(subscription_id)} == {None}
        hooks.place(subscription_id)
        rows = hooks.deliveries(subscription_id)
        assert [row["sequence"] for row in rows] == list(range(1, 21))
        assert [row["event_type"] for row in rows] == [event.value for event in LIFE] * 5
        assert all(row["next_attempt_at"] <= clock.now() for row in rows)


def test_what_comes_later_goes_on_where_it_stopped() -> None:
    subscription_id = subscribe()
    for expected in (4, 8, 12):
        hooks.tell()
        hooks.place(subscription_id)
        assert hooks.sequences(subscription_id) == list(range(1, expected + 1))


def test_a_place_is_stored_as_the_index_needs_it() -> None:
    subscription_id = subscribe()
    hooks.tell()
    hooks.place(subscription_id)
    query = {"subscription_id": subscription_id, "sequence": {"$type": "long"}}
    assert collection(Delivery).count_documents(query) == len(LIFE)


def test_workers_that_race_make_no_gap_and_no_double() -> None:
    subscription_id = subscribe()

    def tell(_: int) -> None:
        hooks.tell(5)

    def place(_: int) -> None:
        for _ in range(20):
            sequencing.place(subscription_id=subscription_id, limit=7)

    with ThreadPoolExecutor(8) as threads:
        jobs = [threads.submit(job, n) for n in range(4) for job in (tell, place)]
        for job in jobs:
            job.result()
    hooks.place(subscription_id)
    rows = hooks.deliveries(subscription_id)
    assert [row["sequence"] for row in rows] == list(range(1, 4 * 5 * len(LIFE) + 1))
    for transaction_id in {row["transaction_id"] for row in rows}:
        mine = [row["event_type"] for row in rows if row["transaction_id"] == transaction_id]
        assert mine == [event.value for event in LIFE]


def test_a_placer_that_stood_still_while_others_went_on_harms_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It wakes up with an old list and an old number, in the middle of somebody else's work."""
    subscription_id = subscribe()
    hooks.tell(2)
    stale = sequencing._unplaced(subscription_id, 500)
    # What the sleeper has not seen comes before what it has.
    an_hour_ago = clock.now() - timedelta(hours=1)
    fanout.fan_out(events_of("txn_early", [EventType.TRANSACTION_INITIATED], at=an_hour_ago))
    sequencing.place(subscription_id=subscription_id, limit=4)
    assert not sequencing._number(stale, 1)
    assert hooks.sequences(subscription_id) == [None] * 5 + [1, 2, 3, 4]
    sequencing.place(subscription_id=subscription_id, limit=500)
    assert hooks.sequences(subscription_id) == list(range(1, 10))


def test_a_page_of_which_others_have_numbered_rows_leaves_no_gap() -> None:
    """Any rows of it, by any number of others, as long as they were without a number when it was read."""
    for pages in ([(0, 3)], [(0, 2), (1, 4)], [(2, 3)], [(0, 12)], [(1, 2), (0, 5)]):
        subscription_id = subscribe()
        hooks.tell(3)
        rows = sequencing._unplaced(subscription_id, 500)
        for begin, end in pages:
            last = sequencing.last_sequence(subscription_id=subscription_id)
            others = sequencing._unplaced(subscription_id, 500)[begin:end]
            sequencing._number(others, last + 1)
        sequencing._number(rows, 1)
        hooks.place(subscription_id)
        assert hooks.sequences(subscription_id) == list(range(1, 13))
        collection(Subscription).delete_one({"_id": subscription_id})


def test_one_that_died_half_way_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class DiedError(Exception):
        pass

    def die(point: str) -> None:
        raise DiedError

    subscription_id = subscribe()
    hooks.tell(3)
    with monkeypatch.context() as patch:
        patch.setattr(sequencing, "crash_point", die)
        with pytest.raises(DiedError):
            sequencing.place(subscription_id=subscription_id, limit=7)
    assert hooks.sequences(subscription_id).count(None) == 5
    hooks.place(subscription_id)
    assert hooks.sequences(subscription_id) == list(range(1, 13))


def test_a_page_is_numbered_by_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 500 commands a second, 12,000 deliveries would wait for half a minute."""
    subscription_id = subscribe()
    hooks.tell(25)
    with counted(monkeypatch, sequencing) as commands:
        assert sequencing.place(subscription_id=subscription_id, limit=500) == 100
    assert commands.count("update") == 1
    assert len(commands) < 10
    assert hooks.sequences(subscription_id) == list(range(1, 101))


def test_a_place_that_is_no_longer_kept_is_not_given_again() -> None:
    subscription_id = subscribe()
    hooks.tell()
    hooks.place(subscription_id)
    collection(Subscription).update_one({"_id": subscription_id}, {"$set": {"removed_sequence": 4}})
    collection(Delivery).delete_many({})
    hooks.tell()
    hooks.place(subscription_id)
    assert hooks.sequences(subscription_id) == [5, 6, 7, 8]


def test_clocks_that_disagree_do_not_turn_a_life_around() -> None:
    subscription_id = subscribe()
    for minutes, event in zip((0, -5, 5, -1), LIFE, strict=True):
        fanout.fan_out(events_of("txn_1", [event], at=clock.now() + timedelta(minutes=minutes)))
    hooks.tell()
    hooks.place(subscription_id)
    mine = [
        row["event_type"] for row in hooks.deliveries(subscription_id) if row["transaction_id"] == "txn_1"
    ]
    assert mine == [event.value for event in LIFE]


def test_of_one_transaction_the_earlier_come_first_however_few_are_placed_at_once() -> None:
    subscription_id = subscribe()
    told = events_of("txn_1")
    for event in reversed(told):
        fanout.fan_out([event])
    for _ in told:
        sequencing.place(subscription_id=subscription_id, limit=1)
    assert [row["event_type"] for row in hooks.deliveries(subscription_id)] == [each.value for each in LIFE]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(EventType))), max_size=20))
def test_ordering_keeps_every_row_and_sorts_each_transaction(pairs: list[tuple[str, EventType]]) -> None:
    rows = [{"_id": str(n), "event_id": f"{txn}:{event.value}"} for n, (txn, event) in enumerate(pairs)]
    ordered = sequencing.in_order(rows)
    assert sorted(row["_id"] for row in ordered) == sorted(row["_id"] for row in rows)
    assert [row["event_id"][0] for row in ordered] == [row["event_id"][0] for row in rows]
    for txn in "abc":
        ranks = [fanout.RANK[row["event_id"][2:]] for row in ordered if row["event_id"][0] == txn]
        assert ranks == sorted(ranks)
