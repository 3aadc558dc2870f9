"""MongoDB goes away in the middle of a request: the answer says what may have been written down by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings

from payflow import mongodb
from payflow.stack.embedded import free_port
from tests.api.client import Party, assert_problem, facts
from tests.api.test_batches import send, to
from transfers import batches, parties


@pytest.fixture
def fails_from(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Any, str, Callable[[], Any]], Any]:
    """Ask while MongoDB goes away as soon as a function has been called; return the answer."""

    def ask_while_failing(module: Any, name: str, ask: Callable[[], Any]) -> Any:
        original = getattr(module, name)

        def vanish(*args: Any, **named: Any) -> Any:
            found = original(*args, **named)
            settings.MONGODB_URI = f"mongodb://127.0.0.1:{free_port()}/?directConnection=true"
            settings.MONGODB_OPTIONS = {**options, "timeoutMS": 100}
            mongodb.reconnect()
            return found

        uri, options = settings.MONGODB_URI, settings.MONGODB_OPTIONS
        with monkeypatch.context() as patched:
            patched.setattr(module, name, vanish)
            try:
                return ask()
            finally:
                settings.MONGODB_URI, settings.MONGODB_OPTIONS = uri, options
                mongodb.reconnect()

    return ask_while_failing


def test_a_batch_that_is_written_down_is_told_so_and_where_to_ask_for_it(
    anna: Party, bob: Party, fails_from: Any
) -> None:
    answer = fails_from(batches, "crash_point", lambda: send(anna, to(bob)))
    problem = assert_problem(answer, 503, "service_unavailable")
    (row,) = facts()["transfer_batches"]
    assert "will be carried out" in problem["detail"]
    assert f"GET /transactions/batch/{row['_id']}" in problem["detail"]


@pytest.mark.parametrize("is_batch", [False, True])
def test_what_may_have_been_written_down_is_not_to_be_sent_again_unseen(
    anna: Party, bob: Party, fails_from: Any, is_batch: bool
) -> None:
    def ask() -> Any:
        return send(anna, to(bob)) if is_batch else anna.api.post_json("/transactions", to(bob))

    problem = assert_problem(fails_from(parties, "decide_all", ask), 503, "service_unavailable")
    assert "may have written it down" in problem["detail"]
    assert "GET /transactions" in problem["detail"]
