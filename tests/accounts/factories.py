"""Users for tests. All have the same password, hashed once: hashing is slow on purpose."""

from __future__ import annotations

from functools import cache

import factory
from django.contrib.auth.hashers import make_password

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
