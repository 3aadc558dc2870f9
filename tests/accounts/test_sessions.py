from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import LazySettings, settings

from accounts import sessions
from accounts.sessions import Device, Session
from payflow import redisdb
from payflow.errors import NotAuthenticated, Transient

NOW = 1_800_000_000
# An access token lives 15 minutes; clocks may differ, either way.
KEPT_SECONDS = 900 + 2 * settings.JWT_LEEWAY_SECONDS
USER = "6b03c1ec6df2d2819d6fc80b"


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clock that sessions read; a test may move it. Kept ahead of Redis's own, or keys would expire."""
    moment = [NOW]
    monkeypatch.setattr(sessions, "_now", lambda: moment[0])
    return moment


def open_family(
    family: str,
    jti: str = "j1",
    *,
    expires_at: int = NOW + 100,
    user_id: str = USER,
    device: Device | None = None,
) -> None:
    sessions.open_family(user_id=user_id, family=family, jti=jti, expires_at=expires_at, device=device)


def rotate(family: str, used: str, following: str, *, expires_at: int = NOW + 200) -> None:
    sessions.rotate_family(
        user_id=USER, family=family, used_jti=used, next_jti=following, expires_at=expires_at
    )


def end_elsewhere(*families: str, ago_ms: int = 0) -> None:
    """As another process does it."""
    seconds, microseconds = redisdb.client().time()
    ms = seconds * 1_000 + microseconds // 1_000 - ago_ms
    redisdb.client().zadd("payflow:ended-sessions", dict.fromkeys(families, ms))


def forget() -> None:
    """As a process that starts now."""
    sessions._Ended.families, sessions._Ended.read_at, sessions._Ended.read_until_ms = {}, float("-inf"), 0


def stored(user_id: str = USER) -> dict[str, str]:
    return redisdb.client().hgetall(f"payflow:sessions:{user_id}")


def listed() -> list[Session]:
    return sessions.list_families(user_id=USER)


def test_opening_stores_the_token_its_expiry_and_its_device_and_the_key_expires_with_it() -> None:
    open_family("f1", device=Device("2001:db8::/64", "Mozilla/5.0 (X11; Linux)"))
    assert stored() == {"f1": f"j1 {NOW + 100} {NOW} {NOW} 2001:db8::/64 Mozilla/5.0 (X11; Linux)"}
    assert redisdb.client().ttl(f"payflow:sessions:{USER}") > 0


def test_rotating_swaps_the_token_of_that_family_only(now: list[int]) -> None:
    open_family("f1")
    open_family("f2", "j9")
    now[0] = NOW + 7
    rotate("f1", "j1", "j2")
    assert stored() == {
        "f1": f"j2 {NOW + 200} {NOW} {NOW + 7} - ",
        "f2": f"j9 {NOW + 100} {NOW} {NOW} - ",
    }


def test_lists_the_last_used_first_with_where_it_was_used(now: list[int]) -> None:
    home, away = Device("192.0.2.1", "curl/8.5"), Device("192.0.2.2", "phone")
    open_family("f1", device=home)
    now[0] = NOW + 1
    open_family("f2", "j9")
    open_family("f3", user_id="another")
    now[0] = NOW + 2
    sessions.rotate_family(
        user_id=USER, family="f1", used_jti="j1", next_jti="j2", expires_at=NOW + 50, device=away
    )
    assert listed() == [
        Session("f1", NOW, NOW + 2, NOW + 50, away),
        Session("f2", NOW + 1, NOW + 1, NOW + 100, Device()),
    ]
    now[0] = NOW + 50
    assert [session.family for session in listed()] == ["f2"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (Device("192.0.2.1", "x" * 5_000), Device("192.0.2.1", "x" * 200)),
        (Device("not an address", "a\r\nb\0c\u202ed\u00e9"), Device("", "a?b?c?d?")),
        (Device("1" * 500, "  "), Device("", "")),
        (Device("::1", f"j1 {NOW} 1 2 - x"), Device("::1", f"j1 {NOW} 1 2 - x")),
        (Device("unknown", "\ud800"), Device("", "?")),
    ],
    ids=["long", "controls", "a long address", "another session", "a surrogate"],
)
def test_what_a_client_says_of_itself_is_bounded_and_printable(sent: Device, kept: Device) -> None:
    open_family("f1", device=sent)
    assert [session.device for session in listed()] == [kept]


@pytest.mark.parametrize("value", [f"j1:{NOW + 100}", "", "j1", "j1 x y z - ", f"j1 {NOW + 100}"])
def test_a_value_of_another_form_is_no_session(value: str) -> None:
    redisdb.client().hset(f"payflow:sessions:{USER}", "f1", value)
    assert listed() == []
    with pytest.raises(NotAuthenticated):
        rotate("f1", "j1", "j2")
    assert stored() == {}


def test_ending_a_session_by_any_way_ends_its_access_tokens(now: list[int], settings: LazySettings) -> None:
    settings.SESSIONS_PER_USER_MAX = 6
    for n in range(7):
        open_family(f"e{n}", expires_at=NOW + 100 + n)  # the first makes way for the last
    assert sessions.is_ended("e0")
    rotate("e1", "j1", "j2")
    with pytest.raises(NotAuthenticated):
        rotate("e1", "j1", "j3")
    assert sessions.is_ended("e1")
    assert not sessions.is_ended("e2")
    sessions.close_family(user_id=USER, family="e2")
    assert sessions.is_ended("e2")
    sessions.close_other_families(user_id=USER, family="e4")
    assert [sessions.is_ended(f"e{n}") for n in range(7)] == [True] * 4 + [False] + [True] * 2
    sessions.close_all_families(user_id=USER)
    assert sessions.is_ended("e4")


def test_what_has_ended_is_forgotten_when_its_access_tokens_have_expired(now: list[int]) -> None:
    open_family("gone", expires_at=NOW + 10_000)
    open_family("next", expires_at=NOW + 10_000)
    sessions.close_family(user_id=USER, family="gone")
    assert sessions.is_ended("gone")
    redisdb.client().zincrby("payflow:ended-sessions", -(KEPT_SECONDS + 1) * 1_000, "gone")
    now[0] = NOW + KEPT_SECONDS
    sessions.close_family(user_id=USER, family="next")
    assert redisdb.client().zrange("payflow:ended-sessions", 0, -1) == ["next"]
    assert 0 < redisdb.client().ttl("payflow:ended-sessions") <= KEPT_SECONDS
    assert not sessions.is_ended("gone")
    assert sessions.is_ended("next")


def test_another_process_learns_of_it_with_its_next_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ENDED_READ_EVERY_SECONDS", 3_600.0)
    assert not sessions.is_ended("elsewhere")
    end_elsewhere("elsewhere")
    assert not sessions.is_ended("elsewhere")  # read a moment ago
    monkeypatch.setattr(sessions, "ENDED_READ_EVERY_SECONDS", 0.0)
    assert sessions.is_ended("elsewhere")


def test_what_has_ended_stays_so_when_redis_forgets_it(
    now: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "ENDED_READ_EVERY_SECONDS", 0.0)
    open_family("f1")
    sessions.close_family(user_id=USER, family="f1")
    assert sessions.is_ended("f1")
    redisdb.client().flushdb()
    now[0] = NOW + KEPT_SECONDS - 1
    end_elsewhere("f2")
    assert sessions.is_ended("f1")
    assert sessions.is_ended("f2")
    now[0] = NOW + KEPT_SECONDS
    assert not sessions.is_ended("f1")
    assert set(sessions._Ended.families) == {"f2"}


def test_many_others_that_end_push_none_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ENDED_READ_EVERY_SECONDS", 0.0)
    open_family("victim")
    sessions.close_family(user_id=USER, family="victim")
    end_elsewhere(*(f"f{n}" for n in range(30_000)))
    assert sessions.is_ended("victim")
    assert sessions.is_ended("f0")
    # And a process that starts now knows as much.
    forget()
    assert sessions.is_ended("victim")
    assert sessions.is_ended("f29999")


def test_reads_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ENDED_READ_EVERY_SECONDS", 0.0)
    end_elsewhere(*(f"f{n}" for n in range(100)), ago_ms=60_000)
    assert sessions.is_ended("f0")
    sessions._Ended.families = {}
    end_elsewhere("new")
    assert sessions.is_ended("new")
    assert set(sessions._Ended.families) == {"new"}


def test_reads_everything_where_the_clock_of_redis_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ENDED_READ_EVERY_SECONDS", 0.0)
    assert not sessions.is_ended("f1")
    sessions._Ended.read_until_ms += 3_600_000
    end_elsewhere("f1", ago_ms=20_000)
    assert sessions.is_ended("f1")


def test_closing_what_is_not_there_says_so_and_leaves_no_trace() -> None:
    assert not sessions.close_family(user_id=USER, family="f1")
    open_family("f1")
    assert sessions.close_family(user_id=USER, family="f1")
    assert not sessions.close_family(user_id=USER, family="f1")
    open_family("old", expires_at=NOW - 1)
    assert not sessions.close_family(user_id=USER, family="old")
    assert redisdb.client().zrange("payflow:ended-sessions", 0, -1) == ["f1"]


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


def test_an_exchange_sent_twice_because_no_reply_came_is_one_exchange() -> None:
    """As the client does by itself when the connection ends."""
    open_family("f1")
    for _ in range(2):
        rotate("f1", "j1", "j2")
    assert [value.split()[0] for value in stored().values()] == ["j2"]
    assert not sessions.is_ended("f1")
    with pytest.raises(NotAuthenticated):
        rotate("f1", "j1", "j3")
    assert stored() == {}


@pytest.mark.usefixtures("redis_down")
def test_without_redis_every_operation_is_transient() -> None:
    operations = [
        lambda: open_family("f1"),
        lambda: rotate("f1", "j1", "j2"),
        lambda: sessions.close_family(user_id=USER, family="f1"),
        lambda: sessions.close_other_families(user_id=USER, family="f1"),
        lambda: sessions.close_all_families(user_id=USER),
        listed,
    ]
    for operation in operations:
        with pytest.raises(Transient):
            operation()


@pytest.mark.usefixtures("redis_down")
def test_without_redis_a_token_is_believed_and_redis_is_not_asked_for_each() -> None:
    sessions._Ended.read_at = float("-inf")
    assert not sessions.is_ended("f1")
    assert redisdb.is_spared()
    sessions._Ended.read_at = float("-inf")
    assert not sessions.is_ended("f1")
    assert sessions._Ended.read_at == float("-inf")
