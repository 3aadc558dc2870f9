"""The failure simulation: who is refused, and what becomes of its settings."""

from __future__ import annotations

import threading

import pytest
from django.conf import LazySettings

from ledger import simulation
from ledger.simulation import OFF, FailureType, Simulation
from payflow import redisdb
from payflow.errors import Transient

IDS = [f"txn_{n:032x}" for n in range(2_000)]


def drawn(per_million: int) -> set[str]:
    state = Simulation(enabled=True, failure_per_million=per_million)
    return {id_ for id_ in IDS if simulation.is_refused(id_, state)}


def test_refuses_nobody_while_it_is_off() -> None:
    state = Simulation(enabled=False, failure_per_million=1_000_000, fail_transaction_ids=frozenset(IDS))
    assert not any(simulation.is_refused(id_, state) for id_ in IDS)
    assert not any(simulation.is_refused(id_, OFF) for id_ in IDS)


def test_refuses_those_that_are_named_and_nobody_else() -> None:
    state = Simulation(enabled=True, fail_transaction_ids=frozenset(IDS[:3]))
    assert [id_ for id_ in IDS if simulation.is_refused(id_, state)] == IDS[:3]


@pytest.mark.parametrize(
    ("per_million", "least", "most"),
    [(0, 0, 0), (100_000, 140, 260), (500_000, 900, 1_100), (1_000_000, 2_000, 2_000)],
)
def test_refuses_about_the_share_that_is_asked_for(per_million: int, least: int, most: int) -> None:
    assert least <= len(drawn(per_million)) <= most


def test_draws_the_same_lot_for_ever() -> None:
    """A worker of another version, or another machine, must not reach another answer."""
    assert [simulation.draw(id_) for id_ in ("txn_1", "txn_2", "")] == [666_731, 610_526, 496_161]


def test_a_higher_rate_refuses_whom_the_lower_one_did_and_more() -> None:
    assert drawn(200_000) < drawn(400_000) < drawn(900_000)


def test_is_off_until_somebody_turns_it_on() -> None:
    assert simulation.read() == simulation.current() == OFF


def test_keeps_what_a_change_does_not_name() -> None:
    simulation.change(by="s", enabled=True, failure_per_million=250_000)
    simulation.change(by="s", fail_transaction_ids=["b", "a", "b"])
    state = simulation.change(by="s", failure_type=FailureType.TIMEOUT)
    assert state == simulation.current() == Simulation(True, 250_000, frozenset("ab"), FailureType.TIMEOUT)
    assert simulation.change(by="s", enabled=False, fail_transaction_ids=[]) == Simulation(
        False, 250_000, frozenset(), FailureType.TIMEOUT
    )
    assert simulation.change(by="s") == simulation.read()


def test_reset_turns_everything_off() -> None:
    simulation.change(by="s", enabled=True, failure_per_million=1, failure_type=FailureType.TIMEOUT)
    assert simulation.reset(by="s") == simulation.read() == OFF


def test_changes_of_different_fields_at_once_are_all_kept() -> None:
    together = threading.Barrier(4)
    changes = (
        {"enabled": True},
        {"failure_per_million": 7},
        {"fail_transaction_ids": ["x"]},
        {"failure_type": FailureType.TIMEOUT},
    )

    def change(fields: dict) -> None:
        together.wait()
        simulation.change(by="s", **fields)

    threads = [threading.Thread(target=change, args=(fields,)) for fields in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert simulation.read() == Simulation(True, 7, frozenset("x"), FailureType.TIMEOUT)


def test_simulates_nothing_in_production(settings: LazySettings) -> None:
    simulation.change(by="s", enabled=True, failure_per_million=1_000_000)
    settings.IS_PRODUCTION = True
    assert simulation.current() == OFF


def test_simulates_nothing_without_redis_and_says_so_to_whoever_asks(redis_down: None) -> None:
    assert simulation.current() == OFF
    for ask in (
        simulation.read,
        lambda: simulation.reset(by="s"),
        lambda: simulation.change(by="s", enabled=True),
    ):
        with pytest.raises(Transient):
            ask()


@pytest.mark.parametrize(
    "rubbish",
    [
        {"failure_per_million": "many"},
        {"failure_per_million": "null"},
        {"failure_type": '"MAYBE"'},
        {"fail_transaction_ids": "7"},
        {"enabled": "yes"},
    ],
)
def test_simulates_nothing_when_its_settings_make_no_sense(rubbish: dict[str, str]) -> None:
    redisdb.client().hset(simulation.KEY, mapping={"enabled": "true", **rubbish})
    assert simulation.current() == simulation.read() == OFF


def test_simulates_nothing_when_its_key_holds_something_else() -> None:
    redisdb.client().set(simulation.KEY, "x")
    assert simulation.current() == OFF
    assert simulation.reset(by="s") == simulation.read() == OFF
