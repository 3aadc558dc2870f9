"""A short failure drill with a fixed seed: every fault and every crash point at least once, nothing wrong.

`make drill` runs longer ones. Nothing here measures time: a slow machine only makes the drill longer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from payflow.crashpoints import POINTS, RARE
from payflow.stack.drill.drill import KINDS

# Starting, the wanted seconds, overtime, patience and quiet: far more than a drill takes.
DRILL_SECONDS_MAX = 1_500
# As in an image without requirements/dev.txt.
WITHOUT_PSUTIL = """
import runpy, sys
sys.modules["psutil"] = None
sys.argv = ["manage.py", "drill"]
runpy.run_path("manage.py", run_name="__main__")
"""
PRODUCTION = {
    "PAYFLOW_ENV": "production",
    "DJANGO_SECRET_KEY": "of-these-tests-only-and-long-enough-a",
    "JWT_SIGNING_KEY": "of-these-tests-only-and-long-enough-b",
    "RECEIPT_SIGNING_KEYS": "receipts-1:wDdODzL8yqv_JMSJV6ir3oG113ea0qxoaRE2RAu-rRs",
    "LEDGER_KEYS": "ledger-1:s3cr3tOfTheLedgerZg5vX2k9Lr0QmTqW7eYbH3JuNE",
    "WEBHOOK_SECRET_KEYS": "s3cr3tOfHooksZg5vX2k9Lr0QmTqW7eYbH3JuNcD4aE=",
    "MONGODB_URI": "mongodb://u:s3cr3t-password@nowhere.invalid/?replicaSet=rs0&tls=true",
    "REDIS_URL": "rediss://:s3cr3t-password@nowhere.invalid",
    "ALLOWED_HOSTS": "pay.example",
    "DEPOSITS_OPEN": "false",
}


def drill(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "drill", *arguments],
        cwd=settings.BASE_DIR,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=DRILL_SECONDS_MAX,
        check=False,
    )


@pytest.mark.timeout(DRILL_SECONDS_MAX + 60)
def test_nothing_is_wrong_after_every_fault_and_every_crash_point(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = drill("--seconds", "25", "--seed", "20250101", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert report["clean"] is True
    assert report["wrong"] == []
    assert set(report["points"]) == set(POINTS) - RARE
    assert set(report["faults"]) == set(KINDS) - {"duplicates"}
    assert all(report["faults"].values())
    assert {"redis-slow", "redis-silent", "mongodb-slow", "mongodb-silent", "crowd"} <= report[
        "answers"
    ].keys()
    assert report["duplicated_messages"] > 0
    assert {"completed", "declined", "refunded"} <= report["outcomes"].keys()
    assert report["money_gained_minor"] == {"USD": 0, "JPY": 0}
    assert "Nothing is wrong" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--faults", "earthquake"],
        ["--faults", ""],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--seed", "-1"],
    ],
)
def test_a_drill_refuses_what_it_does_not_understand(arguments: list[str]) -> None:
    done = drill(*arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PAYFLOW_ENV": "development"}, "requirements/dev.txt, of which psutil is not installed"),
        (PRODUCTION, "refuses to run in production"),
    ],
)
def test_where_a_drill_cannot_run_it_says_so_in_a_sentence(environment: dict[str, str], reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PSUTIL],
        cwd=settings.BASE_DIR,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
