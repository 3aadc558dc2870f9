from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import mongoengine
import pytest
from django.conf import LazySettings
from pymongo import monitoring
from pymongo.errors import AutoReconnect

from accounts import api_keys, selectors, services
from accounts.errors import ApiKeyNotFound, DepositsNotGranted, TooManyApiKeys
from accounts.models import ApiKey, User
from payflow import clock, mongodb
from payflow.errors import NotAuthenticated
from tests.accounts.factories import UserFactory, grant
from tests.accounts.keys import mint

REFUSED = "The API key is not valid."


@pytest.fixture
def alice() -> User:
    return UserFactory(name="Alice", email="alice@example.com")


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[timedelta]:
    """How far the clock is put forward; a test may change it."""
    moved = [timedelta()]
    now = clock.now
    monkeypatch.setattr(clock, "now", lambda: now() + moved[0])
    return moved


def refusal(encoded: str) -> str:
    with pytest.raises(NotAuthenticated) as refused:
        api_keys.read_key(encoded)
    assert refused.value.code == "not_authenticated"
    return refused.value.detail


def test_a_key_says_whose_it_is_and_what_it_may_do(alice: User) -> None:
    minted = mint(alice, "wallets:read", "transactions:write")
    caller = api_keys.read_key(minted.encoded)
    assert (caller.id, caller.record, str(caller)) == (str(alice.pk), alice, str(alice.pk))
    assert caller.scopes == {"wallets:read", "transactions:write"}
    assert caller.is_authenticated
    assert not caller.may("ledger.view_audit")


def test_the_secret_is_random_and_only_its_hash_is_stored(alice: User) -> None:
    minted = [mint(alice).encoded for _ in range(3)]
    secrets = {encoded.split("_", 2)[2] for encoded in minted}
    assert len(secrets) == 3
    for encoded in minted:
        assert re.fullmatch(r"pk_[0-9a-f]{32}_[A-Za-z0-9_-]{43}", encoded)
    stored = repr([list(collection.find()) for collection in every_collection()])
    assert not any(secret in stored for secret in secrets)
    for encoded in minted:
        assert hashlib.sha256(encoded.encode()).hexdigest() in stored


def every_collection() -> Iterator[Any]:
    database = mongoengine.get_db()
    return (database[name] for name in database.list_collection_names())


def test_nothing_that_is_printed_holds_the_secret(alice: User, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    minted = mint(alice)
    secret = minted.encoded.split("_", 2)[2]
    caller = api_keys.read_key(minted.encoded)
    said = [
        repr(minted),
        str(minted),
        repr(minted.key),
        str(minted.key),
        repr(vars(minted.key)),
        repr(caller),
    ]
    said += [refusal(wrong) for wrong in (minted.encoded + "x", minted.encoded[:-1], f"{minted.encoded} ")]
    api_keys.revoke_key(user_id=str(alice.pk), key_id=minted.key.id)
    said.append(refusal(minted.encoded))
    assert not any(secret[:20] in text for text in [*said, caplog.text])


def hostile(encoded: str, other: str) -> dict[str, str]:
    """Values that look like a key, made from one that is good and one of somebody else's."""
    _, key_id, secret = encoded.split("_", 2)
    _, other_id, other_secret = other.split("_", 2)
    return {
        "no secret": f"pk_{key_id}_", "no id": f"pk__{secret}", "only the prefix": f"pk_{key_id}",
        "nothing": "pk_", "a wrong secret": f"pk_{key_id}_{'A' * 43}",
        "one letter changed": f"pk_{key_id}_{'B' if secret[0] != 'B' else 'C'}{secret[1:]}",
        "another's secret": f"pk_{key_id}_{other_secret}", "another's id": f"pk_{other_id}_{secret}",
        "an id of nobody": f"pk_{'0' * 32}_{secret}", "truncated": encoded[:-1], "longer": encoded + "A",
        "capitals in the id": f"pk_{key_id.upper()}_{secret}", "PK_": "PK_" + encoded[3:],
        "spaces": f"pk_{key_id}_ {secret[1:]}", "a newline": encoded + "\n", "a NUL": f"{encoded[:-1]}\0",
        "fullwidth": f"pk_{key_id}_{secret[:-1]}\uff21", "umlaut": f"pk_{key_id}_\u00e4{secret[1:]}",
        "surrogate": f"pk_{key_id}_\ud800{secret[1:]}", "a pattern": f"pk_.*_{secret}",
        "an operator": 'pk_{"$ne": null}_' + secret, "huge": "pk_" + "a" * 1_000_000,
        "the stored hash": f"pk_{key_id}_{hashlib.sha256(encoded.encode()).hexdigest()[:43]}",
    }  # fmt: skip


HOSTILE = tuple(hostile(f"pk_{'1' * 32}_{'a' * 43}", f"pk_{'2' * 32}_{'b' * 43}"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_key_that_is_not_right_in_every_character_is_refused(alice: User, name: str) -> None:
    encoded, other = mint(alice).encoded, mint(UserFactory()).encoded
    value = hostile(encoded, other)[name]
    assert value != encoded
    assert refusal(value) == REFUSED
    assert api_keys.read_key(encoded).id == str(alice.pk)


def test_a_revoked_key_is_refused_at_once_and_revoking_may_be_repeated(alice: User) -> None:
    minted, other = mint(alice), mint(alice)
    for _ in range(2):
        api_keys.revoke_key(user_id=str(alice.pk), key_id=minted.key.id)
    assert refusal(minted.encoded) == "The API key has been revoked."
    assert api_keys.read_key(other.encoded)
    stored = selectors.find_api_key(user_id=str(alice.pk), key_id=minted.key.id)
    assert stored is not None
    first = stored.revoked_at
    api_keys.revoke_key(user_id=str(alice.pk), key_id=minted.key.id)
    stored.refresh_from_db()
    assert stored.revoked_at == first is not None


def test_nobody_revokes_or_sees_anothers_key(alice: User) -> None:
    minted, bob = mint(alice), str(UserFactory().pk)
    for key_id in (minted.key.id, "key_" + "0" * 32, "", "x"):
        with pytest.raises(ApiKeyNotFound):
            api_keys.revoke_key(user_id=bob, key_id=key_id)
        assert selectors.find_api_key(user_id=bob, key_id=key_id) is None
    assert selectors.list_api_keys(user_id=bob, limit=10) == []
    assert api_keys.read_key(minted.encoded)


def test_an_expired_key_is_refused(alice: User, ahead: list[timedelta]) -> None:
    minted = mint(alice, days=1)
    ahead[0] = timedelta(hours=23)
    assert api_keys.read_key(minted.encoded)
    ahead[0] = timedelta(days=1)
    assert refusal(minted.encoded) == "The API key has expired."


def test_a_deactivated_owners_keys_stop_and_a_new_password_changes_nothing(alice: User) -> None:
    minted = mint(alice)
    User.objects.filter(pk=alice.pk).update(password="another")
    assert api_keys.read_key(minted.encoded)
    services.deactivate_user(user_id=str(alice.pk))
    assert refusal(minted.encoded) == "This account cannot be used."
    services.reactivate_user(user_id=str(alice.pk))
    assert api_keys.read_key(minted.encoded)


def test_a_key_whose_owner_is_gone_is_refused(alice: User) -> None:
    minted = mint(alice)
    mongoengine.get_db()["users"].delete_many({})
    assert refusal(minted.encoded) == "This account cannot be used."


# --- Deposits ---------------------------------------------------------------------------------------------


def test_where_deposits_are_closed_the_permission_grants_them(alice: User, settings: LazySettings) -> None:
    settings.DEPOSITS_OPEN = False
    boss = grant(UserFactory(), "wallets.deposit")
    with pytest.raises(DepositsNotGranted) as refused:
        mint(alice, "deposits:write")
    assert refused.value.errors[0].field == "scopes"
    granted = mint(alice, "deposits:write", created_by=boss)
    assert api_keys.read_key(granted.encoded).may_deposit
    own = mint(boss, "deposits:write")
    assert api_keys.read_key(own.encoded).may_deposit
    boss.user_permissions.clear()
    assert not api_keys.read_key(own.encoded).may_deposit
    # Whoever let the key deposit may not do so any more.
    assert not api_keys.read_key(granted.encoded).may_deposit


def test_a_key_makes_no_deposits_once_its_maker_is_deactivated(alice: User, settings: LazySettings) -> None:
    settings.DEPOSITS_OPEN = False
    boss = grant(UserFactory(), "wallets.deposit")
    granted = mint(alice, "deposits:write", created_by=boss)
    assert api_keys.read_key(granted.encoded).may_deposit
    User.objects.filter(pk=boss.pk).update(is_active=False)
    assert not api_keys.read_key(granted.encoded).may_deposit


def test_staff_without_the_permission_grant_no_deposits_to_others_even_where_they_are_open(
    alice: User, settings: LazySettings
) -> None:
    settings.DEPOSITS_OPEN = True
    with pytest.raises(DepositsNotGranted):
        mint(alice, "deposits:write", created_by=UserFactory(is_staff=True))


def test_a_key_made_while_deposits_were_open_stops_when_they_close(
    alice: User, settings: LazySettings
) -> None:
    settings.DEPOSITS_OPEN = True
    minted = mint(alice, "deposits:write")
    assert api_keys.read_key(minted.encoded).may_deposit
    settings.DEPOSITS_OPEN = False
    assert not api_keys.read_key(minted.encoded).may_deposit


# --- How many ---------------------------------------------------------------------------------------------


def living(user: User) -> int:
    return ApiKey.objects.filter(owner_id=user.pk, revoked_at=None).count()


def test_past_the_limit_no_key_is_made_until_one_is_revoked_or_expires(
    alice: User, settings: LazySettings, ahead: list[timedelta]
) -> None:
    settings.API_KEYS_PER_USER_MAX = 3
    first, *_ = [mint(alice, days=days) for days in (5, 5, 1)]
    mint(UserFactory())
    with pytest.raises(TooManyApiKeys):
        mint(alice)
    api_keys.revoke_key(user_id=str(alice.pk), key_id=first.key.id)
    mint(alice, days=5)
    with pytest.raises(TooManyApiKeys):
        mint(alice)
    ahead[0] = timedelta(days=1)
    mint(alice, days=5)
    with pytest.raises(TooManyApiKeys):
        mint(alice)
    settings.API_KEYS_PER_USER_MAX = 2
    with pytest.raises(TooManyApiKeys):
        mint(alice)


def test_of_many_at_once_exactly_as_many_are_made_as_there_is_room_for(
    alice: User, settings: LazySettings
) -> None:
    settings.API_KEYS_PER_USER_MAX = 5
    mint(alice)

    def one_more(_: int) -> bool:
        try:
            mint(alice)
        except TooManyApiKeys:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one_more, range(16))) == 4
    assert living(alice) == 5


# --- What a request costs ---------------------------------------------------------------------------------


class Commands(monitoring.CommandListener):
    """The names of the commands that were sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.sent.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def commands(settings: LazySettings) -> Iterator[Commands]:
    listener = Commands()
    settings.MONGODB_OPTIONS = {**settings.MONGODB_OPTIONS, "event_listeners": [listener]}
    mongodb.reconnect()
    yield listener
    settings.MONGODB_OPTIONS = {k: v for k, v in settings.MONGODB_OPTIONS.items() if k != "event_listeners"}
    mongodb.reconnect()


def test_a_key_costs_one_query_and_a_write_a_minute(
    alice: User, commands: Commands, ahead: list[timedelta]
) -> None:
    minted = mint(alice)
    commands.sent.clear()
    for _ in range(3):
        api_keys.read_key(minted.encoded)
    assert commands.sent == ["aggregate", "update", "aggregate", "aggregate"]
    first = ApiKey.objects.get().last_used_at
    ahead[0] = timedelta(seconds=61)
    commands.sent.clear()
    api_keys.read_key(minted.encoded)
    api_keys.read_key(minted.encoded)
    assert commands.sent == ["aggregate", "update", "aggregate"]
    assert ApiKey.objects.get().last_used_at > first


def test_the_query_reads_one_key(alice: User) -> None:
    minted = mint(alice)
    database = mongoengine.get_db()
    pipeline = [{"$match": {"_id": minted.key.id}}]
    plan = database.command("explain", {"aggregate": "api_keys", "pipeline": pipeline, "cursor": {}})
    assert "COLLSCAN" not in str(plan)


def test_a_use_that_cannot_be_noted_stops_nobody(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    minted = mint(alice)
    keys = selectors.api_keys

    class Failing:
        def update_one(self, *_: object) -> None:
            raise AutoReconnect("gone")

    monkeypatch.setattr(selectors, "api_keys", lambda lasting=True: keys() if lasting else Failing())
    assert api_keys.read_key(minted.encoded).id == str(alice.pk)
    assert ApiKey.objects.get().last_used_at is None
