from __future__ import annotations

import logging
import re
from datetime import timedelta

import mongoengine
import pytest
from django.conf import LazySettings
from django.contrib.admin.models import LogEntry
from django.test import Client

from accounts import api_keys
from accounts.models import ApiKey, User
from payflow import clock
from payflow.errors import NotAuthenticated, Transient
from tests.accounts.factories import UserFactory
from tests.accounts.keys import mint
from tests.accounts.test_admin import browser, helper

LIST = "/admin/accounts/apikey/"
ENCODED = re.compile(r"pk_[0-9a-f]{32}_[A-Za-z0-9_-]{43}")


@pytest.fixture
def staff() -> Client:
    """A superuser's browser."""
    return browser(UserFactory(email="staff@example.com", is_staff=True, is_superuser=True))


@pytest.fixture
def alice() -> User:
    return UserFactory(name="Alice", email="alice@example.com")


def wanted(owner: User, /, **changes: object) -> dict[str, object]:
    return {"email": owner.email, "name": "Till", "scopes": ["wallets:read"], "days": "30", **changes}


def act(client: Client, *keys: ApiKey) -> str:
    data = {"action": "revoke", "_selected_action": [key.pk for key in keys]}
    return client.post(LIST, data, follow=True).content.decode()


def listed(client: Client, query: str = "") -> list[str]:
    return [key.name for key in client.get(LIST + query).context["cl"].result_list]


def test_a_whole_key_is_not_searched_for_but_warned_of(staff: Client, alice: User) -> None:
    response = staff.get(LIST, {"q": mint(alice).encoded})
    assert list(response.context["cl"].result_list) == []
    assert "it stands in logs now, so revoke it" in response.content.decode()


def test_staff_make_a_key_and_see_it_on_one_page_only(
    staff: Client, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert staff.get(f"{LIST}add/").status_code == 200
    response = staff.post(f"{LIST}add/", wanted(alice, scopes=["wallets:read", "deposits:write"]))
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    (encoded,) = set(ENCODED.findall(response.content.decode()))
    caller = api_keys.read_key(encoded)
    assert (caller.id, caller.scopes) == (str(alice.pk), {"wallets:read", "deposits:write"})
    key = ApiKey.objects.get()
    assert key.created_by == User.objects.get(email="staff@example.com")
    assert abs(key.expires_at - key.created_at - timedelta(days=30)) < timedelta(minutes=1)
    secret = encoded.split("_", 2)[2]
    pages = [LIST, f"{LIST}{key.pk}/change/", f"{LIST}{key.pk}/history/", "/admin/"]
    seen = "".join(staff.get(page).content.decode() for page in pages)
    seen += caplog.text + str(response.cookies) + str(staff.cookies)
    database = mongoengine.get_db()
    seen += repr([list(database[name].find()) for name in database.list_collection_names()])
    assert "Till" in seen
    assert secret[:20] not in seen
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.object_repr) == (key.pk, f"Till ({key.prefix}\u2026)")


def test_a_key_that_staff_made_is_a_service_users(staff: Client, alice: User, settings: LazySettings) -> None:
    settings.DEPOSITS_OPEN = False
    text = staff.post(f"{LIST}add/", wanted(alice, scopes=["deposits:write"])).content.decode()
    assert api_keys.read_key(ENCODED.findall(text)[0]).may_deposit


@pytest.mark.parametrize(
    "changes",
    [
        {"email": ""}, {"email": ".*"}, {"email": "x" * 300}, {"name": ""}, {"name": "x" * 61},
        {"scopes": []}, {"scopes": ["admin"]}, {"days": "0"}, {"days": "366"}, {"days": ""}, {"days": "soon"},
    ],
    ids=str,
)  # fmt: skip
def test_a_form_that_is_not_right_makes_no_key(
    staff: Client, alice: User, changes: dict[str, object]
) -> None:
    response = staff.post(f"{LIST}add/", wanted(alice, **changes))
    assert "Please correct the error" in response.content.decode()
    assert ApiKey.objects.count() == 0


def test_past_the_limit_the_page_says_so(staff: Client, alice: User, settings: LazySettings) -> None:
    settings.API_KEYS_PER_USER_MAX = 1
    mint(alice)
    response = staff.post(f"{LIST}add/", wanted(alice), follow=True)
    assert "1 are allowed" in response.content.decode()
    assert (ApiKey.objects.count(), LogEntry.objects.count()) == (1, 0)


def test_lists_newest_first_with_what_has_become_of_them(staff: Client, alice: User) -> None:
    mint(alice, name="living")
    mint(alice, name="expired", days=-1)
    revoked = mint(UserFactory(email="bob@example.com"), name="revoked").key
    api_keys.revoke_key(user_id=str(revoked.owner_id), key_id=revoked.pk)
    assert listed(staff) == ["revoked", "expired", "living"]
    for status in ("living", "expired", "revoked"):
        assert listed(staff, f"?status={status}") == [status]
    assert listed(staff, "?status=x") == ["revoked", "expired", "living"]
    text = staff.get(LIST).content.decode()
    assert "alice@example.com" in text
    assert "bob@example.com" in text


def test_finds_keys_by_their_beginning_their_id_or_their_owner(staff: Client, alice: User) -> None:
    minted = mint(alice, name="hers")
    mint(UserFactory(email="bob@example.com"), name="his")
    for term in (
        minted.key.pk, minted.key.prefix, "ALICE@example.com", str(alice.pk), f" {alice.pk} ",
    ):  # fmt: skip
        assert listed(staff, f"?q={term}") == ["hers"], term
    for term in ("hers", ".*", "pk_", "pk_x_y", "key_", "nobody@example.com", "0" * 24):
        assert listed(staff, f"?q={term}") == [], term


def test_staff_revoke_the_chosen_keys_at_once(staff: Client, alice: User) -> None:
    chosen, other = mint(alice), mint(alice)
    assert "1 API keys revoked." in act(staff, chosen.key)
    with pytest.raises(NotAuthenticated):
        api_keys.read_key(chosen.encoded)
    assert api_keys.read_key(other.encoded)
    assert LogEntry.objects.get().get_change_message() == "Revoked."


def test_revoking_stops_where_the_database_does_not_answer(
    staff: Client, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(**_: object) -> None:
        raise Transient("Not now.")

    monkeypatch.setattr(api_keys, "revoke_key", gone)
    text = act(staff, mint(alice).key)
    assert "Not now." in text
    assert "0 API keys revoked." in text


def test_nobody_changes_or_deletes_a_key(staff: Client, alice: User) -> None:
    key = mint(alice).key
    page = staff.get(f"{LIST}{key.pk}/change/").content.decode()
    assert 'name="_save"' not in page
    assert staff.post(f"{LIST}{key.pk}/change/", wanted(alice, name="Owned")).status_code == 403
    assert staff.post(f"{LIST}{key.pk}/delete/", {"post": "yes"}).status_code == 403
    key.refresh_from_db()
    assert key.name == "Robot"


@pytest.mark.parametrize("privilege", ["is_staff", "is_superuser"])
def test_a_helper_makes_no_key_for_another_staff_account(alice: User, privilege: str) -> None:
    client, boss = browser(helper("add_apikey", "view_apikey")), UserFactory(**{privilege: True})
    text = client.post(f"{LIST}add/", wanted(boss), follow=True).content.decode()
    assert "Only a superuser makes API keys for another staff account." in text
    assert ApiKey.objects.count() == 0
    assert ENCODED.search(client.post(f"{LIST}add/", wanted(alice)).content.decode())


def test_a_helper_who_may_only_look_makes_and_revokes_nothing(alice: User) -> None:
    key, client = mint(alice), browser(helper("view_apikey"))
    assert client.get(f"{LIST}{key.key.pk}/change/").status_code == 200
    assert client.post(f"{LIST}add/", wanted(alice)).status_code == 403
    act(client, key.key)
    assert api_keys.read_key(key.encoded)
    assert ApiKey.objects.count() == 1


def test_who_is_no_staff_sees_nothing(alice: User) -> None:
    client = browser(alice)
    for page in (LIST, f"{LIST}add/", f"{LIST}{mint(alice).key.pk}/change/"):
        assert client.get(page).status_code == 302


def test_a_page_of_the_list_shows_fifty(staff: Client, alice: User) -> None:
    now = clock.now()
    rows = [
        {"_id": f"key_{n:032x}", "owner_id": alice.pk, "created_by_id": alice.pk, "name": f"n{n}", "hash": "",
         "scopes": [], "created_at": now, "expires_at": now, "last_used_at": None, "revoked_at": None,
         "slot": None}
        for n in range(120)
    ]  # fmt: skip
    mongoengine.get_db()["api_keys"].insert_many(rows)
    assert listed(staff) == [f"n{n}" for n in range(119, 69, -1)]
    assert listed(staff, "?p=3") == [f"n{n}" for n in range(19, -1, -1)]
