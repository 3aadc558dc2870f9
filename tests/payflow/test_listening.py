"""The event stream and `manage.py events`, in a process of its own, also while Redis goes and comes back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command

from payflow import events, listening, redisdb
from payflow.events import STREAM, Event, EventType
from payflow.listening import Heard
from payflow.stack.embedded import EmbeddedRedis, free_port
from tests.transfers.workers import eventually

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J",
    "line one\nline two\r\n",
    "\u202egnp.exe",
    "\x9b31m",
    "half a pair \ud83d",
)
AT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def event(number: int, kind: EventType = EventType.DEBIT_SUCCESS, **data: object) -> Event:
    id_ = f"txn_{number}"
    body = {"id": id_, "sender_id": "a", "receiver_id": "b", "amount": "10.50", "currency": "USD", **data}
    return Event(id_, kind, AT, body)


def streamed() -> list[str]:
    return [fields.get("event", "") for _, fields in redisdb.client().xrange(STREAM)]


class Tail:
    """A running `manage.py events`; what it has printed can be read at any time."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._out, self._err = folder / "out", folder / "err"
        environment = {**os.environ, "PAYFLOW_ENV": "test", "REDIS_URL": django_settings.REDIS_URL}
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "events", *arguments],
                cwd=django_settings.BASE_DIR,
                env=environment,
                stdout=out,
                stderr=err,
            )

    @property
    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def said(self) -> str:
        return self._err.read_text()

    def await_lines(self, count: int) -> list[str]:
        eventually(lambda: len(self.lines) >= count or self.process.poll() is not None)
        return self.lines

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@pytest.fixture
def tail(tmp_path: Path) -> Iterator[Callable[..., Tail]]:
    with ExitStack() as cleanup:

        def start(*arguments: str) -> Tail:
            folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            started = Tail(folder, *arguments)
            cleanup.callback(started.process.wait)
            cleanup.callback(started.process.kill)
            return started

        yield start


@pytest.fixture
def own_redis(tmp_path: Path, settings: LazySettings) -> Iterator[EmbeddedRedis]:
    """A Redis that may be killed."""
    server = EmbeddedRedis(tmp_path, free_port())
    server.start()
    settings.REDIS_URL = server.url
    redisdb.client.cache_clear()
    yield server
    server.stop()
    redisdb.client.cache_clear()


def ids(lines: list[str]) -> list[str]:
    return [json.loads(line)["id"].removesuffix(":DEBIT_SUCCESS") for line in lines]


def is_subscribed() -> bool:
    return redisdb.client().pubsub_numsub(events.CHANNEL)[0][1] > 0


# --- What is published ------------------------------------------------------------------------------------


def test_the_stream_and_the_channel_carry_the_same_messages_in_the_same_order() -> None:
    pubsub = redisdb.client().pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(events.CHANNEL)
    eventually(is_subscribed)
    # More than one batch.
    events.publish([event(n) for n in range(events.BATCH_MAX + 5)])
    heard: list[str] = []
    while len(heard) < events.BATCH_MAX + 5:
        found = pubsub.get_message(timeout=5)
        heard += [found["data"]] if found else []
    pubsub.close()
    assert heard == streamed()
    first = json.loads(heard[0])
    assert first == {
        "id": "txn_0:DEBIT_SUCCESS",
        "type": "DEBIT_SUCCESS",
        "created_at": "2026-01-31T09:30:00.000Z",
        "data": event(0).data,
    }
    assert ids(heard) == [f"txn_{n}" for n in range(events.BATCH_MAX + 5)]


def test_the_stream_keeps_the_newest_only(settings: LazySettings) -> None:
    settings.EVENTS_STREAM_LENGTH_MAX = 100
    for _ in range(5):
        events.publish([event(n) for n in range(200)])
    # Redis drops whole nodes, of 100 entries by default.
    assert 100 <= redisdb.client().xlen(STREAM) <= 300
    assert ids(streamed()[-3:]) == ["txn_197", "txn_198", "txn_199"]


# --- The command ------------------------------------------------------------------------------------------


def test_tails_live_in_readable_lines_and_ends_on_ctrl_c(tail: Callable[..., Tail]) -> None:
    running = tail()
    eventually(is_subscribed)
    events.publish([event(1, description="lunch"), event(2, failure={"code": "expired"})])
    first, second = running.await_lines(2)
    assert re.split(r"\s{2,}", first) == [
        "2026-01-31T09:30:00.000Z",
        "DEBIT_SUCCESS",
        "txn_1",
        "10.50 USD",
        "a -> b",
        '"lunch"',
    ]
    assert second.endswith("a -> b  expired")
    assert running.end() == 0
    assert running.said == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--type", "DEBIT_FAILED"], ["txn_2"]),
        (["--type", "DEBIT_FAILED", "--type", "CREDIT_SUCCESS"], ["txn_2", "txn_3"]),
        (["--transaction", "txn_1"], ["txn_1"]),
        (["--user", "zoe"], ["txn_3", "txn_4"]),
        (["--user", "a", "--limit", "1"], ["txn_1"]),
        (["--user", "zoe", "--type", "CREDIT_SUCCESS"], ["txn_3"]),
    ],
)
def test_filters(arguments: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    redisdb.client().xadd(STREAM, {"event": "not an event"})
    redisdb.client().xadd(STREAM, {"other": "field"})
    events.publish(
        [
            event(1),
            event(2, EventType.DEBIT_FAILED),
            event(3, EventType.CREDIT_SUCCESS, sender_id="zoe"),
            event(4, receiver_id="zoe"),
        ]
    )
    messages = [Heard(message) for message in streamed()]
    monkeypatch.setattr(listening, "since", lambda place, say: iter(messages))
    shown = StringIO()
    call_command("events", "--from-start", "--json", *arguments, stdout=shown)
    assert [json.loads(line)["data"]["id"] for line in shown.getvalue().splitlines()] == expected


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_people_wrote_cannot_steer_the_terminal(form: list[str], tail: Callable[..., Tail]) -> None:
    written = [f"caf\u00e9 {hostile}" for hostile in HOSTILE]
    events.publish([event(1, description=text) for text in written])
    lines = tail("--from-start", "--limit", f"{len(HOSTILE)}", *form).await_lines(len(HOSTILE))
    assert all(line.isprintable() for line in lines)
    if form:
        assert [json.loads(line)["data"]["description"] for line in lines] == written
    else:
        assert len([line for line in lines if "caf\u00e9" in line]) == len(HOSTILE)


def test_reads_the_stream_and_goes_on_without_gap_or_double(tail: Callable[..., Tail]) -> None:
    """While events keep coming, one tail ends and another takes over where it ended."""
    events.publish([event(n) for n in range(300)])
    first = tail("--from-start", "--json")
    for n in range(300, 600):
        events.publish([event(n)])
    first.await_lines(500)
    assert first.end() == 0
    assert ids(first.lines) == [f"txn_{n}" for n in range(len(first.lines))]
    place = json.loads(first.lines[-1])["stream_id"]
    assert f"--since {place}" in first.said
    second = tail("--since", place, "--json")
    events.publish([event(n) for n in range(600, 620)])
    second.await_lines(620 - len(first.lines))
    assert ids(first.lines + second.lines) == [f"txn_{n}" for n in range(620)]


def test_says_when_the_stream_no_longer_has_it_all(tail: Callable[..., Tail]) -> None:
    events.publish([event(1)])
    running = tail("--since", "1-0", "--limit", "1", "--json")
    assert ids(running.await_lines(1)) == ["txn_1"]
    assert "no longer kept" in running.said


def test_a_stream_reader_outlives_redis_and_misses_nothing(
    own_redis: EmbeddedRedis, tail: Callable[..., Tail]
) -> None:
    events.publish([event(1)])
    running = tail("--from-start", "--json")
    running.await_lines(1)
    own_redis.kill()
    eventually(lambda: "not answering" in running.said)
    own_redis.start()
    events.publish([event(2)])
    assert ids(running.await_lines(2)) == ["txn_1", "txn_2"]
    assert running.end() == 0
    assert running.said.count("not answering") == 1


def test_a_live_tail_outlives_redis_and_says_that_it_missed_something(
    own_redis: EmbeddedRedis, tail: Callable[..., Tail]
) -> None:
    running = tail("--json")
    eventually(is_subscribed)
    own_redis.kill()
    eventually(lambda: "not answering" in running.said)
    own_redis.start()
    eventually(lambda: "was missed" in running.said)
    eventually(is_subscribed)
    events.publish([event(2)])
    assert ids(running.await_lines(1)) == ["txn_2"]
    assert running.end() == 0


def test_goes_quietly_when_its_reader_has_gone() -> None:
    events.publish([event(n) for n in range(200)])
    reader, writer = os.pipe()
    command = [sys.executable, "manage.py", "events", "--from-start", "--json"]
    process = subprocess.Popen(
        command, cwd=django_settings.BASE_DIR, env=dict(os.environ), stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    os.close(reader)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--type", "NONSENSE"],
        ["--since", "yesterday"],
        ["--since", "1-0", "--from-start"],
        ["--limit", "0"],
    ],
)
def test_refuses_arguments_that_make_no_sense(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("events", *arguments)


def test_waits_longer_and_longer_but_not_for_ever() -> None:
    pauses = [listening.pause_seconds(n) for n in range(1, 100)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.2, listening.PAUSE_SECONDS_MAX)
