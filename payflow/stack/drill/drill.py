"""The drill from start to verdict: start a stack, load it, hurt it, heal it, wait for quiet, judge.

What must stay true: whatever goes wrong on the way is a sentence in the report and makes it unclean; a drill
never says that all is well because it could not look.
"""

from __future__ import annotations

import inspect
import json
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from payflow import duplicates
from payflow.stack.drill import answers, books, judge, record
from payflow.stack.drill.client import PATIENCE_SECONDS_MAX, Client
from payflow.stack.drill.crowd import Crowd
from payflow.stack.drill.faults import BY_KIND, VISIBILITY_TIMEOUT_SECONDS, Faults
from payflow.stack.drill.hooks import SETTINGS as HOOK_SETTINGS
from payflow.stack.drill.hooks import Hooks
from payflow.stack.drill.load import Load
from payflow.stack.drill.points import Points
from payflow.stack.drill.proxied import ProxiedStack
from payflow.stack.drill.report import Report
from payflow.stack.drill.simulation import Simulation
from payflow.stack.drill.watch import Watch
from payflow.stack.errors import StackError

POINTS, DUPLICATES = "points", "duplicates"
KINDS = (*BY_KIND, POINTS, DUPLICATES)
DESCRIPTIONS = {kind: inspect.getdoc(fault) or "" for kind, fault in BY_KIND.items()} | {
    POINTS: "Processes die at named points between two writes.",
    DUPLICATES: "Every message to a worker is delivered twice.",
}
# After the wanted seconds, for faults and points whose turn has not come yet on a slow machine.
OVERTIME_SECONDS_MAX = 300.0
CALM_SECONDS_MAX = 300.0
QUIET_SECONDS = 1.0
LOOK_SECONDS = 0.2
WRONG_MAX = 200
# The audit says by itself how many there are, and can be repeated on the data folder.
VIOLATIONS_SHOWN_MAX = 20
STAFF_EMAIL = "staff@drill.example.com"
# Everything that waits, waits for a short time, so that much happens in a short drill.
SETTINGS = {
    "CELERY_VISIBILITY_TIMEOUT_SECONDS": str(VISIBILITY_TIMEOUT_SECONDS),
    "SAGA_BATCH_MAX": "4",
    "SAGA_STALLED_AFTER_SECONDS": "0.5",
    "RECOVERY_EVERY_SECONDS": "1",
    "RECOVERY_LOCK_SECONDS": "2",
    "CREDIT_TIMEOUT_SECONDS": "0.7",
    "PAYFLOW_CRASH_POINTS": "file",
    "REDIS_REQUEST_SECONDS": "0.25",
    **HOOK_SETTINGS,
}


@dataclass(frozen=True)
class Plan:
    """What a drill is to do: which faults, for how long, and the seed of everything random."""

    faults: Collection[str]
    seconds: float
    seed: int
    data_dir: Path


@dataclass
class Scene:
    """The parts of a drill under way."""

    stack: ProxiedStack
    load: Load
    watch: Watch
    simulation: Simulation
    faults: Faults
    points: Points
    hooks: Hooks
    crowds: list[Crowd]


def run(plan: Plan, say: Callable[[str], None]) -> Report:
    """Run a drill and return its report. StackError when it could not even begin."""
    report = Report(seed=plan.seed, seconds=plan.seconds)
    duplicated = {"PAYFLOW_DUPLICATE_MESSAGES": "true"} if DUPLICATES in plan.faults else {}
    say("Start PayFlow on free ports and a data folder of its own")
    with ProxiedStack.on_free_ports(plan.data_dir, {**SETTINGS, **duplicated}) as stack:
        scene = _set_up(plan, stack)
        scene.watch.start()
        try:
            say(f"Load it and let it suffer for {plan.seconds:.0f} s: {', '.join(plan.faults)}")
            with _noting(report, "The drill ended early"):
                _perform(plan, scene)
            say("Heal it and wait until it is quiet")
            with _noting(report, "The stack did not heal"):
                _heal(scene, report)
        finally:
            scene.watch.stop()
        _write_down(plan, scene, report)
        say("Audit the ledger, and compare it with what the clients were told")
        with _noting(report, "The ledger could not be read"):
            _judge(stack, scene, report)
        scene.hooks.stop()
    return report


@contextmanager
def _noting(report: Report, what: str) -> Iterator[None]:
    """Turn an error into a sentence of the report."""
    try:
        yield
    except StackError as error:
        report.wrong.append(f"{what}: {error}")


def _set_up(plan: Plan, stack: ProxiedStack) -> Scene:
    stack.supervisor.expect_deaths()
    password = secrets.token_urlsafe(16)
    stack.ensure_staff(STAFF_EMAIL, password)
    staff = Client(stack.base_url, STAFF_EMAIL, password)
    staff.sign_in()
    load = Load(stack.base_url, plan.seed)
    load.prepare()
    hooks = Hooks(plan.seed)
    hooks.start(load.clients)
    if stack.mongo is None:
        raise StackError("A drill needs an embedded MongoDB of its own.")
    watch = Watch(stack.base_url, stack.mongo.uri, stack.env.get("MONGODB_DATABASE", "payflow"))
    crowds: list[Crowd] = []

    def crowd_in() -> None:
        crowds.append(Crowd(load.clients, f"drill-{plan.seed}-crowd-{len(crowds)}", load.operations.append))
        crowds[-1].come()

    faults = Faults(stack, watch, plan.faults, plan.seed, crowd_in)
    points = Points(stack, watch, plan.seed)
    return Scene(stack, load, watch, Simulation(staff), faults, points, hooks, crowds)


def _perform(plan: Plan, scene: Scene) -> None:
    """Load and faults, until the time is up and every fault and point has had its turn (bounded)."""
    end = time.monotonic() + plan.seconds
    with_points = POINTS in plan.faults
    scene.load.start()
    scene.simulation.start()
    scene.faults.start()
    if with_points:
        scene.points.start()
    try:
        while time.monotonic() < end + OVERTIME_SECONDS_MAX:
            scene.stack.supervisor.check()
            is_complete = scene.faults.are_all_done and not (with_points and scene.points.missing())
            if time.monotonic() >= end and is_complete:
                break
            time.sleep(LOOK_SECONDS)
    finally:
        scene.load.stop()
        scene.faults.stop()
        if with_points:
            scene.points.stop()
    if scene.faults.failure:
        raise StackError(scene.faults.failure)


def _heal(scene: Scene, report: Report) -> None:
    """Restart what is dead, refuse nothing any more, and wait for the clients and for the sagas."""
    began = time.monotonic()
    scene.stack.heal()
    scene.simulation.stop()
    if not scene.load.join(PATIENCE_SECONDS_MAX * 1.5):
        report.wrong.append("A client still waits for its answer.")
    if not all(crowd.join(PATIENCE_SECONDS_MAX * 1.5) for crowd in scene.crowds):
        report.wrong.append("A client of a crowd still waits for its answer.")
    if not scene.watch.await_calm(CALM_SECONDS_MAX, QUIET_SECONDS):
        left = scene.watch.open_count
        report.wrong.append(f"Not quiet within {CALM_SECONDS_MAX:.0f} s: {left} transactions are under way.")
    report.calm_after_seconds = time.monotonic() - began
    if not scene.hooks.await_calm(scene.load.clients, CALM_SECONDS_MAX):
        report.wrong.append(f"Some webhooks were not delivered within {CALM_SECONDS_MAX:.0f} s.")


def _write_down(plan: Plan, scene: Scene, report: Report) -> None:
    """Put what was done into the report."""
    operations = scene.load.operations
    report.operations = dict(Counter(operation.kind.value for operation in operations))
    report.accepted = dict(Counter(o.kind.value for o in operations if o.accepted_ids))
    clients = [*scene.load.clients, *(client for crowd in scene.crowds for client in crowd.clients)]
    report.requests = dict(sum((client.tally for client in clients), Counter()))
    requests = (asked for client in clients for asked in client.asked)
    report.answers = answers.by_fault(requests, scene.faults.windows)
    report.doubts = sum(operation.doubts for operation in operations)
    report.faults = {kind: scene.faults.done[kind] for kind in BY_KIND if kind in plan.faults}
    report.recoveries = scene.watch.recoveries()
    supervisor = scene.stack.supervisor
    report.restarts = {name: supervisor.restarts(name) for name in supervisor.names}
    not_done = [kind for kind, count in report.faults.items() if not count]
    report.wrong += [f"The fault {kind} was never tried." for kind in not_done]
    if POINTS in plan.faults:
        report.points = dict(scene.points.counts())
        report.points_missing = scene.points.missing()
        report.faults[POINTS] = sum(report.points.values())
        report.wrong += [f"No process has died at {name}." for name in report.points_missing]
    report.webhooks = {"requests": scene.hooks.requests, "refused": scene.hooks.refused}
    if DUPLICATES in plan.faults:
        file = duplicates.file_of(scene.stack.data_dir)
        report.duplicated_messages = file.stat().st_size if file.exists() else 0
        if not report.duplicated_messages:
            report.wrong.append("No message was delivered twice.")


def _judge(stack: ProxiedStack, scene: Scene, report: Report) -> None:
    """Hold the record against the ledger, the ledger against its invariants, the webhooks against both."""
    load = scene.load
    done = stack.manage_unchecked("audit", "--expect-settled", "--json")
    report.audit = _verdict(done)
    if done.returncode != 0:
        count = report.audit.get("violations_count", "unknown")
        error = done.stderr.strip()[-300:]
        report.wrong.append(f"The audit ended with {done.returncode}, violations: {count}. {error}".strip())
        report.wrong += [_sentence(v) for v in report.audit.get("violations", [])[:VIOLATIONS_SHOWN_MAX]]
    found = books.read(load.clients)
    report.outcomes = dict(Counter(t.outcome for t in found.transactions.values()))
    report.money_gained_minor = judge.money_gained(load.operations, found)
    for currency, gained_minor in report.money_gained_minor.items():
        if gained_minor:
            report.wrong.append(f"{currency}: {gained_minor} minor units were created (lost, if negative).")
    report.wrong += judge.judge(load.operations, found)
    report.wrong += scene.hooks.judge(load.clients, found)
    if not any(operation.kind is record.Kind.TRANSFER for operation in load.operations):
        report.wrong.append("Nobody has transferred anything: this drill shows nothing.")
    hidden = len(report.wrong) - WRONG_MAX
    if hidden > 0:
        report.wrong[WRONG_MAX:] = [f"And {hidden} more."]


def _sentence(violation: dict[str, Any]) -> str:
    places = (violation.get("wallet_id"), violation.get("transaction_id"))
    where = ", ".join(place for place in places if place) or "sums"
    return f"{violation.get('invariant')} {where}: {violation.get('detail')}"


def _verdict(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    try:
        verdict: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {}
    return verdict
