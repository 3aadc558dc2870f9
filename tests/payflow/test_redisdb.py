"""The Redis client: what a Redis that does not answer turns into."""

from __future__ import annotations

import pytest
from django.conf import LazySettings

from payflow import redisdb
from payflow.errors import Transient


def test_a_redis_that_answers_is_not_spared() -> None:
    redisdb.ping()
    assert not redisdb.is_spared()


def test_a_redis_that_failed_is_spared_for_a_while(redis_down: None, settings: LazySettings) -> None:
    settings.REDIS_SPARED_SECONDS = 60.0
    with pytest.raises(Transient):
        redisdb.ping()
    assert redisdb.is_spared()
    settings.REDIS_SPARED_SECONDS = 0.0
    assert not redisdb.is_spared()
