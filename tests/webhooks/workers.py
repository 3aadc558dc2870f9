"""The webhooks worker as the Procfile runs it: a process of its own with threads."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from payflow.celery import app
from payflow.stack.supervisor import read_procfile
from webhooks import sweep

ENDS_WITHIN_SECONDS = 90.0


@contextmanager
def webhooks_worker(env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A worker with 8 threads on the tests' servers; `env` changes its settings."""
    command = shlex.split(read_procfile(settings.BASE_DIR / "Procfile")["webhooks"])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **(env or {})}
    worker = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield worker
    finally:
        kill(worker)
        app.control.purge()


def kill(worker: subprocess.Popen) -> None:
    if worker.poll() is not None:
        return
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def died(worker: subprocess.Popen) -> bool:
    """Say whether a worker has killed itself at its crash point."""
    return worker.poll() == -signal.SIGKILL


def eventually(is_so: Callable[[], object], within_seconds: float = ENDS_WITHIN_SECONDS) -> None:
    """Wait until it is so, sweeping meanwhile as beat does."""
    deadline = time.monotonic() + within_seconds
    swept_at = 0.0
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {within_seconds} s"
        if time.monotonic() - swept_at > 0.5:
            swept_at = time.monotonic()
            sweep.sweep()
        time.sleep(0.05)
