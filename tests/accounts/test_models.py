from __future__ import annotations

from io import StringIO

import pytest
from django.contrib.auth import authenticate
from django.core.management import call_command
from django.db import IntegrityError, connection

from accounts.models import User
from tests.accounts.factories import PASSWORD, UserFactory


def test_an_email_is_stored_in_lower_case_whatever_made_the_user() -> None:
    made = User.objects.create_user(" Alice@Example.COM ", PASSWORD, name="Alice")
    assert made.email == "alice@example.com"
    edited = UserFactory.build(email="BOB@Example.com")
    edited.full_clean()
    assert edited.email == "bob@example.com"


def test_an_email_belongs_to_one_user() -> None:
    UserFactory(email="alice@example.com")
    with pytest.raises(IntegrityError):
        User.objects.create_user("ALICE@example.com", PASSWORD, name="Another")


def test_staff_sign_in_with_any_case_of_their_email() -> None:
    user = UserFactory(email="staff@example.com")
    assert authenticate(username="Staff@Example.com", password=PASSWORD) == user
    assert authenticate(username=".*", password=PASSWORD) is None


def test_a_user_has_a_time_ordered_id_and_a_time_in_milliseconds() -> None:
    user = UserFactory()
    user.refresh_from_db()
    assert len(str(user.pk)) == 24
    assert user.created_at.microsecond % 1000 == 0
    assert user.created_at.tzinfo is not None


def test_the_email_has_a_unique_index_and_one_that_equality_uses() -> None:
    indexes = connection.database["users"].index_information()
    on_email = [index for index in indexes.values() if index["key"] == [("email", 1)]]
    assert sorted("partialFilterExpression" in index for index in on_email) == [False, True]
    assert any(index.get("unique") for index in on_email)


def test_the_migrations_say_what_the_models_say() -> None:
    call_command("makemigrations", "--check", "--dry-run", stdout=StringIO())


def test_the_system_checks_find_nothing_in_the_database() -> None:
    call_command("check", databases=["default"], stdout=StringIO())
