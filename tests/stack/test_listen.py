"""One web server a port: the second one says so, and does not start."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from payflow.stack.embedded import free_port
from payflow.stack.errors import StackError
from payflow.stack.paths import ROOT
from payflow.stack.ports import check_port_free
from payflow.stack.supervisor import read_procfile


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])  # noqa: S104
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port on which somebody listens as granian does, who would share it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((request.param, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])  # noqa: S104
def test_a_port_that_is_shared_counts_as_taken(host: str, taken: int) -> None:
    with pytest.raises(StackError, match=rf"Port {taken}, .* `PAYFLOW_WEB_PORT={taken + 1} make run`"):
        check_port_free(taken, "the web server", "PAYFLOW_WEB_PORT", host=host)


@pytest.mark.parametrize(
    ("process", "what", "setting"),
    [("web", "the web server", "PAYFLOW_WEB_PORT"), ("flower", "Flower", "PAYFLOW_FLOWER_PORT")],
)
def test_the_procfile_s_servers_do_not_start_on_a_port_that_is_taken(
    process: str, what: str, setting: str, taken: int
) -> None:
    command = read_procfile(ROOT / "Procfile")[process]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, setting: str(taken)}
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {command}"],
        env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"Port {taken}, wanted for {what}, cannot be used" in done.stderr
    assert setting in done.stderr


def test_on_a_free_port_the_command_runs() -> None:
    shown = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "--host", "127.0.0.1", "--port"]
    port = str(free_port())
    done = subprocess.run(
        [sys.executable, "-m", "payflow.stack.listen", *shown, port],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert shlex.split(done.stdout.translate(str.maketrans("[],", "   "))) == [
        "--host",
        "127.0.0.1",
        "--port",
        port,
    ]
