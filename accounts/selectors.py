"""Reading users. An id or email that cannot exist finds nobody; it is never an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError

from accounts.models import User, UserManager
from payflow import mongodb
from payflow.errors import Transient

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
    if not _USER_ID.fullmatch(user_id):
        return None
    return _get(pk=user_id)


def find_user_by_email(*, email: str) -> User | None:
    """Return the user with this email in any case, active or not. One indexed query. Raises Transient."""
    return _get(email=UserManager.normalize_email(email))


def _get(**equal: str) -> User | None:
    # Not `first()`: it sorts, which the database could not leave out.
    try:
        with unavailable_is_transient():
            return User.objects.get(**equal)
    except User.DoesNotExist:
        return None
