"""Users for tests. All have the same password, hashed once: hashing is slow on purpose."""

from __future__ import annotations

from functools import cache

import factory
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Permission

from accounts.models import User

PASSWORD = "correct horse battery"


@cache
def _hashed_password() -> str:
    return make_password(PASSWORD)


class UserFactory(factory.django.DjangoModelFactory):
    """An active user who registered and has no wallet yet."""

    class Meta:
        model = User

    name = "Alice Example"
    email = factory.Sequence(lambda n: f"alice-{n}@example.com")
    password = factory.LazyFunction(_hashed_password)


def grant(user: User, *permissions: str) -> User:
    """Give a user permissions (`app.codename`); return the user."""
    for permission in permissions:
        app, codename = permission.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    return user
