from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import LazySettings

from accounts import sessions
from payflow import redisdb
from payflow.errors import NotAuthenticated, Transient

NOW = 1_800_000_000
USER = "6b03c1ec6df2d2819d6fc80b"


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clock that sessions read; a test may move it. Kept ahead of Redis's own, or keys would expire."""
    moment = [NOW]
    monkeypatch.setattr(sessions, "_now", lambda: moment[0])
    return moment


def open_family(family: str, jti: str = "j1", *, expires_at: int = NOW + 100, user_id: str = USER) -> None:
    sessions.open_family(user_id=user_id, family=family, jti=jti, expires_at=expires_at)


def rotate(family: str, used: str, following: str, *, expires_at: int = NOW + 200) -> None:
    sessions.rotate_family(
        user_id=USER, family=family, used_jti=used, next_jti=following, expires_at=expires_at
    )


def stored(user_id: str = USER) -> dict[str, str]:
    return redisdb.client().hgetall(f"payflow:sessions:{user_id}")


def test_opening_stores_the_token_and_its_expiry_and_the_key_expires_with_it() -> None:
    open_family("f1")
    assert stored() == {"f1": f"j1:{NOW + 100}"}
    assert redisdb.client().ttl(f"payflow:sessions:{USER}") > 0


def test_rotating_swaps_the_token_of_that_family_only() -> None:
    open_family("f1")
    open_family("f2", "j9")
    rotate("f1", "j1", "j2")
    assert stored() == {"f1": f"j2:{NOW + 200}", "f2": f"j9:{NOW + 100}"}


def test_a_second_use_ends_the_family_and_no_other() -> None:
    open_family("f1")
    open_family("f2")
    rotate("f1", "j1", "j2")
    with pytest.raises(NotAuthenticated):
        rotate("f1", "j1", "j3")
    assert set(stored()) == {"f2"}
    with pytest.raises(NotAuthenticated):
        rotate("f1", "j2", "j3")


def test_a_family_that_never_was_is_refused_and_nothing_is_stored() -> None:
    with pytest.raises(NotAuthenticated):
        rotate("f1", "j1", "j2")
    assert stored() == {}


def test_an_expired_family_is_refused_and_dropped(now: list[int]) -> None:
    open_family("f1", expires_at=NOW + 100)
    open_family("f2", expires_at=NOW + 500)
    now[0] = NOW + 100
    with pytest.raises(NotAuthenticated):
        rotate("f1", "j1", "j2")
    assert set(stored()) == {"f2"}


def test_opening_drops_expired_families(now: list[int]) -> None:
    open_family("f1")
    now[0] = NOW + 101
    open_family("f2", expires_at=NOW + 500)
    assert set(stored()) == {"f2"}


def test_past_the_limit_the_family_next_to_expire_ends(settings: LazySettings) -> None:
    settings.SESSIONS_PER_USER_MAX = 3
    for n in (3, 1, 2, 4):
        open_family(f"f{n}", expires_at=NOW + n)
    assert set(stored()) == {"f2", "f3", "f4"}


def test_a_smaller_limit_than_before_is_reached_at_once(settings: LazySettings) -> None:
    for n in range(5):
        open_family(f"f{n}", expires_at=NOW + 10 + n)
    settings.SESSIONS_PER_USER_MAX = 2
    open_family("new", expires_at=NOW + 50)
    assert set(stored()) == {"f4", "new"}


def test_closing_ends_one_all_but_one_or_all() -> None:
    for family in ("f1", "f2", "f3"):
        open_family(family)
    open_family("f1", user_id="another")
    sessions.close_family(user_id=USER, family="f1")
    sessions.close_family(user_id=USER, family="f1")
    assert set(stored()) == {"f2", "f3"}
    sessions.close_other_families(user_id=USER, family="f3")
    assert set(stored()) == {"f3"}
    sessions.close_all_families(user_id=USER)
    assert stored() == {}
    assert set(stored("another")) == {"f1"}


def test_of_parallel_uses_exactly_one_succeeds() -> None:
    open_family("f1")

    def use(n: int) -> bool:
        try:
            rotate("f1", "j1", f"next-{n}")
        except NotAuthenticated:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(use, range(8))) == 1
    assert stored() == {}


@pytest.mark.usefixtures("redis_down")
def test_without_redis_every_operation_is_transient() -> None:
    operations = [
        lambda: open_family("f1"),
        lambda: rotate("f1", "j1", "j2"),
        lambda: sessions.close_family(user_id=USER, family="f1"),
        lambda: sessions.close_other_families(user_id=USER, family="f1"),
        lambda: sessions.close_all_families(user_id=USER),
    ]
    for operation in operations:
        with pytest.raises(Transient):
            operation()
