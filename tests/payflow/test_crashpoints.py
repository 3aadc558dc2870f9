"""Crash points: which there are, and that exactly one process obeys an armed one, once."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from payflow import crashpoints
from payflow.crashpoints import POINTS, Action
from transfers.states import MOVES

APPS = ("payflow", "ledger", "wallets", "accounts", "webhooks", "transfers")


def placed() -> Iterator[tuple[str, str]]:
    """Yield the name at each call of crash_point, `*` for what is filled in, and where it stands."""
    for app in APPS:
        for path in sorted((settings.BASE_DIR / app).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "crash_point":
                    yield name_of(node.args[0]), f"{path.name}:{node.lineno}"


def name_of(argument: ast.expr) -> str:
    if isinstance(argument, ast.JoinedStr):
        return "".join(p.value if isinstance(p, ast.Constant) else "*" for p in argument.values)
    assert isinstance(argument, ast.Constant), "a crash point's name is a literal"
    return argument.value


def names_placed() -> set[str]:
    """A name with a gap stands for one point per state that a move leads to."""
    states = {to.value.lower() for origin, to in MOVES if origin is not None}
    return {name.replace("*", state) for name, _ in placed() for state in states}


def test_every_point_in_the_code_is_registered_and_every_registered_one_is_in_the_code() -> None:
    assert names_placed() == set(POINTS)
    assert len(set(POINTS)) == len(POINTS)


def test_a_name_is_a_file_name_and_its_record_can_be_read_back() -> None:
    assert [name for name in POINTS if not re.fullmatch(r"[a-z]+\.[a-z_]+", name)] == []


def start(point: str, data_dir: Path, **environment: str) -> subprocess.Popen[str]:
    script = f"from payflow.crashpoints import crash_point; crash_point({point!r}); print('alive')"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=settings.BASE_DIR,
        env={**os.environ, "PAYFLOW_ENV": "test", "PAYFLOW_DATA_DIR": str(data_dir), **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(point: str, data_dir: Path, **environment: str) -> tuple[int, str]:
    process = start(point, data_dir, **environment)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.mark.parametrize("action", [Action.KILL_PROCESS, Action.KILL_GROUP])
def test_an_armed_point_kills_once_and_records_it(action: Action, tmp_path: Path) -> None:
    crashpoints.arm(tmp_path, "saga.debited", action)
    by_file = {"PAYFLOW_CRASH_POINTS": "file"}
    assert run("saga.credited", tmp_path, **by_file) == (0, "alive\n")
    assert run("saga.debited", tmp_path, **by_file)[0] == -signal.SIGKILL
    assert run("saga.debited", tmp_path, **by_file) == (0, "alive\n")
    (hit,) = crashpoints.hits(tmp_path)
    assert (hit.point, hit.action) == ("saga.debited", action)


def test_an_armed_point_can_freeze_a_process_that_goes_on_later(tmp_path: Path) -> None:
    crashpoints.arm(tmp_path, "saga.debited", Action.STOP_PROCESS)
    process = start("saga.debited", tmp_path, PAYFLOW_CRASH_POINTS="file")
    os.waitpid(process.pid, os.WUNTRACED)
    (hit,) = crashpoints.hits(tmp_path)
    assert hit.pid == process.pid
    os.kill(hit.pid, signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == "alive\n"


def test_one_of_many_processes_obeys(tmp_path: Path) -> None:
    crashpoints.arm(tmp_path, "saga.debited", Action.KILL_PROCESS)
    processes = [start("saga.debited", tmp_path, PAYFLOW_CRASH_POINTS="file") for _ in range(4)]
    for process in processes:
        process.communicate(timeout=60)
    assert sorted(process.returncode for process in processes) == [-signal.SIGKILL, 0, 0, 0]


def test_nobody_obeys_a_point_that_was_disarmed(tmp_path: Path) -> None:
    crashpoints.arm(tmp_path, "saga.debited", Action.KILL_PROCESS)
    assert crashpoints.disarm(tmp_path, "saga.debited")
    assert not crashpoints.disarm(tmp_path, "saga.debited")
    assert run("saga.debited", tmp_path, PAYFLOW_CRASH_POINTS="file") == (0, "alive\n")
    assert list(crashpoints.hits(tmp_path)) == []


@pytest.mark.parametrize(
    "environment",
    [{"PAYFLOW_ENV": "production", "PAYFLOW_CRASH_POINTS": "file"}, {"PAYFLOW_CRASH_POINTS": ""}],
)
def test_nobody_obeys_in_production_or_unasked(environment: dict[str, str], tmp_path: Path) -> None:
    crashpoints.arm(tmp_path, "saga.debited", Action.KILL_GROUP)
    assert run("saga.debited", tmp_path, **environment) == (0, "alive\n")
