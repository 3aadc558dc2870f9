"""Reading users and API keys. An id or email that cannot exist finds nobody; it is never an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import mongoengine
from bson import ObjectId
from django.db import DEFAULT_DB_ALIAS, DatabaseError, models
from pymongo import DESCENDING
from pymongo.collection import Collection

from accounts.models import ApiKey, User, UserManager
from payflow import mongodb
from payflow.errors import NotAuthenticated, Transient

Stored = TypeVar("Stored", bound=models.Model)
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


def find_users(*, user_ids: Iterable[str]) -> dict[str, User]:
    """Return those users that exist by their ids, active or not. One indexed query. Raises Transient."""
    possible = [ObjectId(user_id) for user_id in user_ids if _USER_ID.fullmatch(user_id)]
    with mongodb.unavailable_is_transient():
        rows = list(mongoengine.get_db()[User._meta.db_table].find({"_id": {"$in": possible}}))
    return {str(row["_id"]): _loaded(User, row) for row in rows}


def is_granted(user: User, permission: str) -> bool:
    """Say whether an active user holds a permission (`app.codename`), by themselves or by a group.

    Superusers hold all of them. Up to two queries, once per `user` object. Raises Transient.
    """
    with unavailable_is_transient():
        return user.has_perm(permission)


def is_privileged(user: User) -> bool:
    """Say whether an account opens the admin or holds any permission. Only superusers change those.

    Up to two queries. Raises Transient.
    """
    if user.is_staff or user.is_superuser:
        return True
    with unavailable_is_transient():
        return user.user_permissions.exists() or user.groups.exists()


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


def api_keys(*, lasting: bool = True) -> Collection:
    """Return the collection of API keys. Without `lasting`, writes do not wait for the journal."""
    concern = None if lasting else mongodb.UNJOURNALED
    return mongoengine.get_db().get_collection(ApiKey._meta.db_table, write_concern=concern)


def find_api_key(*, user_id: str, key_id: str) -> ApiKey | None:
    """Return one of a user's API keys, whatever has become of it. Raises Transient."""
    with mongodb.unavailable_is_transient():
        document = api_keys().find_one({"_id": key_id, "owner_id": ObjectId(user_id)})
    return _loaded(ApiKey, document) if document else None


def list_api_keys(*, user_id: str, limit: int, before_id: str | None = None) -> list[ApiKey]:
    """Return a user's API keys, newest first, revoked and expired ones included. Raises Transient."""
    wanted: dict[str, Any] = {"owner_id": ObjectId(user_id)}
    if before_id is not None:
        wanted["_id"] = {"$lt": before_id}
    with mongodb.unavailable_is_transient():
        return [_loaded(ApiKey, row) for row in api_keys().find(wanted).sort("_id", DESCENDING).limit(limit)]


def find_api_key_and_owner(*, key_id: str) -> tuple[ApiKey, User | None] | None:
    """Return an API key and its owner, in one query. Raises Transient."""
    users = User._meta.db_table
    owner = {"from": users, "localField": "owner_id", "foreignField": "_id", "as": "owners"}
    with mongodb.unavailable_is_transient():
        found = list(api_keys().aggregate([{"$match": {"_id": key_id}}, {"$lookup": owner}]))
    if not found:
        return None
    owners = found[0]["owners"]
    return _loaded(ApiKey, found[0]), _loaded(User, owners[0]) if owners else None


def _find(equal: dict[str, Any]) -> User | None:
    # Past the ORM, which makes an aggregation of it: every request that writes comes through here.
    with mongodb.unavailable_is_transient():
        document = mongoengine.get_db()[User._meta.db_table].find_one(equal)
    return _loaded(User, document) if document else None


def _loaded(model: type[Stored], document: dict[str, Any]) -> Stored:
    fields = [field for field in model._meta.concrete_fields if field.column in document]
    values = [document[field.column] for field in fields]
    return model.from_db(DEFAULT_DB_ALIAS, [field.attname for field in fields], values)
