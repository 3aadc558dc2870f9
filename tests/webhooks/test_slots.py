"""Slots: who is served beside whom, who waits, and who is next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from webhooks import slots
from webhooks.slots import Visitor


@pytest.fixture(autouse=True)
def _nobody_is_here() -> Iterator[None]:
    yield
    for each in (slots._serving, slots._waiting, slots._slow):
        each.clear()


def healthy(number: int, *, user_id: str = "anna", limit: int = 2) -> Visitor:
    return Visitor(f"wh_{number}", user_id, limit, is_suspect=False)


def suspect(number: int, *, user_id: str | None = None) -> Visitor:
    return Visitor(f"wh_{number}", user_id or f"user {number}", 1, is_suspect=True)


def entering(*visitors: Visitor) -> list[bool]:
    return [slots.enter(visitor) for visitor in visitors]


def test_an_endpoint_gets_its_threads_and_no_more() -> None:
    assert entering(*[healthy(1)] * 3) == [True, True, False]
    assert slots.leave(healthy(1)) == ["wh_1"]
    assert slots.leave(healthy(1)) == []


def test_some_threads_are_always_left_to_others() -> None:
    assert entering(*map(healthy, range(8))).count(True) == slots.TURNS_MAX == 6


def test_suspects_together_leave_threads_to_the_healthy() -> None:
    assert entering(*map(suspect, range(5))).count(True) == slots.SUSPECTS_MAX
    assert entering(*map(healthy, range(10, 13))) == [True] * 3


def test_one_users_suspects_share_one_thread() -> None:
    mine = [suspect(number, user_id="anna") for number in range(3)]
    assert entering(*mine) == [True, False, False]
    assert entering(suspect(9, user_id="bob"), healthy(8, user_id="anna")) == [True, True]


def test_an_endpoint_that_turns_suspect_gets_no_thread_beside_the_one_it_has() -> None:
    assert entering(healthy(1), suspect(1)) == [True, False]


def test_who_waits_is_served_in_turn() -> None:
    """Each that leaves has more to do, and asks again after the one that is next."""
    mine = {f"wh_{number}": suspect(number, user_id="anna") for number in range(3)}
    entering(*mine.values())
    now, served = "wh_0", []
    for _ in range(6):
        (following,) = slots.leave(mine[now])
        assert entering(mine[following], mine[now]) == [True, False]
        now = following
        served.append(now)
    assert served == ["wh_1", "wh_2", "wh_0"] * 2


def test_who_is_next_is_one_that_may_enter_now() -> None:
    visitors = [*map(suspect, range(3)), *map(healthy, range(10, 13))]
    assert all(entering(*visitors))
    entering(suspect(4), healthy(14))
    assert slots.leave(healthy(10)) == ["wh_14"]
    assert slots.enter(healthy(14))
    assert slots.leave(suspect(0)) == ["wh_4"]


def test_whom_was_asked_for_meanwhile_is_looked_at_again_beside_the_next() -> None:
    entering(*map(suspect, range(3)), suspect(4), suspect(0))
    assert slots.leave(suspect(0)) == ["wh_4", "wh_0"]


def test_those_who_wait_and_those_who_are_slow_are_remembered_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slots, "WAITING_MAX", 2)
    monkeypatch.setattr(slots, "SLOW_MAX", 2)
    entering(*map(suspect, range(9)))
    assert list(slots._waiting) == ["wh_3", "wh_4"]
    for number in range(3):
        slots.note_pace(f"wh_{number}", seconds=slots.SLOW_SECONDS)
    assert [slots.is_slow(f"wh_{number}") for number in range(3)] == [False, True, True]


def test_an_endpoint_is_slow_until_it_is_quick() -> None:
    slots.note_pace("wh_1", seconds=1.5)
    assert slots.is_slow("wh_1")
    slots.note_pace("wh_1", seconds=0.9)
    assert not slots.is_slow("wh_1")
