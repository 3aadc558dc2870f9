"""Reading users. An id or email that cannot exist finds nobody; it is never an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import mongoengine
from bson import ObjectId
from django.db import DEFAULT_DB_ALIAS, DatabaseError

from accounts.models import User, UserManager
from payflow import mongodb
from payflow.errors import NotAuthenticated, Transient

# Only the spelling that PayFlow gives out: two spellings of one id would be two users to whoever compares.
_USER_ID = re.compile(r"[0-9a-f]{24}", re.ASCII)


@contextmanager
def unavailable_is_transient() -> Iterator[None]:
    """Turn "MongoDB did not answer" into Transient where it comes through Django's ORM."""
    try:
        yield
    except DatabaseError as error:
        if isinstance(error.__cause__, mongodb.UNAVAILABLE):
            raise Transient("The database is not answering. Try again shortly.") from error
        raise


def find_user(*, user_id: str) -> User | None:
    """Return the user with this id, active or not. One indexed query. Raises Transient."""
    return _find({"_id": ObjectId(user_id)}) if _USER_ID.fullmatch(user_id) else None


def require_active(*, user_id: str) -> User:
    """Return the user. Raises NotAuthenticated unless there is one who is active; Transient."""
    user = find_user(user_id=user_id)
    if user is None or not user.is_active:
        raise NotAuthenticated("This account cannot be used.")
    return user


def find_user_by_email(*, email: str) -> User | None:
    """Return the user with this email in any case, active or not. One indexed query. Raises Transient."""
    return _find({"email": UserManager.normalize_email(email)})


def find_active_ids(*, user_ids: Iterable[str]) -> set[str]:
    """Return those of the ids that belong to active users. One indexed query. Raises Transient."""
    possible = [ObjectId(user_id) for user_id in user_ids if _USER_ID.fullmatch(user_id)]
    return {str(row["_id"]) for row in _find_rows({"_id": {"$in": possible}})}


def find_active_ids_by_email(*, emails: Iterable[str]) -> dict[str, str]:
    """Return the ids of active users by email, as it was given. One indexed query. Raises Transient."""
    given = {email: UserManager.normalize_email(email) for email in emails}
    ids = {row["email"]: str(row["_id"]) for row in _find_rows({"email": {"$in": [*set(given.values())]}})}
    return {email: ids[normal] for email, normal in given.items() if normal in ids}


def _find_rows(query: dict[str, Any]) -> list[dict[str, Any]]:
    with mongodb.unavailable_is_transient():
        users = mongoengine.get_db()[User._meta.db_table]
        return [row for row in users.find(query, ("email", "is_active")) if row.get("is_active")]


def _find(equal: dict[str, Any]) -> User | None:
    # Past the ORM, which makes an aggregation of it: every request that writes comes through here.
    with mongodb.unavailable_is_transient():
        document = mongoengine.get_db()[User._meta.db_table].find_one(equal)
    if document is None:
        return None
    fields = [field for field in User._meta.concrete_fields if field.column in document]
    return User.from_db(DEFAULT_DB_ALIAS, [f.attname for f in fields], [document[f.column] for f in fields])
