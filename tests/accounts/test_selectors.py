from __future__ import annotations

import pytest
from django.db import DatabaseError, connection
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from accounts import selectors
from payflow.errors import Transient
from tests.accounts.factories import UserFactory


def test_finds_a_user_by_id_and_by_email_in_any_case() -> None:
    user = UserFactory()
    assert selectors.find_user(user_id=str(user.pk)) == user
    assert selectors.find_user_by_email(email=f"  {user.email.upper()} ") == user


def test_finds_inactive_users_too() -> None:
    user = UserFactory(is_active=False)
    assert selectors.find_user(user_id=str(user.pk)) == user


@pytest.mark.parametrize(
    "user_id", ["", "x", "6b03c1ec6df2d2819d6fc80", "6b03c1ec6df2d2819d6fc80g", "\0" * 24, "٦" * 24, "x" * 12,
                "6b03c1ec6df2d2819d6fc80b\n"],
)  # fmt: skip
def test_an_id_that_cannot_exist_finds_nobody(user_id: str) -> None:
    assert selectors.find_user(user_id=user_id) is None


def test_an_id_has_one_spelling() -> None:
    user = UserFactory(id="6b03c1ec6df2d2819d6fc80b")
    assert selectors.find_user(user_id=str(user.pk).upper()) is None


@pytest.mark.parametrize(
    "email", ["", ".*", "^alice", "nobody@example.com", "a\0b@example.com", "\N{GRINNING FACE}"]
)
def test_an_email_is_compared_not_matched_as_a_pattern(email: str) -> None:
    UserFactory(email="alice@example.com")
    assert selectors.find_user_by_email(email=email) is None


def test_both_lookups_are_served_by_an_index() -> None:
    user = UserFactory()
    collection = connection.database["users"]
    for query in ({"_id": user.pk}, {"email": user.email}):
        plan = str(collection.find(query).explain()["queryPlanner"]["winningPlan"])
        assert "IXSCAN" in plan
        assert "COLLSCAN" not in plan


@pytest.mark.parametrize(
    ("cause", "expected"), [(AutoReconnect("gone"), Transient), (OperationFailure("bad"), DatabaseError)]
)
def test_only_an_unreachable_database_is_transient(cause: PyMongoError, expected: type[Exception]) -> None:
    with pytest.raises(expected), selectors.unavailable_is_transient():
        raise DatabaseError from cause


def test_many_active_users_are_found_at_once_by_id_and_by_email_as_it_was_given() -> None:
    first, second, inactive = UserFactory(), UserFactory(), UserFactory(is_active=False)
    ids = {name: str(user.pk) for name, user in (("first", first), ("second", second), ("gone", inactive))}
    asked = [*ids.values(), "x", "f" * 24, ids["first"].upper()]
    assert selectors.find_active_ids(user_ids=asked) == {ids["first"], ids["second"]}
    spellings = [first.email, f" {first.email.upper()} ", second.email, inactive.email, ".*", ""]
    assert selectors.find_active_ids_by_email(emails=spellings) == {
        first.email: ids["first"], f" {first.email.upper()} ": ids["first"], second.email: ids["second"],
    }  # fmt: skip
