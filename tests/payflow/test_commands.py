"""Every command that fails says so: one sentence on stderr, no traceback, an exit status that is not 0."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from payflow.stack.embedded import free_port

FAILED, COULD_NOT_RUN = 1, 2
PASSWORD = "correct horse battery staple"
# With neither MongoDB nor Redis.
WITHOUT_SERVERS = {
    "audit": COULD_NOT_RUN,
    "audit --wallet wal_1": COULD_NOT_RUN,
    "createsuperuser --noinput --email a@example.com --name Ann": FAILED,
    "deactivate_user a@example.com": FAILED,
    "ensure_indexes": FAILED,
    "ensure_staff --email a@example.com": FAILED,
    "generation": FAILED,
    "generation --begin --reason restored": FAILED,
    "idempotency a-key": FAILED,
    "migrate": FAILED,
    "prepare": FAILED,
    "reactivate_user a@example.com": FAILED,
    "saga list": FAILED,
    "saga retry txn_1 --who me": FAILED,
    "saga show txn_1": FAILED,
    "wallet unfreeze wal_1 --who me": FAILED,
    "webhook_keys": FAILED,
    "webhooks list": FAILED,
    "webhooks replay --subscription whk_1 --since 2026-01-31": FAILED,
}
# These ask no server; events waits for Redis and says so (test_listening.py).
WRONG = {
    "drill --seconds 0": COULD_NOT_RUN,
    "errors --write /dev/null/errors.md": FAILED,
    "events --since yesterday": COULD_NOT_RUN,
    "remove_dead_metrics": FAILED,
    "verify-receipt /nowhere/receipt.json": COULD_NOT_RUN,
}


def run(command: str) -> subprocess.CompletedProcess[str]:
    port = free_port()
    env = {
        **os.environ,
        "MONGODB_URI": f"mongodb://127.0.0.1:{port}/?directConnection=true",
        "MONGODB_TIMEOUT_MS": "500",
        "QUERY_MS_MAX": "100",
        "REDIS_URL": f"redis://127.0.0.1:{port}/0",
        "PAYFLOW_STAFF_PASSWORD": PASSWORD,
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
    }
    env.pop("PROMETHEUS_MULTIPROC_DIR", None)
    return subprocess.run(
        [sys.executable, "manage.py", *command.split()],
        env=env, cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_every_command_is_here() -> None:
    files = Path(settings.BASE_DIR).glob("*/management/commands/[a-z]*.py")
    listed = {command.split()[0] for command in (*WITHOUT_SERVERS, *WRONG)}
    assert {file.stem for file in files} <= listed


@pytest.mark.parametrize(("command", "status"), [*WITHOUT_SERVERS.items(), *WRONG.items()])
def test_a_command_that_fails_says_so(command: str, status: int) -> None:
    done = run(command)
    said = done.stderr.strip()
    assert done.returncode == status, said
    assert "Traceback" not in said + done.stdout
    lines = [line for line in said.splitlines() if not line.startswith(("{", "usage:", " "))]
    assert len(lines) == 1, said
    assert 10 < len(lines[0]) < 500
