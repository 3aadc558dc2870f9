from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounts import services, sessions
from accounts.models import User
from tests.accounts.factories import PASSWORD, UserFactory
from tests.accounts.test_admin import sign_in_between
from wallets.documents import Status, Wallet


def run(name: str, *arguments: str) -> str:
    output = StringIO()
    call_command(name, *arguments, stdout=output, stderr=output)
    return output.getvalue()


def test_ensure_staff_creates_a_superuser_and_says_nothing() -> None:
    assert run("ensure_staff", "--email", "Staff@example.com", "--password", PASSWORD) == ""
    user = User.objects.get()
    assert user.email == "staff@example.com"
    assert user.is_staff
    assert user.is_superuser
    assert user.check_password(PASSWORD)


def test_ensure_staff_takes_the_password_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYFLOW_STAFF_PASSWORD", PASSWORD)
    run("ensure_staff", "--email", "staff@example.com")
    assert User.objects.get().check_password(PASSWORD)


def test_ensure_staff_updates_a_user_and_keeps_the_rest() -> None:
    user = UserFactory(email="alice@example.com", name="Alice")
    before = user.password
    run("ensure_staff", "--email", "ALICE@example.com", "--password", PASSWORD)
    user.refresh_from_db()
    assert (user.is_staff, user.is_superuser, user.name, user.password) == (True, True, "Alice", before)
    run("ensure_staff", "--email", "alice@example.com", "--password", "a better password")
    user.refresh_from_db()
    assert user.check_password("a better password")


def test_a_new_password_for_staff_ends_their_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    alice = UserFactory(email="alice@example.com")
    services.sign_in(email=alice.email, password=PASSWORD)
    run("ensure_staff", "--email", alice.email, "--password", PASSWORD)
    assert len(sessions.list_families(user_id=str(alice.pk))) == 1, "an equal password changes nothing"
    sign_in_between(monkeypatch, alice.email)
    run("ensure_staff", "--email", alice.email, "--password", "a better password")
    assert sessions.list_families(user_id=str(alice.pk)) == []


def test_ensure_staff_does_not_reactivate() -> None:
    UserFactory(email="alice@example.com", is_active=False)
    run("ensure_staff", "--email", "alice@example.com", "--password", PASSWORD)
    assert not User.objects.get().is_active


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--email", "staff@example.com"], "PAYFLOW_STAFF_PASSWORD"),
        (["--email", "staff@example.com", "--password", "short"], "too short"),
        (["--email", "staff", "--password", PASSWORD], "valid email"),
    ],
)
def test_ensure_staff_refuses_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.delenv("PAYFLOW_STAFF_PASSWORD", raising=False)
    with pytest.raises(CommandError, match=reason):
        run("ensure_staff", *arguments)
    assert User.objects.count() == 0


def test_deactivates_and_reactivates_by_email() -> None:
    user = UserFactory(email="alice@example.com")
    for name, active, status in (
        ("deactivate_user", False, Status.FROZEN),
        ("reactivate_user", True, Status.ACTIVE),
    ):
        run(name, "Alice@Example.com")
        user.refresh_from_db()
        assert user.is_active is active
        assert [wallet.status for wallet in Wallet.objects] == [status]


@pytest.mark.parametrize("name", ["deactivate_user", "reactivate_user"])
def test_an_unknown_email_is_refused(name: str) -> None:
    UserFactory(email="alice@example.com")
    with pytest.raises(CommandError, match="There is no user"):
        run(name, ".*")
