from __future__ import annotations

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission
from django.core.exceptions import ValidationError
from django.test import Client

from accounts import services, sessions
from accounts.admin import OwnPasswordForm
from accounts.models import User
from payflow import redisdb
from payflow.errors import NotAuthenticated, NotFound
from tests.accounts.factories import PASSWORD, UserFactory, grant
from wallets.documents import Status, Wallet

LIST = "/admin/accounts/user/"


@pytest.fixture
def staff() -> Client:
    """A superuser's browser."""
    return browser(UserFactory(email="staff@example.com", is_staff=True, is_superuser=True))


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def helper(*permissions: str) -> User:
    """A member of staff who is no superuser."""
    user = UserFactory(email="helper@example.com", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


def page_of(user: User) -> str:
    return f"{LIST}{user.pk}/change/"


def act(client: Client, action: str, *users: User) -> str:
    data = {"action": action, "_selected_action": [str(user.pk) for user in users]}
    return client.post(LIST, data, follow=True).content.decode()


def statuses() -> set[str]:
    return {wallet.status for wallet in Wallet.objects}


def test_staff_sign_in_with_email_and_password() -> None:
    UserFactory(email="staff@example.com", is_staff=True, is_superuser=True)
    client = Client()
    login = {"username": "Staff@Example.com", "password": PASSWORD, "next": "/admin/"}
    response = client.post("/admin/login/", login, follow=True)
    assert response.redirect_chain == [("/admin/", 302)]
    assert "Log out" in response.content.decode()


@pytest.mark.parametrize("stored", [{"is_staff": False}, {"is_staff": True, "is_active": False}])
def test_nobody_else_signs_in(stored: dict[str, bool]) -> None:
    UserFactory(email="alice@example.com", **stored)
    response = Client().post("/admin/login/", {"username": "alice@example.com", "password": PASSWORD})
    assert "Please enter the correct" in response.content.decode()


def test_a_deactivated_member_of_staff_is_out_at_once(staff: Client) -> None:
    services.deactivate_user(user_id=str(User.objects.get(email="staff@example.com").pk))
    assert staff.get(LIST).status_code == 302


def test_lists_users_newest_first_and_finds_them(staff: Client) -> None:
    UserFactory(email="alice@example.com", name="Alice (the first)")
    UserFactory(email="bob@example.com", name="Bob", is_active=False)
    text = staff.get(LIST).content.decode()
    assert text.index("bob@example.com") < text.index("alice@example.com")
    for query, found in (
        ("?q=alice@example.com", 1),
        ("?q=(the", 1),
        ("?q=.*", 0),
        ("?is_active__exact=0", 1),
        ("?q=%00", 3),
    ):
        assert len(staff.get(LIST + query).context["cl"].result_list) == found, query


def test_deactivating_freezes_the_wallets_and_reactivating_unfreezes_them(staff: Client) -> None:
    signed_in = services.register_user(name="Alice", email="alice@example.com", password=PASSWORD)
    assert "1 of 1 users deactivated." in act(staff, "deactivate", signed_in.user)
    assert not User.objects.get(pk=signed_in.user.pk).is_active
    assert statuses() == {Status.FROZEN}
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=signed_in.tokens.refresh)
    assert "1 of 1 users reactivated." in act(staff, "reactivate", signed_in.user)
    assert User.objects.get(pk=signed_in.user.pk).is_active
    assert statuses() == {Status.ACTIVE}
    assert LogEntry.objects.count() == 2


def test_one_user_who_is_refused_does_not_stop_the_others(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = UserFactory(email="alice@example.com"), UserFactory(email="bob@example.com")
    deactivate = services.deactivate_user

    def refuse_bob(*, user_id: str) -> None:
        if user_id == str(bob.pk):
            raise NotFound("There is no such user.")
        deactivate(user_id=user_id)

    monkeypatch.setattr(services, "deactivate_user", refuse_bob)
    text = act(staff, "deactivate", alice, bob)
    assert "There is no such user. (bob@example.com)" in text
    assert "1 of 2 users deactivated." in text
    assert LogEntry.objects.count() == 1
    text = act(staff, "deactivate", bob)
    assert '<li class="warning">0 of 1 users deactivated.' in text
    assert '<li class="success">' not in text


def test_nobody_deactivates_themselves(staff: Client) -> None:
    me = User.objects.get(email="staff@example.com")
    assert "0 of 0 users deactivated." in act(staff, "deactivate", me)
    assert User.objects.get(pk=me.pk).is_active


def test_the_form_saves_what_it_shows_and_cannot_deactivate(staff: Client) -> None:
    alice = UserFactory(email="alice@example.com")
    assert staff.get(page_of(alice)).status_code == 200
    changed = {
        "email": "ALICE@Example.org", "name": "Alicia", "phone": "", "is_active": "", "locale": "de_DE",
    }  # fmt: skip
    assert staff.post(page_of(alice), changed).status_code == 302
    alice.refresh_from_db()
    assert (alice.email, alice.name, alice.is_active) == ("alice@example.org", "Alicia", True)
    assert (alice.locale, alice.email_notifications) == ("de_DE", False)
    response = staff.post(page_of(alice), {**changed, "locale": "../etc"})
    assert "Enter a locale such as" in response.content.decode()


def test_saving_the_form_does_not_undo_a_deactivation_made_meanwhile(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = UserFactory(email="alice@example.com")
    clean = User.clean

    def deactivate_meanwhile(self: User) -> None:
        services.deactivate_user(user_id=str(alice.pk))
        clean(self)

    monkeypatch.setattr(User, "clean", deactivate_meanwhile)
    assert (
        staff.post(page_of(alice), {"email": alice.email, "name": "Alicia", "locale": "en_US"}).status_code
        == 302
    )
    alice.refresh_from_db()
    assert (alice.name, alice.is_active) == ("Alicia", False)


def test_an_email_that_is_taken_is_refused_in_the_form(staff: Client) -> None:
    UserFactory(email="bob@example.com")
    alice = UserFactory(email="alice@example.com")
    response = staff.post(page_of(alice), {"email": "BOB@example.com", "name": "Alice"})
    assert "already exists" in response.content.decode()
    alice.refresh_from_db()
    assert alice.email == "alice@example.com"


def test_staff_add_users_who_can_sign_in(staff: Client) -> None:
    new = {
        "email": "Carol@Example.com",
        "name": "Carol",
        "usable_password": "true",
        "password1": "a better password",
        "password2": "a better password",
    }
    assert staff.get(f"{LIST}add/").status_code == 200
    assert staff.post(f"{LIST}add/", new).status_code == 302
    assert services.sign_in(email="carol@example.com", password="a better password")


def set_password(client: Client, user: User) -> int:
    new = {"password1": "a better password", "password2": "a better password", "usable_password": "true"}
    return client.post(f"{LIST}{user.pk}/password/", new).status_code


def test_a_password_set_by_staff_ends_the_sessions(staff: Client) -> None:
    signed_in = services.register_user(name="Alice", email="alice@example.com", password=PASSWORD)
    assert set_password(staff, signed_in.user) == 302
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=signed_in.tokens.refresh)
    assert services.sign_in(email="alice@example.com", password="a better password")


def sign_in_between(monkeypatch: pytest.MonkeyPatch, email: str) -> None:
    """Have somebody sign in with the old password right after sessions were ended."""
    close = sessions.close_all_families

    def overtaken(*, user_id: str) -> None:
        monkeypatch.setattr(sessions, "close_all_families", close)
        close(user_id=user_id)
        services.sign_in(email=email, password=PASSWORD)

    monkeypatch.setattr(sessions, "close_all_families", overtaken)


def test_a_password_set_by_staff_ends_a_session_opened_meanwhile(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = services.register_user(name="Alice", email="alice@example.com", password=PASSWORD).user
    sign_in_between(monkeypatch, alice.email)
    assert set_password(staff, alice) == 302
    assert sessions.list_families(user_id=str(alice.pk)) == []


def test_a_helper_ends_no_session_of_a_superuser() -> None:
    root = UserFactory(email="root@example.com", is_staff=True, is_superuser=True)
    services.sign_in(email=root.email, password=PASSWORD)
    assert set_password(browser(helper("change_user", "view_user")), root) == 403
    assert len(sessions.list_families(user_id=str(root.pk))) == 1


@pytest.mark.parametrize("is_staff", [True, False])
def test_tokens_that_say_what_somebody_was_end_with_it(staff: Client, is_staff: bool) -> None:
    alice = services.register_user(name="Alice", email="alice@example.com", password=PASSWORD).user
    User.objects.filter(pk=alice.pk).update(is_staff=not is_staff)
    form = {"email": alice.email, "name": "Alice", "phone": "", "locale": "en_US"}
    staff.post(page_of(alice), {**form, "name": "Al", **({} if is_staff else {"is_staff": "on"})})
    assert len(sessions.list_families(user_id=str(alice.pk))) == 1, "another name changes no rights"
    staff.post(page_of(alice), {**form, **({"is_staff": "on"} if is_staff else {})})
    assert User.objects.get(pk=alice.pk).is_staff is is_staff
    assert sessions.list_families(user_id=str(alice.pk)) == []


def test_a_password_stays_when_sessions_cannot_be_ended(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = UserFactory()

    def gone(**_: object) -> None:
        raise services.Transient

    monkeypatch.setattr(services.sessions, "close_all_families", gone)
    assert set_password(staff, alice) == 302
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


def test_nobody_deletes_users(staff: Client) -> None:
    alice = UserFactory()
    assert staff.post(f"{LIST}{alice.pk}/delete/", {"post": "yes"}).status_code == 403
    assert "delete_selected" not in staff.get(LIST).content.decode()


def test_a_helper_hands_out_no_privileges() -> None:
    user = helper("change_user", "view_user")
    client = browser(user)
    alice = UserFactory(email="alice@example.com")
    changed = {
        "email": "owned@example.com",
        "name": "Al",
        "locale": "en_US",
        "is_superuser": "on",
        "is_staff": "on",
    }
    assert client.post(page_of(alice), changed).status_code == 302
    alice.refresh_from_db()
    assert (alice.name, alice.email) == ("Al", "alice@example.com")
    assert (alice.is_superuser, alice.is_staff) == (False, False)


def test_a_helper_changes_neither_another_member_of_staff_nor_their_own_account() -> None:
    user = helper("change_user", "view_user", "set_password")
    client, other = browser(user), UserFactory(email="other@example.com", is_staff=True)
    for target in (user, other):
        form = {"email": target.email, "name": "Owned", "locale": "en_US"}
        assert client.post(page_of(target), form).status_code == 403
        assert set_password(client, target) == 403
        act(client, "deactivate", target)
        target.refresh_from_db()
        assert (target.is_active, target.name, target.check_password(PASSWORD)) == (
            True,
            "Alice Example",
            True,
        )


@pytest.mark.parametrize("by_group", [True, False])
def test_a_helper_takes_over_no_account_that_holds_a_permission(by_group: bool) -> None:
    client = browser(helper("change_user", "view_user", "set_password"))
    service = UserFactory(email="service@example.com")
    if by_group:
        service.groups.add(Group.objects.create(name="Depositors"))
    else:
        grant(service, "wallets.deposit")
    assert client.post(page_of(service), {"email": "x@example.com", "name": "Owned"}).status_code == 403
    assert set_password(client, service) == 403


def test_ones_own_new_password_ends_the_sessions_of_the_api() -> None:
    user = UserFactory(email="staff@example.com", is_staff=True)
    refresh = services.sign_in(email=user.email, password=PASSWORD).tokens.refresh
    form = {
        "old_password": PASSWORD,
        "new_password1": "a better password",
        "new_password2": "a better password",
    }
    client = browser(user)
    response = client.post("/admin/password_change/", {**form, "old_password": "wrong"})
    assert response.status_code == 200
    refresh = services.refresh_session(refresh=refresh).refresh
    assert client.post("/admin/password_change/", form, follow=True).redirect_chain
    with pytest.raises(NotAuthenticated):
        services.refresh_session(refresh=refresh)
    assert User.objects.get(pk=user.pk).check_password("a better password")


def test_without_redis_ones_own_password_stays(request: pytest.FixtureRequest) -> None:
    user = UserFactory(email="staff@example.com", is_staff=True)
    new = {"new_password1": "a better password", "new_password2": "a better password"}
    form = OwnPasswordForm(user, {"old_password": PASSWORD, **new})
    request.getfixturevalue("redis_down")
    assert not form.is_valid()
    assert User.objects.get(pk=user.pk).check_password(PASSWORD)


def test_a_helper_sets_a_customers_password_only_with_that_permission() -> None:
    user = helper("change_user", "view_user")
    client, alice = browser(user), UserFactory(email="alice@example.com")
    assert client.get(f"{LIST}{alice.pk}/password/").status_code == 403
    assert set_password(client, alice) == 403
    grant(user, "accounts.set_password")
    client = browser(User.objects.get(pk=user.pk))
    assert set_password(client, alice) == 302
    alice.refresh_from_db()
    assert not alice.check_password(PASSWORD)


def test_a_helper_raises_nobody_by_a_group() -> None:
    user = helper("add_group", "change_group", "delete_group", "view_group")
    group = Group.objects.create(name="Support")
    user.groups.add(group)
    client = browser(user)
    every = [str(pk) for pk in Permission.objects.values_list("pk", flat=True)]
    page = f"/admin/auth/group/{group.pk}/change/"
    assert client.get(page).status_code == 200
    for path in (page, "/admin/auth/group/add/"):
        assert client.post(path, {"name": "Support", "permissions": every}).status_code == 403
    assert client.post(f"/admin/auth/group/{group.pk}/delete/", {"post": "yes"}).status_code == 403
    assert group.permissions.count() == 0


def test_a_helper_changes_no_superuser() -> None:
    client, boss = browser(helper("change_user", "view_user")), UserFactory(is_staff=True, is_superuser=True)
    assert client.post(page_of(boss), {"email": boss.email, "name": "Owned"}).status_code == 403
    assert set_password(client, boss) == 403
    act(client, "deactivate", boss)
    boss.refresh_from_db()
    assert (boss.is_active, boss.name != "Owned", boss.check_password(PASSWORD)) == (True, True, True)


def test_a_helper_who_may_only_look_changes_nothing() -> None:
    alice = services.register_user(name="Alice", email="alice@example.com", password=PASSWORD).user
    client = browser(helper("view_user"))
    assert client.get(page_of(alice)).status_code == 200
    assert client.post(page_of(alice), {"email": alice.email, "name": "Owned"}).status_code == 403
    assert set_password(client, alice) == 403
    act(client, "deactivate", alice)
    assert User.objects.get(pk=alice.pk).is_active
    assert redisdb.client().exists(f"payflow:sessions:{alice.pk}")


@pytest.mark.parametrize("key", ["x", "6b03c1ec6df2d2819d6fc80b", "_3A", "%00"])
def test_a_user_who_is_not_there_is_no_crash(staff: Client, key: str) -> None:
    response = staff.get(f"{LIST}{key}/change/", follow=True)
    assert re.search("exist|not found", response.content.decode(), re.IGNORECASE)


@pytest.mark.parametrize(
    "email", ["\uff53taff@example.com", "staff\uff20example.com", "\u017ftaff@example.com"]
)
def test_letters_that_look_like_an_email_sign_nobody_in(email: str) -> None:
    UserFactory(email="staff@example.com", is_staff=True)
    form = {"username": email, "password": PASSWORD}
    assert Client().post("/admin/login/", form).status_code == 200
    assert Client().post("/admin/login/", {**form, "username": " Staff@Example.com"}).status_code == 302


@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "staff@localhost"), ("email", "=?utf-8?q?bob?=@example.com"), ("name", "\u3164")],
)
def test_a_form_reads_emails_and_names_as_the_api_does(field: str, value: str) -> None:
    user = UserFactory.build(**{field: value})
    with pytest.raises(ValidationError) as refused:
        user.full_clean()
    assert set(refused.value.error_dict) == {field}
    user.clean_fields(exclude={field})
    with pytest.raises(ValidationError):
        User.objects.create_user(**{"email": "a@example.com", "name": "Anna", field: value})
