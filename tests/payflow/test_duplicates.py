"""Every message twice, on request: in processes of their own, for it lasts as long as the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from payflow import duplicates, redisdb

QUEUE = "payflow:celery:payflow-saga"
PUBLISH = """
import django
django.setup()
from transfers import tasks
tasks.start_saga()
"""


# As beat does, which knows the schedule and none of the tasks.
PUBLISH_AS_BEAT = """
from payflow.broker import app
app.send_task("transfers.recover")
"""


def publish(data_dir: Path, code: str = PUBLISH, **environment: str) -> None:
    script = [sys.executable, "-c", code]
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "payflow.settings", "PAYFLOW_DATA_DIR": str(data_dir)}
    subprocess.run(script, env={**env, **environment}, cwd=settings.BASE_DIR, timeout=60, check=True)


@pytest.mark.parametrize("code", [PUBLISH, PUBLISH_AS_BEAT], ids=["worker", "beat"])
def test_a_message_is_delivered_twice_and_the_copy_is_counted(tmp_path: Path, code: str) -> None:
    publish(tmp_path, code, PAYFLOW_DUPLICATE_MESSAGES="true")
    copy, first = map(json.loads, redisdb.client().lrange(QUEUE, 0, -1))
    assert copy["body"] == first["body"]
    assert copy["headers"].pop("copy_payflow") is True
    assert copy["headers"] == first["headers"]
    assert duplicates.file_of(tmp_path).stat().st_size == 1


@pytest.mark.parametrize("environment", [{}, {"PAYFLOW_DUPLICATE_MESSAGES": "false"}])
def test_a_message_is_delivered_once_unasked(tmp_path: Path, environment: dict[str, str]) -> None:
    publish(tmp_path, **environment)
    assert redisdb.client().llen(QUEUE) == 1
