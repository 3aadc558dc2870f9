"""A disk that is full: each step says so in a sentence with what to do, and works once there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from payflow.stack import causes, installation
from payflow.stack.commands import run_logged
from payflow.stack.embedded import EmbeddedMongo, EmbeddedRedis, free_port
from payflow.stack.errors import StackError
from payflow.stack.paths import ROOT
from payflow.stack.stack import Stack
from payflow.stack.supervisor import EARLY_DEATHS_MAX, Supervisor
from tests.chaos.people import eventually
from tests.engine import needs_engine
from tests.filesystem import filled, mounted, resize
from tests.stack.test_commands import run

SPACE = r"There is too little space left on the device: \d+ MB are free in .*\. Make room"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", 300) as folder:
        yield folder


def test_the_first_start_says_how_much_it_needs(small: Path) -> None:
    done = run(
        small / "data", "serve", PAYFLOW_WEB_PORT=str(free_port()), PAYFLOW_FLOWER_PORT=str(free_port())
    )
    assert done.returncode == 1
    assert "The first start needs 600 MB of free space" in done.stderr
    assert "make room, or set PAYFLOW_DATA_DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (small / "data" / "mongo").exists()


@pytest.mark.parametrize(("margin", "needed"), [("", 600), ("2000", 2_100), ("nonsense", 600)])
def test_the_first_start_needs_more_than_the_margin(small: Path, margin: str, needed: int) -> None:
    stack = Stack(small / "data", free_port(), None, free_port(), {"STORAGE_FREE_MIN_MB": margin})
    with pytest.raises(StackError, match=f"needs {needed} MB"):
        stack.start()


@needs_engine
def test_a_set_up_that_ran_out_of_space_is_repeated_with_space(small: Path) -> None:
    """MongoDB builds no index with less than 500 MB free; it does create collections."""
    stack = Stack(small / "data", free_port(), None, free_port())
    mongo, redis = EmbeddedMongo(stack.data_dir), EmbeddedRedis(stack.data_dir, stack.redis_port)
    environment = {**os.environ, "PAYFLOW_ENV": "development", "PAYFLOW_DATA_DIR": str(stack.data_dir)}
    environment |= {"MONGODB_URI": mongo.uri, "REDIS_URL": redis.url, "MONGODB_DATABASE": "payflow"}
    command = [sys.executable, "manage.py", "prepare"]
    mongo.start()
    try:
        for _ in range(2):
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 1
            [sentence] = done.stderr.strip().splitlines()
            assert "MongoDB has too little space (OutOfDiskSpace: available disk space of" in sentence
            assert "Make room where its data lie. Then run it again" in sentence
        resize(small, 1_200)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        # Redis does not run here, which is no reason to stop.
        logged = [line for line in done.stderr.splitlines() if "a server counts as away" not in line]
        assert (done.returncode, logged) == (0, [])
    finally:
        mongo.stop()


@needs_engine
def test_an_engine_that_finds_no_space_says_so_though_its_log_is_empty(small: Path) -> None:
    mongo = EmbeddedMongo(small / "data")
    with filled(small), pytest.raises(StackError, match=SPACE) as caught:
        mongo.start()
    assert "Traceback" not in str(caught.value)


def test_an_installer_that_finds_no_space_says_so(small: Path, tmp_path: Path) -> None:
    with filled(small), pytest.raises(StackError, match="It cannot be installed. " + SPACE):
        run_logged(
            [sys.executable, "-c", f"open({str(small / 'file')!r}, 'wb').write(bytes(9_000))"],
            log=tmp_path / "log",
            failure="It cannot be installed",
            seconds_max=60,
        )


def test_a_file_that_cannot_be_written_is_a_sentence(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a step writes by itself: a stamp, an address, an empty log."""

    def install(_profile: str) -> bool:
        (small / "stamp").write_bytes(bytes(9_000))
        return True

    monkeypatch.setattr(installation, "install", install)
    monkeypatch.setenv("PAYFLOW_DATA_DIR", str(small))
    with filled(small):
        assert installation.main([]) == 1
    printed = capsys.readouterr().err
    assert "cannot be used (No space left on device)" in printed
    assert "Make room" in printed


@needs_engine
def test_a_server_that_cannot_start_on_a_full_disk_is_started_once_there_is_room(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = Stack(small / "data", free_port(), None, free_port())
    stack.mongo = EmbeddedMongo(stack.data_dir)
    stack._supervisor = Supervisor({}, log_dir=small / "logs", env={}, cwd=ROOT)
    try:
        with filled(small):
            assert stack.heal() == []
            assert stack.heal() == []
        assert capsys.readouterr().err.count("It is started as soon as there is room.") == 1
        assert stack.heal() == ["MongoDB"]
    finally:
        stack.mongo.stop()


def test_processes_that_die_on_a_full_disk_do_not_stop_the_stack(small: Path) -> None:
    supervisor = Supervisor({"dies": "false"}, log_dir=small, env={"PATH": os.environ["PATH"]}, cwd=ROOT)
    with filled(small):
        supervisor.start()
        try:
            eventually(lambda: supervisor.restarts("dies"), lambda count: count > EARLY_DEATHS_MAX)
            supervisor.check()
        finally:
            supervisor.stop()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "too little space"),
        ("npm ERR! code ENOSPC", "too little space"),
        ("OutOfDiskSpace", "too little space"),
        ("EDQUOT: disk quota exceeded", "too little space"),
        ("[Errno 30] Read-only file system", "read-only"),
        ("FATAL ERROR: JavaScript heap out of memory", "too little memory"),
        ("[Errno 24] Too many open files", "ulimit"),
        ("EACCES: permission denied", "permission"),
        ("pymongo.errors.OperationFailure: Authentication failed.", "correct MONGODB_URI"),
        ("redis: Connection refused", "does not answer"),
    ],
)
def test_known_causes_have_a_sentence(text: str, words: str, tmp_path: Path) -> None:
    assert words in causes.cause_of(text, tmp_path)


def test_an_unknown_cause_has_none(tmp_path: Path) -> None:
    assert causes.cause_of("something else", tmp_path) == ""


@pytest.mark.parametrize(
    ("status", "words"),
    [(1, "with exit status 1"), (-9, "by SIGKILL, most likely because memory ran out"), (-7, "by SIGBUS")],
)
def test_says_how_a_process_ended(status: int, words: str) -> None:
    assert causes.ending(status) == words
