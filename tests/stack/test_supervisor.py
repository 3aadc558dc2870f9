"""The supervisor, with shell commands in place of PayFlow's processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from payflow.stack import supervisor as module
from payflow.stack.errors import StackError
from payflow.stack.paths import ROOT
from payflow.stack.supervisor import Supervisor, backoff_seconds, read_procfile

WAIT_SECONDS_MAX = 20.0
FAMILY = "sh -c 'sleep 600 & echo $! >> children; wait'"


HOLDER = f"""
import os, sys, time
from pathlib import Path
from payflow.stack.supervisor import Supervisor
folder = Path(sys.argv[1])
supervisor = Supervisor({{"worker": {FAMILY!r}}}, log_dir=folder / "logs", env=os.environ, cwd=folder)
supervisor.start()
print(supervisor.pid("worker"), flush=True)
time.sleep(600)
"""


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    started = []

    def start(**commands: str) -> Supervisor:
        supervisor = Supervisor(commands, log_dir=tmp_path / "logs", env=os.environ, cwd=tmp_path)
        started.append(supervisor)
        supervisor.start()
        return supervisor

    yield start
    for supervisor in started:
        supervisor.stop(grace_seconds=1.0)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_killed_process_is_started_again(supervise) -> None:
    supervisor = supervise(worker="sleep 600")
    before = supervisor.pid("worker")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: supervisor.restarts("worker") == 1)
    assert supervisor.is_running("worker")
    assert supervisor.pid("worker") != before


def test_other_processes_are_left_alone(supervise) -> None:
    supervisor = supervise(worker="sleep 600", web="sleep 600")
    before = supervisor.pid("web")
    supervisor.kill("worker")
    wait_until(lambda: supervisor.restarts("worker") == 1)
    assert (supervisor.pid("web"), supervisor.restarts("web")) == (before, 0)


def test_killing_a_process_kills_its_children(supervise, tmp_path: Path) -> None:
    supervisor = supervise(worker=FAMILY)
    children = tmp_path / "children"
    wait_until(lambda: children.exists() and children.read_text().endswith("\n"))
    child = int(children.read_text())
    supervisor.kill("worker")
    wait_until(lambda: not alive(child))


def test_children_do_not_outlive_a_process_that_dies_alone(supervise, tmp_path: Path) -> None:
    supervisor = supervise(worker=FAMILY)
    children = tmp_path / "children"
    wait_until(lambda: children.exists() and children.read_text().endswith("\n"))
    child = int(children.read_text().split()[0])
    os.kill(supervisor.pid("worker"), signal.SIGKILL)
    wait_until(lambda: not alive(child))


def test_a_process_that_keeps_dying_ends_the_run_with_its_log(supervise, monkeypatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.01)
    supervisor = supervise(worker="sh -c 'echo no database; exit 3'")
    assert supervisor.wait_failed(WAIT_SECONDS_MAX)
    with pytest.raises(StackError, match=r"worker died 5 times .*exit status 3(.|\n)*no database"):
        supervisor.check()
    assert not supervisor.is_running("worker")


def test_deaths_on_purpose_are_no_crash_loop(supervise) -> None:
    supervisor = supervise(worker="sleep 600")
    for count in range(1, module.EARLY_DEATHS_MAX + 2):
        supervisor.kill("worker")
        wait_until(lambda count=count: supervisor.restarts("worker") == count)
    supervisor.check()
    assert supervisor.is_running("worker")


def test_deaths_of_their_own_are_no_crash_loop_when_they_are_expected(supervise, monkeypatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.01)
    supervisor = supervise(worker="sleep 0.05")
    supervisor.expect_deaths()
    wait_until(lambda: supervisor.restarts("worker") > module.EARLY_DEATHS_MAX + 1)
    supervisor.check()


def test_stop_leaves_nothing_behind_even_of_what_ignores_it(supervise, tmp_path: Path) -> None:
    stubborn = "sh -c 'trap \"\" TERM; sleep 600 & echo $! >> children; while :; do wait; done'"
    supervisor = supervise(polite="sleep 600", stubborn=stubborn)
    children = tmp_path / "children"
    wait_until(lambda: children.exists() and children.read_text().endswith("\n"))
    pids = [supervisor.pid("polite"), supervisor.pid("stubborn"), int(children.read_text())]
    supervisor.stop(grace_seconds=0.5)
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert not _members(pids[:2])


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        children = tmp_path / "children"
        wait_until(lambda: children.exists() and children.read_text().endswith("\n"))
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not _members([group]))


def test_each_process_has_a_log_that_a_restart_continues(supervise) -> None:
    supervisor = supervise(worker="sh -c 'echo started; exec sleep 600'")
    wait_until(lambda: supervisor.log("worker").read_text() == "started\n")
    supervisor.kill("worker")
    wait_until(lambda: supervisor.log("worker").read_text() == "started\nstarted\n")


def test_an_unknown_name_is_one_sentence(supervise) -> None:
    with pytest.raises(StackError, match="There is no process 'database'; there are worker"):
        supervise(worker="sleep 600").pid("database")


def test_reads_a_procfile(tmp_path: Path) -> None:
    file = tmp_path / "Procfile"
    file.write_text("# comment\nweb: serve --at http://$HOST:80\n\nbeat:tick\n")
    assert read_procfile(file) == {"web": "serve --at http://$HOST:80", "beat": "tick"}


def test_the_procfile_names_the_five_processes() -> None:
    assert list(read_procfile(ROOT / "Procfile")) == ["web", "saga", "webhooks", "beat", "flower"]


@pytest.mark.parametrize(
    ("env", "web", "flower"),
    [
        ({}, "--host 127.0.0.1 --port 8000", "--address=127.0.0.1 --port=5555"),
        (
            {"PAYFLOW_HOST": "0.0.0.0", "PAYFLOW_WEB_PORT": "1", "PAYFLOW_FLOWER_PORT": "2"},  # noqa: S104
            "--host 0.0.0.0 --port 1",
            "--address=127.0.0.1 --port=2",
        ),
    ],
)
def test_a_shell_fills_in_where_the_procfile_s_servers_listen(
    env: dict[str, str], web: str, flower: str
) -> None:
    for name, words in (("web", web), ("flower", flower)):
        command = f"echo {read_procfile(ROOT / 'Procfile')[name]}"
        done = subprocess.run(["/bin/sh", "-c", command], env=env, capture_output=True, text=True, check=True)
        assert f" {words} " in done.stdout


@pytest.mark.parametrize(("early_deaths", "seconds"), [(0, 0.2), (1, 0.2), (2, 0.4), (3, 0.8), (30, 10.0)])
def test_backs_off_with_a_bound(early_deaths: int, seconds: float) -> None:
    assert backoff_seconds(early_deaths) == seconds


def _members(groups: list[int]) -> list[int]:
    """The living processes of these process groups."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) in groups and alive(process.pid):
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found
