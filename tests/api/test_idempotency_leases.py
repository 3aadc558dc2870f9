"""Claims on idempotency keys: they end with the process that holds them, and not while its request runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from django.conf import LazySettings, settings

from accounts import api_keys
from payflow import idempotency, leases, redisdb
from payflow.errors import Transient
from payflow.idempotency import Answer, Claim
from tests.api.client import Api, Party, assert_problem, facts, nothing_changes
from tests.api.test_idempotency import REPLAYED, requests_to, slot_of, slots, transfer

TRIES_MAX = 3_000
PAUSE_SECONDS = 0.02
EUR = {"currency": "EUR"}
# A web process in all but its socket; it dies where PAYFLOW_CRASH_AT says.
CHILD = """
import json, sys
import django
django.setup()
from tests.api.client import Api
token, path, body = sys.argv[1:]
print(Api(token).post_json(path, json.loads(body), Idempotency_Key="k").status_code)
"""


def until(is_so: Callable[[], bool]) -> None:
    for _ in range(TRIES_MAX):
        if is_so():
            return
        time.sleep(PAUSE_SECONDS)
    raise AssertionError("not within a minute")


def die_at(point: str, data_dir: Path, party: Party, path: str, body: Any, *, lease_seconds: int) -> None:
    """Send a request with a key in a process of its own, which dies at a crash point."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "payflow.settings",
        "PAYFLOW_DATA_DIR": str(data_dir),
        "PAYFLOW_CRASH_AT": point,
        "IDEMPOTENCY_LEASE_SECONDS": str(lease_seconds),
    }
    token = party.api.defaults["HTTP_AUTHORIZATION"].removeprefix("Bearer ")
    child = subprocess.run(
        [sys.executable, "-c", CHILD, token, path, json.dumps(body)],
        cwd=settings.BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stdout + child.stderr


def end_lease() -> None:
    """Let the time of the one lease there is run out."""
    (slot,) = slots()
    redisdb.client().pexpire(slot, 1)
    until(lambda: slots() == {})


def ask(party: Party, path: str, body: Any) -> Any:
    return party.api.post_json(path, body, Idempotency_Key="k")


# --- A process dies ---------------------------------------------------------------------------------------


def test_a_key_whose_process_died_is_free_again_when_its_lease_ends(anna: Party, tmp_path: Path) -> None:
    die_at("idempotency.claimed", tmp_path, anna, "/wallets", EUR, lease_seconds=1)
    answers = []
    until(lambda: answers.append(ask(anna, "/wallets", EUR)) or answers[-1].status_code != 409)
    assert (answers[-1].status_code, REPLAYED in answers[-1]) == (201, False)
    assert {answer.json()["code"] for answer in answers[:-1]} <= {"idempotency_in_progress"}


@pytest.mark.parametrize("path", ["/transactions", "/wallets/me/deposit", "/wallets"])
def test_died_before_it_acted(anna: Party, bob: Party, path: str, tmp_path: Path) -> None:
    body = requests_to(anna, bob)[path]
    with nothing_changes():
        die_at("idempotency.claimed", tmp_path, anna, path, body, lease_seconds=60)
        running = ask(anna, path, body)
        assert_problem(running, 409, "idempotency_in_progress")
        assert running["Retry-After"] == "1"
        end_lease()
    first = ask(anna, path, body)
    again = ask(anna, path, body)
    assert (first.status_code, REPLAYED in first) == (201, False)
    assert (again.content, again[REPLAYED]) == (first.content, "true")


@pytest.mark.parametrize("path", ["/transactions", "/transactions/batch", "/wallets/me/deposit"])
def test_died_before_its_answer_was_stored(anna: Party, bob: Party, path: str, tmp_path: Path) -> None:
    body = requests_to(anna, bob)[path]
    die_at("idempotency.answered", tmp_path, anna, path, body, lease_seconds=60)
    with nothing_changes():
        assert_problem(ask(anna, path, body), 409, "idempotency_in_progress")
        end_lease()
        again = ask(anna, path, body)
    assert (again.status_code, again[REPLAYED]) == (201, "true")


@pytest.mark.parametrize("path", ["/transactions", "/wallets"])
def test_died_after_its_answer_was_stored(anna: Party, bob: Party, path: str, tmp_path: Path) -> None:
    body = requests_to(anna, bob)[path]
    die_at("idempotency.stored", tmp_path, anna, path, body, lease_seconds=60)
    with nothing_changes():
        again = ask(anna, path, body)
    assert (again.status_code, again[REPLAYED]) == (201, "true")


# --- A request takes long ---------------------------------------------------------------------------------


def test_a_key_stays_in_progress_while_its_request_waits(
    anna: Party, bob: Party, settings: LazySettings
) -> None:
    settings.IDEMPOTENCY_LEASE_SECONDS = 2.0
    path, first = "/transactions", []

    def wait(client: Api) -> None:
        first.append(client.post_json(path, transfer(bob), Idempotency_Key="k", Prefer="wait=5"))

    thread = threading.Thread(target=wait, args=[anna.another_client()])
    thread.start()
    until(lambda: bool(slots()))
    answers: list[Any] = []
    until(lambda: answers.append(ask(anna, path, transfer(bob))) or answers[-1].status_code != 409)
    thread.join()
    *running, replay = answers
    assert len(running) > 1
    assert {answer.json()["code"] for answer in running} == {"idempotency_in_progress"}
    assert (replay.status_code, replay.content, replay[REPLAYED]) == (201, first[0].content, "true")
    assert (replay["Preference-Applied"], len(facts()["transactions"])) == ("wait=5", 1)


@pytest.fixture
def claimed(anna: Party, settings: LazySettings) -> Iterator[Claim]:
    """A claim with a lease of a second."""
    settings.IDEMPOTENCY_LEASE_SECONDS = 1.0
    claim = idempotency.claim(slot_of(anna, "/wallets", EUR))
    assert isinstance(claim, Claim)
    yield claim
    claim.end(None)


def left_ms(claim: Claim) -> int:
    return redisdb.client().pttl(claim.slot)


def test_a_lease_is_renewed_until_its_claim_ends(claimed: Claim) -> None:
    for _ in range(2):
        redisdb.client().pexpire(claimed.slot, 600_000)
        until(lambda: left_ms(claimed) <= 1_000)  # renewed: a second from now
    claimed.end(None)
    assert left_ms(claimed) == -2
    assert claimed.token not in leases._held


def test_a_lease_is_not_renewed_for_ever(claimed: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(leases._held, claimed.token, (claimed.slot, time.monotonic() - 1))
    until(lambda: left_ms(claimed) == -2)


def test_a_renewal_that_failed_is_tried_again_before_the_lease_is_over(
    claimed: Claim, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, results, seen = leases._renew, [False, False], []

    def pause_seconds(*, is_renewed: bool) -> float:
        seen.append(is_renewed)
        return 0.01

    monkeypatch.setattr(leases, "_renew", lambda wanted: results.pop() if results else renew(wanted))
    with monkeypatch.context() as patched:
        patched.setattr(leases, "_pause_seconds", pause_seconds)
        until(lambda: seen.count(False) == 2 and seen[-1])
    failed_at = seen.index(False)
    assert seen[failed_at : failed_at + 3] == [False, False, True]
    settings.IDEMPOTENCY_LEASE_SECONDS = 6.0
    assert (leases._pause_seconds(is_renewed=True), leases._pause_seconds(is_renewed=False)) == (2.0, 0.2)


def test_the_thread_that_renews_starts_again(claimed: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = threading.Thread()
    monkeypatch.setattr(leases, "_keeper", dead)
    leases.hold(claimed.slot, claimed.token)
    assert leases._keeper is not dead
    redisdb.client().pexpire(claimed.slot, 600_000)
    until(lambda: left_ms(claimed) <= 1_000)


# --- Whose the claim is -----------------------------------------------------------------------------------


def test_who_has_lost_a_claim_stores_renews_and_frees_nothing(anna: Party, claimed: Claim) -> None:
    redisdb.client().delete(claimed.slot)
    other = idempotency.claim(slot_of(anna, "/wallets", EUR))
    assert isinstance(other, Claim)
    leases.let_go(other.token)
    redisdb.client().pexpire(claimed.slot, 600_000)
    leases._renew({claimed.token: claimed.slot})
    claimed.end(Answer(201, {}, b"mine"))
    claimed.end(None)
    assert redisdb.client().hget(claimed.slot, "owner") == other.token
    assert left_ms(claimed) > 1_000
    other.end(Answer(201, {"Location": "/x"}, b"theirs"))
    assert idempotency.claim(slot_of(anna, "/wallets", EUR)) == Answer(201, {"Location": "/x"}, b"theirs")


def test_a_claim_sent_twice_because_no_reply_came_is_one_claim(anna: Party) -> None:
    asked = slot_of(anna, "/wallets", EUR)
    assert [idempotency._claim(asked, "own_1"), idempotency._claim(asked, "own_1")] == [None, None]
    found = idempotency._claim(asked, "own_2")
    assert found == (asked.fingerprint, "")


def test_a_running_request_s_key_is_refused_to_another_body(anna: Party, claimed: Claim) -> None:
    assert_problem(ask(anna, "/wallets", {"currency": "JPY"}), 422, "idempotency_key_reused")
    assert_problem(ask(anna, "/wallets", EUR), 409, "idempotency_in_progress")


def test_a_redis_that_failed_a_moment_ago_is_asked_where_nobody_else_keeps_the_key(
    anna: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    mint = api_keys.mint_key

    def mint_while_redis_fails_another(**asked: Any) -> Any:
        monkeypatch.setattr(redisdb.SERVER, "ping", Mock(side_effect=Transient))
        redisdb.SERVER.failed()
        return mint(**asked)

    monkeypatch.setattr(api_keys, "mint_key", mint_while_redis_fails_another)
    path, body = "/auth/api-keys", {"name": "till", "scopes": ["wallets:read"]}
    first = ask(anna, path, body)
    assert redisdb.is_spared()
    redisdb.SERVER.answers()
    with nothing_changes():
        again = ask(anna, path, body)
    assert (first.status_code, again.content, again[REPLAYED]) == (201, first.content, "true")


def test_redis_may_be_gone_when_a_claim_ends(claimed: Claim, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("redis_down")
    claimed.end(Answer(201, {}, b""))
    assert redisdb.is_spared()
    claimed.end(Answer(201, {}, b""))


def test_a_forked_child_holds_nothing_and_can_hold() -> None:
    leases.hold("slot", "token")
    with leases._lock:
        child = os.fork()
        if child == 0:
            # A child that waits for a lock of its parent's would wait for ever.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            inherited = dict(leases._held)
            leases.hold("another", "own")
            os._exit(0 if not inherited and leases._keeper and leases._keeper.is_alive() else 1)
    leases.let_go("token")
    assert os.waitpid(child, 0)[1] == 0
