"""The commands as a user runs them: what they print when they cannot, and the demo when they can."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from payflow.stack.embedded import free_port, running_stack
from payflow.stack.paths import ROOT
from payflow.stack.stack import ADDRESSES
from tests.engine import needs_engine

COMMAND_SECONDS_MAX = 60.0


def clean_environment() -> dict[str, str]:
    """Without the addresses of the servers that these tests themselves run on."""
    return {name: value for name, value in os.environ.items() if name not in ADDRESSES}


def run(data_dir: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`python -m payflow.stack` on a data folder and a Redis port of its own."""
    inherited = {name: value for name, value in os.environ.items() if name not in ADDRESSES}
    return subprocess.run(
        [sys.executable, "-m", "payflow.stack", *arguments],
        cwd=ROOT,
        env={
            **inherited,
            "PAYFLOW_DATA_DIR": str(data_dir),
            "PAYFLOW_REDIS_PORT": str(free_port()),
            **settings,
        },
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
    )


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def sentences(done: subprocess.CompletedProcess[str]) -> list[str]:
    return done.stderr.strip().splitlines()


@pytest.mark.parametrize("setting", ["PAYFLOW_WEB_PORT", "PAYFLOW_FLOWER_PORT"])
def test_a_port_in_use_names_itself_and_the_setting(tmp_path: Path, port_in_use: int, setting: str) -> None:
    free = {"PAYFLOW_WEB_PORT": str(free_port()), "PAYFLOW_FLOWER_PORT": str(free_port())}
    done = run(tmp_path, "serve", **{**free, setting: str(port_in_use)})
    assert done.returncode == 1
    [sentence] = sentences(done)
    assert f"Port {port_in_use}" in sentence
    assert f"`{setting}={port_in_use + 1} make run`" in sentence


def test_a_port_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "serve", PAYFLOW_WEB_PORT="http")
    assert done.returncode == 1
    assert sentences(done) == ["PAYFLOW_WEB_PORT must be a port number from 1 to 65535, not 'http'."]


def test_a_data_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run(tmp_path / "file" / "data", "exec", "true")
    assert done.returncode == 1
    [sentence] = sentences(done)
    assert "cannot be written" in sentence


def test_stop_without_a_stack_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, "stop")
    assert (done.returncode, sentences(done)) == (0, [f"No PayFlow runs on {tmp_path}."])


@needs_engine
def test_exec_lends_its_servers_and_passes_the_status_on(tmp_path: Path) -> None:
    look = (
        "import os, pymongo, redis, sys\n"
        "pymongo.MongoClient(os.environ['MONGODB_URI']).admin.command('ping')\n"
        "redis.Redis.from_url(os.environ['REDIS_URL']).ping()\n"
        "sys.exit(7)\n"
    )
    done = run(tmp_path, "exec", "--", sys.executable, "-c", look)
    assert (done.returncode, done.stderr) == (7, "")


def test_exec_uses_the_servers_that_the_settings_name(tmp_path: Path) -> None:
    done = run(
        tmp_path, "exec", "printenv", "MONGODB_URI", MONGODB_URI="mongodb://db.example", REDIS_URL="redis://r"
    )
    assert done.stdout.strip() == "mongodb://db.example"


@needs_engine
def test_run_plays_the_demo_prints_what_works_and_leaves_nothing(tmp_path: Path) -> None:
    ports = {
        name: str(free_port()) for name in ("PAYFLOW_WEB_PORT", "PAYFLOW_FLOWER_PORT", "PAYFLOW_REDIS_PORT")
    }
    with subprocess.Popen(
        [sys.executable, "-m", "payflow.stack", "run"],
        cwd=ROOT,
        env={**clean_environment(), **ports, "PAYFLOW_DATA_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        told = []
        for line in parent.stdout or ():
            told.append(line.rstrip("\n"))
            if "keeps the data" in line:
                break
        text = "\n".join(told)
        groups = [child.pid for child in psutil.Process(parent.pid).children()]
        pasted = [line for line in told if line.startswith(("TOKEN=", "curl "))]
        answers = subprocess.run(
            ["bash", "-c", " && echo && ".join(pasted)],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
        ).stdout
        parent.send_signal(signal.SIGINT)
        rest, _ = parent.communicate(timeout=COMMAND_SECONDS_MAX)
    assert re.search(r"INITIATED ─\d+ ms→ DEBITED ─\d+ ms→ CREDITED ─\d+ ms→ COMPLETED", text)
    assert "refunded (wallet_closed)" in text
    assert "The audit of the whole ledger: clean" in text
    assert "\x1b" not in text
    wallet, transaction = (json.loads(answer) for answer in answers.splitlines() if answer)
    assert wallet["balance"] == "74.50"
    assert transaction["status"] == "COMPLETED"
    assert (parent.returncode, "everything is stored" in rest) == (0, True)
    assert len(groups) == 7  # two servers, five processes
    assert not _running_in(groups)
    assert running_stack(tmp_path) is None


def _running_in(groups: list[int]) -> list[str]:
    """The living members of these process groups."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                found.append(str(process))
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found
