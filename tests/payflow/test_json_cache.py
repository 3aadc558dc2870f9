"""What is in Redis is read as JSON, and never runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from payflow import redisdb
from tests.accounts.factories import UserFactory


class Bomb:
    """What runs a command where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self._file), 0o700)


def test_what_somebody_put_into_redis_does_not_run(tmp_path: Path) -> None:
    bomb = tmp_path / "exploded"
    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    assert client.get("/admin/").status_code == 200
    keys = redisdb.client().keys("payflow:cache:*")
    assert keys
    for key in keys:
        redisdb.client().set(key, pickle.dumps(Bomb(bomb)))
    assert client.get("/admin/").status_code == 302
    assert not bomb.exists()


@pytest.mark.parametrize("value", [0, 7, -1, True, 1.5, "text", "", None, [1, "a"], {"a": {"b": [None]}}])
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    cache.set("k", value)
    assert cache.get("k", default="missing") == value


def test_counts_and_refuses_what_json_cannot_hold() -> None:
    cache.set("n", 1)
    assert cache.incr("n") == 2
    with pytest.raises(TypeError):
        cache.set("k", {1, 2})
