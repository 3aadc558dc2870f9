"""Real Celery workers for the saga's tests: processes of their own, or a thread where that is enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from payflow.celery import app

ENDS_WITHIN_SECONDS = 60.0


@contextmanager
def prefork_worker(env: Mapping[str, str] | None = None, *, children: int = 2) -> Iterator[subprocess.Popen]:
    """A saga worker as the Procfile runs it, on the tests' servers; `env` changes its settings."""
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "payflow.celery", "worker"]
    command += ["-Q", "payflow-saga", "-P", "prefork", "-c", str(children), "--loglevel", "WARNING"]
    command += ["--without-gossip", "--without-mingle", "-n", f"test-{time.monotonic_ns()}@localhost"]
    environment = {**os.environ, "REMAP_SIGTERM": "SIGQUIT", **(env or {})}
    worker = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield worker
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        app.control.purge()


def eventually(is_so: Callable[[], object], within_seconds: float = ENDS_WITHIN_SECONDS) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + within_seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {within_seconds} s"
        time.sleep(0.05)
