"""What is begun, what waits and what is refused, while every thread is busy."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from prometheus_client import REGISTRY

from accounts import tokens
from payflow.front import bodies, overload
from tests.payflow.front.stage import SECONDS_MAX, Application, Client, eventually, fill, front_of


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("payflow_web_refused_total", {"reason": reason}) or 0.0


def run(scenario: Any) -> None:
    asyncio.run(scenario)


def test_probes_answer_while_every_thread_is_busy_and_nothing_more_may_wait() -> None:
    async def scenario() -> None:
        application = Application()
        async with front_of(application) as front:
            await fill(front, application, running=2, waiting=4)
            live = await Client(front, "/health/live").ask()
            assert (live.status, live.json()) == (200, {"status": "ok"})
            assert live.answered["x-correlation-id"].startswith("cor_")
            for path in ("/health", "/health/ready", "/metrics"):
                assert (await Client(front, path).ask()).content == path.encode()
            assert application.begun == ["/hold/0", "/hold/1", "/health", "/health/ready", "/metrics"]

    run(scenario())


def test_liveness_needs_no_thread_at_all() -> None:
    async def scenario() -> None:
        application = Application()
        async with front_of(application) as front:
            front.api.stop()
            front.probes.stop()
            for method in ("GET", "HEAD"):
                assert (await Client(front, "/health/live", method).ask()).status == 200
            assert application.begun == []

    run(scenario())


def test_what_is_more_than_may_wait_is_refused_before_any_work() -> None:
    async def scenario() -> None:
        application = Application()
        async with front_of(application) as front:
            before = refused("queue_full")
            held = await fill(front, application, running=2, waiting=4)
            headers = {"X-Correlation-Id": "mine", "Origin": "http://localhost:3000"}
            late = await Client(front, "/late", "POST", headers=headers, body=b"{}").ask()
            problem = late.json()
            assert (late.status, problem["code"], problem["correlation_id"]) == (503, "overloaded", "mine")
            assert late.answered["content-type"] == "application/problem+json"
            assert int(late.answered["retry-after"]) > 0
            assert late.answered["x-correlation-id"] == "mine"
            assert late.answered["server"] == "PayFlow"
            assert late.answered["x-content-type-options"] == "nosniff"
            assert late.answered["cache-control"] == "no-store"
            assert late.answered["access-control-allow-origin"] == "http://localhost:3000"
            await eventually(lambda: refused("queue_full") == before + 1)
            application.release()
            assert [client.status for client in await asyncio.gather(*held)] == [200] * 6
            assert (await Client(front, "/later").ask()).status == 200
            assert "/late" not in application.begun

    run(scenario())


def test_one_caller_cannot_take_all_of_what_may_wait() -> None:
    async def scenario() -> None:
        application = Application()
        async with front_of(application, threads=1, waiting_max=8, per_caller_max=3) as front:
            await fill(front, application, running=1, waiting=0)
            mine = [Client(front, f"/hold/mine/{n}", address="192.0.2.1").begin() for n in range(3)]
            await eventually(lambda: front.api.queue.waiting == 3)
            assert (await Client(front, "/more", address="192.0.2.1").ask()).status == 503
            other = Client(front, "/hold/other", address="192.0.2.2").begin()
            await eventually(lambda: front.api.queue.waiting == 4)
            application.release()
            await asyncio.gather(*mine, other)
            # Callers take turns.
            assert application.begun[1:] == ["/hold/mine/0", "/hold/other", "/hold/mine/1", "/hold/mine/2"]

    run(scenario())


@pytest.mark.parametrize("is_good", [True, False], ids=["good tokens", "forged tokens"])
def test_only_a_token_that_was_verified_is_a_caller_of_its_own(is_good: bool) -> None:
    async def scenario() -> None:
        application = Application()
        async with front_of(application, threads=1, waiting_max=8, per_caller_max=1) as front:
            await fill(front, application, running=1, waiting=0)
            begun = []
            for number in range(3):
                token = tokens.issue_access(user_id=f"{number}", is_staff=False, family="f")
                sent = token if is_good else token[:-6] + "forged"
                headers = {"Authorization": f"Bearer {sent}", "X-Forwarded-For": f"203.0.113.{number}"}
                begun.append(Client(front, "/hold", headers=headers).begin())
            waiting = 3 if is_good else 1
            await eventually(lambda: front.api.queue.waiting == waiting)
            await eventually(lambda: sum(task.done() for task in begun) == 3 - waiting)

    run(scenario())


def test_a_request_whose_client_has_left_is_never_begun() -> None:
    async def scenario() -> None:
        application = Application()
        async with front_of(application) as front:
            await fill(front, application, running=2, waiting=0)
            client = Client(front, "/hold/left", "POST", body=b"{}")
            task = client.begin()
            await eventually(lambda: front.api.queue.waiting == 1)
            client.left.set()
            await task
            assert (client.status, front.api.queue.waiting) == (None, 0)
            application.release()
            await Client(front, "/next").ask()
            assert "/hold/left" not in application.begun

    run(scenario())


def test_a_request_that_has_waited_too_long_is_never_begun() -> None:
    async def scenario() -> None:
        application = Application()
        async with front_of(application, wait_seconds_max=0.1) as front:
            await fill(front, application, running=2, waiting=0)
            late = await Client(front, "/late").ask()
            assert (late.status, late.json()["code"]) == (503, "overloaded")
            application.release()
            await Client(front, "/next").ask()
            assert "/late" not in application.begun

    run(scenario())


def test_half_sent_bodies_take_no_thread_and_end() -> None:
    async def scenario() -> None:
        application = Application()
        async with front_of(application, body_seconds_max=0.5) as front:
            half = [Client(front, "/half", "POST", body=b'{"a', length=20) for _ in range(16)]
            tasks = [client.begin() for client in half]
            assert (await Client(front, "/whole", "POST", body=b"{}").ask()).content == b"/whole{}"
            await asyncio.gather(*tasks)
            assert {client.status for client in half} == {408}
            assert {client.json()["code"] for client in half} == {"request_timeout"}
            assert application.begun == ["/whole"]

    run(scenario())


def test_a_client_that_leaves_within_its_body_is_gone() -> None:
    async def scenario() -> None:
        application = Application()
        async with front_of(application) as front:
            client = Client(front, "/half", "POST", body=b"{", length=20)
            task = client.begin()
            await asyncio.sleep(0)
            client.left.set()
            await task
            assert (client.status, application.begun) == (None, [])

    run(scenario())


def test_bodies_hold_a_bounded_part_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "HELD_BYTES_PER_CALLER_MAX", 100)
    monkeypatch.setattr(bodies, "HELD_BYTES_MAX", 150)

    async def scenario() -> None:
        application = Application()
        async with front_of(application) as front:
            first = Client(front, "/first", "POST", body=b"x" * 90, length=91)
            task = first.begin()
            await asyncio.sleep(0)
            assert (await Client(front, "/same", "POST", body=b"x" * 20).ask()).status == 503
            other = Client(front, "/other", "POST", body=b"x" * 70, address="192.0.2.2")
            assert (await other.ask()).status == 503
            first.left.set()
            await task
            assert (await Client(front, "/same", "POST", body=b"x" * 95).ask()).status == 200

    run(scenario())


def test_a_crash_is_a_problem_and_frees_its_thread() -> None:
    async def scenario() -> None:
        async with front_of(Application(), threads=1) as front:
            for _ in range(3):
                client = await Client(front, "/crash").ask()
                assert (client.status, client.json()["code"]) == (500, "internal_error")
                assert b"secret" not in client.content

    run(scenario())


def test_the_log_says_when_overload_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "QUIET_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "payflow.front.overload")

    async def scenario() -> None:
        application = Application()
        async with front_of(application) as front:
            await fill(front, application, running=2, waiting=4)
            await asyncio.gather(*(Client(front, "/late").ask() for _ in range(20)))
            await eventually(lambda: len(caplog.records) == 2)

    run(scenario())
    began, ended = caplog.records
    assert (began.message, ended.message) == ("overload began", "overload ended")
    assert (began.reason, ended.refused) == ("queue_full", 20)  # type: ignore[attr-defined]
    assert began.waiting == 4  # type: ignore[attr-defined]


class Export:
    """A streamed answer of a thousand parts; `made` says how many were made."""

    streaming = True

    def __init__(self) -> None:
        self.made = 0
        self.is_closed = False

    def __iter__(self) -> Any:
        for _ in range(1_000):
            self.made += 1
            yield b"x" * 65_536

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("leaves", [True, False])
def test_a_slow_reader_of_a_streamed_answer_holds_neither_thread_nor_memory(leaves: bool) -> None:
    export = Export()

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return export if environ["PATH_INFO"] == "/export" else [b"ok"]

    async def scenario() -> None:
        async with front_of(application, threads=1) as front:
            reader = Client(front, "/export")
            reader.may_read.clear()
            task = reader.begin()
            await eventually(lambda: export.made > 0)
            assert (await Client(front, "/other").ask()).content == b"ok"
            assert export.made < 50
            if leaves:
                reader.left.set()
            reader.may_read.set()
            await asyncio.wait_for(task, SECONDS_MAX)
            assert export.is_closed
            if not leaves:
                assert len(reader.content) == 1_000 * 65_536

    run(scenario())
