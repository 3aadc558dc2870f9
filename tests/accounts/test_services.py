from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import LazySettings, settings

from accounts import selectors, services, sessions, tokens
from accounts.errors import EmailTaken, InvalidCredentials
from accounts.hashers import BoundedArgon2Hasher
from accounts.models import User
from accounts.sessions import Device
from payflow import redisdb
from payflow.errors import NotAuthenticated, NotFound, Transient
from tests.accounts.factories import PASSWORD, UserFactory, grant
from wallets import services as wallets
from wallets.documents import Status, Wallet

ALICE = {"name": "Alice", "email": "alice@example.com", "password": PASSWORD}
KILLED = 9


def open_sessions() -> list[str]:
    return redisdb.client().keys("payflow:sessions:*")


def wallets_of(user: User) -> list[tuple[str, str]]:
    return [(w.currency, w.status) for w in Wallet.objects(user_id=str(user.pk)).order_by("currency")]


def gone(*_: object, **__: object) -> None:
    raise Transient


# --- Registration -----------------------------------------------------------------------------------------


def test_registering_makes_a_user_a_wallet_and_a_session() -> None:
    signed_in = services.register_user(**ALICE)
    user = selectors.find_user_by_email(email=ALICE["email"])
    assert user == signed_in.user
    assert wallets_of(user) == [(settings.DEFAULT_CURRENCY, Status.ACTIVE)]
    assert tokens.read_access(signed_in.tokens.access).id == str(user.pk)
    assert services.refresh_session(refresh=signed_in.tokens.refresh)


def test_of_parallel_registrations_with_one_email_one_succeeds() -> None:
    spellings = ["alice@example.com", "Alice@Example.com", "ALICE@EXAMPLE.COM", "aLICE@example.COM"] * 2

    def register(email: str) -> bool:
        try:
            services.register_user(name="Alice", email=email, password=PASSWORD)
        except EmailTaken:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(register, spellings)) == 1
    user = User.objects.get()
    assert Wallet.objects.count() == 1
    assert open_sessions() == [f"payflow:sessions:{user.pk}"]


@pytest.mark.usefixtures("redis_down")
def test_without_redis_nobody_is_registered() -> None:
    with pytest.raises(Transient):
        services.register_user(**ALICE)
    assert User.objects.count() == 0
    assert Wallet.objects.count() == 0


def test_without_mongodb_no_session_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(User, "save", gone)
    with pytest.raises(Transient):
        services.register_user(**ALICE)
    assert open_sessions() == []


def test_a_user_whose_registration_was_killed_before_the_wallet_gets_one_at_login() -> None:
    crash = (
        "import os, django; django.setup();"
        "from wallets import services as wallets; from accounts import services;"
        f"wallets.ensure_wallet = lambda **_: os._exit({KILLED});"
        f"services.register_user(**{ALICE!r})"
    )
    killed = subprocess.run([sys.executable, "-c", crash], timeout=60, check=False)
    assert killed.returncode == KILLED
    user = User.objects.get()
    assert wallets_of(user) == []
    services.sign_in(email=ALICE["email"], password=PASSWORD)
    assert wallets_of(user) == [(settings.DEFAULT_CURRENCY, Status.ACTIVE)]


# --- Signing in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "email", "password", "succeeds"),
    [
        ({}, "alice@example.com", PASSWORD, True),
        ({}, "ALICE@example.com", PASSWORD, True),
        ({}, "alice@example.com", "wrong", False),
        ({}, "nobody@example.com", PASSWORD, False),
        ({"is_active": False}, "alice@example.com", PASSWORD, False),
        ({"password": "!unusable"}, "alice@example.com", PASSWORD, False),
        ({"password": ""}, "alice@example.com", "", False),
    ],
)
def test_signing_in_hashes_once_and_says_nothing_about_why_not(
    monkeypatch: pytest.MonkeyPatch, stored: dict[str, object], email: str, password: str, succeeds: bool
) -> None:
    UserFactory(email="alice@example.com", **stored)
    hashed: list[str] = []
    for name in ("encode", "verify"):
        original = getattr(BoundedArgon2Hasher, name)

        def counted(self: BoundedArgon2Hasher, first: str, second: str, original=original) -> object:
            hashed.append(first)
            return original(self, first, second)

        monkeypatch.setattr(BoundedArgon2Hasher, name, counted)
    if succeeds:
        services.sign_in(email=email, password=password)
    else:
        with pytest.raises(InvalidCredentials) as refusal:
            services.sign_in(email=email, password=password)
        assert refusal.value.detail == "The email or the password is wrong."
        assert open_sessions() == []
    assert len(hashed) == 1


def test_signing_in_renews_a_hash_of_older_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedArgon2Hasher, "time_cost", 1)
    user = UserFactory(password=services.make_password(PASSWORD))
    monkeypatch.undo()
    services.sign_in(email=user.email, password=PASSWORD)
    user.refresh_from_db()
    assert "t=2" in user.password
    services.sign_in(email=user.email, password=PASSWORD)


def test_staff_tokens_say_so() -> None:
    user = grant(UserFactory(is_staff=True), "ledger.view_audit")
    signed_in = services.sign_in(email=user.email, password=PASSWORD)
    caller = tokens.read_access(signed_in.tokens.access)
    assert caller.may("ledger.view_audit")
    assert not caller.may("ledger.change_simulation")
    # As stored now, whatever the token says.
    User.objects.filter(pk=user.pk).update(is_staff=False)
    assert not caller.may("ledger.view_audit")


def test_a_permission_without_being_staff_opens_nothing_of_staff() -> None:
    user = grant(UserFactory(), "ledger.view_audit")
    signed_in = services.sign_in(email=user.email, password=PASSWORD)
    assert not tokens.read_access(signed_in.tokens.access).may("ledger.view_audit")


# --- Refreshing and signing out ---------------------------------------------------------------------------


def test_a_failed_lookup_uses_no_refresh_token_up(monkeypatch: pytest.MonkeyPatch) -> None:
    refresh = services.register_user(**ALICE).tokens.refresh
    with monkeypatch.context() as patch:
        patch.setattr(selectors, "find_user", gone)
        with pytest.raises(Transient):
            services.refresh_session(refresh=refresh)
    assert services.refresh_session(refresh=refresh)


def test_whoever_does_not_hear_of_an_exchange_is_told_what_to_do(
    request: pytest.FixtureRequest,
) -> None:
    signed_in = services.register_user(**ALICE)
    request.getfixturevalue("redis_down")
    with pytest.raises(Transient, match="may have used this token up"):
        services.refresh_session(refresh=signed_in.tokens.refresh)


def test_a_user_who_is_gone_or_inactive_cannot_refresh() -> None:
    signed_in = services.register_user(**ALICE)
    User.objects.update(is_active=False)
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=signed_in.tokens.refresh)
    User.objects.all().delete()
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=signed_in.tokens.refresh)


def test_losing_all_of_redis_signs_everybody_out_and_nothing_else() -> None:
    signed_in = services.register_user(**ALICE)
    redisdb.client().flushdb()
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=signed_in.tokens.refresh)
    assert services.sign_in(email=ALICE["email"], password=PASSWORD)


def test_a_used_up_refresh_token_still_signs_its_session_out() -> None:
    first = services.register_user(**ALICE).tokens.refresh
    second = services.refresh_session(refresh=first).refresh
    services.sign_out(refresh=first)
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=second)


# --- Changing the password --------------------------------------------------------------------------------


def change(user: User, family: str, current: str = PASSWORD, new: str = "a better password") -> None:
    services.change_password(user=user, family=family, current_password=current, new_password=new)


def family_of(signed_in: services.SignedIn) -> str:
    return tokens.read_access(signed_in.tokens.access).family


def test_a_new_password_ends_the_other_sessions_and_keeps_the_callers() -> None:
    mine = services.register_user(**ALICE)
    other = services.sign_in(email=ALICE["email"], password=PASSWORD)
    change(mine.user, family_of(mine))
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=other.tokens.refresh)
    assert services.refresh_session(refresh=mine.tokens.refresh)
    with pytest.raises(InvalidCredentials):
        services.sign_in(email=ALICE["email"], password=PASSWORD)
    assert services.sign_in(email=ALICE["email"], password="a better password")


def test_a_session_opened_while_the_password_changes_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = services.register_user(**ALICE)
    late: list[services.SignedIn] = []
    replace = services._replace_password

    def sign_in_first(user: User, password: str) -> bool:
        late.append(services.sign_in(email=ALICE["email"], password=PASSWORD))
        return replace(user, password)

    monkeypatch.setattr(services, "_replace_password", sign_in_first)
    change(mine.user, family_of(mine))
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=late[0].tokens.refresh)


def changed_password(user: User) -> None:
    services.change_password(
        user=User.objects.get(), family="", current_password=PASSWORD, new_password="a better password"
    )


def deactivated(user: User) -> None:
    services.deactivate_user(user_id=str(user.pk))


def staff_made(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_staff=True)
    services.close_sessions_again(user_id=str(user.pk))


def removed(user: User) -> None:
    User.objects.filter(pk=user.pk).delete()
    services.close_sessions_again(user_id=str(user.pk))


@pytest.mark.parametrize("change", [changed_password, deactivated, staff_made, removed])
def test_who_signs_in_while_the_account_changes_gets_no_session(
    change: Callable[[User], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sessions have been ended by the time that this one is opened."""
    services.register_user(**ALICE)
    open_session = services._open_session

    def change_first(user: User, device: Device | None = None) -> services.SignedIn:
        monkeypatch.undo()
        change(user)
        return open_session(user, device)

    monkeypatch.setattr(services, "_open_session", change_first)
    with pytest.raises(InvalidCredentials):
        services.sign_in(email=ALICE["email"], password=PASSWORD)
    assert open_sessions() == []


def test_who_signs_in_while_the_hash_is_renewed_is_signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    user, open_session = services.register_user(**ALICE).user, services._open_session

    def renew_first(*arguments: Any) -> services.SignedIn:
        assert services._replace_password(User.objects.get(), PASSWORD)
        return open_session(*arguments)

    monkeypatch.setattr(services, "_open_session", renew_first)
    assert services.sign_in(email=ALICE["email"], password=PASSWORD).user == user


def test_a_wrong_current_password_changes_nothing() -> None:
    mine = services.register_user(**ALICE)
    other = services.sign_in(email=ALICE["email"], password=PASSWORD)
    with pytest.raises(InvalidCredentials):
        change(mine.user, family_of(mine), current="wrong")
    assert services.refresh_session(refresh=other.tokens.refresh)
    assert services.sign_in(email=ALICE["email"], password=PASSWORD)


def test_of_two_changes_at_once_the_later_is_refused() -> None:
    mine = services.register_user(**ALICE)
    stale = User.objects.get()
    change(mine.user, family_of(mine), new="the first new password")
    with pytest.raises(InvalidCredentials):
        change(stale, family_of(mine), new="the second new password")
    assert services.sign_in(email=ALICE["email"], password="the first new password")


def test_without_redis_the_password_stays(request: pytest.FixtureRequest) -> None:
    mine = services.register_user(**ALICE)
    request.getfixturevalue("redis_down")
    with pytest.raises(Transient):
        change(mine.user, family_of(mine))
    assert User.objects.get().check_password(PASSWORD)


# --- Deactivating -----------------------------------------------------------------------------------------


def test_deactivating_freezes_the_wallets_and_ends_the_sessions() -> None:
    signed_in = services.register_user(**ALICE)
    wallets.open_wallet(user_id=str(signed_in.user.pk), currency="EUR")
    for _ in range(2):
        services.deactivate_user(user_id=str(signed_in.user.pk))
        assert wallets_of(signed_in.user) == [("EUR", Status.FROZEN), ("USD", Status.FROZEN)]
        assert not User.objects.get().is_active
        assert open_sessions() == []


def test_reactivating_undoes_it_but_for_the_sessions() -> None:
    signed_in = services.register_user(**ALICE)
    services.deactivate_user(user_id=str(signed_in.user.pk))
    for _ in range(2):
        services.reactivate_user(user_id=str(signed_in.user.pk))
        assert wallets_of(signed_in.user) == [("USD", Status.ACTIVE)]
        assert User.objects.get().is_active
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=signed_in.tokens.refresh)
    assert services.sign_in(email=ALICE["email"], password=PASSWORD)


def test_a_session_that_outlived_a_deactivation_ends_with_it(
    request: pytest.FixtureRequest, settings: LazySettings
) -> None:
    signed_in, url = services.register_user(**ALICE), settings.REDIS_URL
    user_id = str(signed_in.user.pk)
    request.getfixturevalue("redis_down")
    services.deactivate_user(user_id=user_id)
    with pytest.raises(Transient):
        services.reactivate_user(user_id=user_id)
    assert not User.objects.get().is_active
    settings.REDIS_URL = url
    redisdb.client.cache_clear()
    services.reactivate_user(user_id=user_id)
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=signed_in.tokens.refresh)


def test_a_user_without_a_wallet_is_deactivated_with_a_frozen_one() -> None:
    user = UserFactory()
    services.deactivate_user(user_id=str(user.pk))
    assert wallets_of(user) == [("USD", Status.FROZEN)]


@pytest.mark.usefixtures("redis_down")
def test_deactivating_needs_no_redis() -> None:
    user = UserFactory()
    services.deactivate_user(user_id=str(user.pk))
    assert not User.objects.get().is_active
    assert wallets_of(user) == [("USD", Status.FROZEN)]


def test_a_deactivation_that_dies_half_way_has_stopped_the_money_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user = services.register_user(**ALICE).user
    with monkeypatch.context() as patch:
        patch.setattr(services, "_set_active", gone)
        with pytest.raises(Transient):
            services.deactivate_user(user_id=str(user.pk))
    assert wallets_of(user) == [("USD", Status.FROZEN)]
    assert User.objects.get().is_active
    services.deactivate_user(user_id=str(user.pk))
    assert not User.objects.get().is_active


def test_a_wallet_opened_while_its_owner_is_deactivated_is_frozen_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user = services.register_user(**ALICE).user
    set_active = services._set_active

    def open_first(user: User, *, is_active: bool) -> None:
        wallets.open_wallet(user_id=str(user.pk), currency="EUR")
        set_active(user, is_active=is_active)

    monkeypatch.setattr(services, "_set_active", open_first)
    services.deactivate_user(user_id=str(user.pk))
    assert wallets_of(user) == [("EUR", Status.FROZEN), ("USD", Status.FROZEN)]


def test_a_wallet_opened_after_its_owner_was_deactivated_is_frozen_too() -> None:
    """The request was let in before, and its insert lands after all else."""
    user_id = str(services.register_user(**ALICE).user.pk)
    services.deactivate_user(user_id=user_id)
    assert wallets.open_wallet(user_id=user_id, currency="EUR").status == Status.FROZEN
    services.reactivate_user(user_id=user_id)
    user = User.objects.get()
    assert wallets_of(user) == [("EUR", Status.ACTIVE), ("USD", Status.ACTIVE)]


def test_a_wallet_opened_while_its_owner_is_reactivated_is_active(monkeypatch: pytest.MonkeyPatch) -> None:
    user = services.register_user(**ALICE).user
    services.deactivate_user(user_id=str(user.pk))
    hold = wallets._hold

    def reactivate_first(*given: object) -> None:
        monkeypatch.setattr(wallets, "_hold", hold)
        services.reactivate_user(user_id=str(user.pk))
        hold(*given)

    monkeypatch.setattr(wallets, "_hold", reactivate_first)
    assert wallets.open_wallet(user_id=str(user.pk), currency="EUR").status == Status.ACTIVE
    assert wallets_of(user) == [("EUR", Status.ACTIVE), ("USD", Status.ACTIVE)]


@pytest.mark.parametrize("first", ["deactivate_user", "reactivate_user"])
def test_wallets_follow_the_account_when_the_opposite_is_decided_meanwhile(
    monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    user = services.register_user(**ALICE).user
    user_id = str(user.pk)
    slow, fast = services.deactivate_user, services.reactivate_user
    if first == "reactivate_user":
        slow, fast = fast, slow
        slow_step = "unfreeze_wallets"
        services.deactivate_user(user_id=user_id)
    else:
        slow_step = "freeze_wallets"
    step, calls = getattr(wallets, slow_step), []

    def overtaken(*, user_id: str) -> None:
        calls.append(user_id)
        if len(calls) == (2 if first == "deactivate_user" else 1):
            monkeypatch.setattr(wallets, slow_step, step)
            fast(user_id=user_id)
        step(user_id=user_id)

    monkeypatch.setattr(wallets, slow_step, overtaken)
    slow(user_id=user_id)
    is_active = User.objects.get().is_active
    assert is_active is (first == "deactivate_user")
    assert wallets_of(user) == [("USD", Status.ACTIVE if is_active else Status.FROZEN)]


@pytest.mark.parametrize("user_id", ["6b03c1ec6df2d2819d6fc80b", "x", ""])
def test_nobody_can_be_neither_deactivated_nor_reactivated(user_id: str) -> None:
    for change_user in (services.deactivate_user, services.reactivate_user):
        with pytest.raises(NotFound):
            change_user(user_id=user_id)
    assert Wallet.objects.count() == 0


def test_a_limit_on_sessions_holds_for_sign_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SESSIONS_PER_USER_MAX", 2)
    first = services.register_user(**ALICE)
    for _ in range(2):
        services.sign_in(email=ALICE["email"], password=PASSWORD)
    assert redisdb.client().hlen(sessions._key(str(first.user.pk))) == 2
