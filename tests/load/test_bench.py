"""The benchmark with tiny numbers: it must tell the truth about what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import call_command

from payflow.mongodb import collection
from payflow.stack.paths import ROOT, engine_dir
from tests.engine import needs_engine
from tests.load.ceiling_part import engine_ceiling
from tests.load.windows import percentile
from tests.transfers import world
from transfers.documents import Transaction

TRANSFERS = {
    "users": 4,
    "connections": 2,
    "batch-size": 5,
    "batch-connections": 2,
    "windows": 1,
    "window-seconds": 1,
    "latency-rate": 10,
    "latency-seconds": 1,
    "memory-transfers": 10,
    "saga-transfers": 20,
}
POSTINGS = {
    "windows": 1,
    "posting-wallets": 20,
    "postings-per-window": 500,
    "entries-few": 1_500,
    "entries-many": 3_000,
}
WEBHOOKS = {
    "users": 4,
    "connections": 2,
    "window-seconds": 1,
    "deliveries": 30,
    "deliveries-pending": 200,
}
RUN_SECONDS_MAX = 150


def run_bench(part: str, sizes: dict[str, int], data_dir: Path) -> dict[str, Any]:
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    env = {**os.environ, "PAYFLOW_DATA_DIR": str(data_dir), "PAYFLOW_ENGINE_DIR": str(engine_dir())}
    done = subprocess.run(
        [sys.executable, "-m", "tests.load.bench", "--json", "--no-flower", "--only", part, *options],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS_MAX,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    report = json.loads(done.stdout)
    assert json.loads((data_dir / "bench.json").read_text()) == report
    assert [file.name for file in data_dir.iterdir()] == ["bench.json"], "the bench leaves its data behind"
    return report


@needs_engine
def test_counts_the_transfers_that_the_ledger_holds(tmp_path: Path):
    report = run_bench("transfers", TRANSFERS, tmp_path)

    found, audit = report["transfers"], report["audits"]["transfers"]
    assert audit["passed"]
    assert audit["verdict"]["transactions"] == found["completed"]
    # A deposit for each user, a debit and a credit for each transfer.
    assert audit["verdict"]["entries"] == 4 + 2 * found["completed"]
    window = found["throughput"]["windows"][0]
    assert window["completed"] == pytest.approx(window["per_second"] * window["seconds"])
    assert window["accepted"] <= window["completed"]
    in_batches = found["batches"]["windows"][0]
    assert in_batches["completed"] == in_batches["accepted"] > 0
    assert in_batches["completed"] % 5 == 0
    assert found["latency"]["windows"][0]["transfers"] == 10
    assert found["latency"]["p50_ms"] > found["latency"]["answer_p50_ms"] > 0
    assert found["saga"]["transfers"] == 20
    assert set(found["memory"]["by_process"]) == {
        "web", "saga", "webhooks", "beat", "mongo", "redis", "supervisor"
    }  # fmt: skip
    assert all(size > 1 for size in found["memory"]["by_process"].values())


@needs_engine
def test_delivers_as_much_as_it_says(tmp_path: Path):
    report = run_bench("webhooks", WEBHOOKS, tmp_path)

    found, audit = report["webhooks"], report["audits"]["webhooks"]
    assert audit["passed"]
    assert audit["verdict"]["transactions"] == found["completed"]
    assert (found["alone"]["deliveries"], found["queue"]["pending_before"]) == (30, 200)
    assert found["alone"]["per_second"] > 0
    # The receiver takes a second for each: a queue that is gone was never there.
    assert 0 < found["queue"]["pending_after"] <= 200
    assert found["queue"]["ratio"] == pytest.approx(
        found["queue"]["with_per_second"] / found["queue"]["without_per_second"]
    )


@needs_engine
def test_posts_as_much_as_it_says(tmp_path: Path):
    report = run_bench("postings", POSTINGS, tmp_path)

    found, audit = report["postings"], report["audits"]["postings"]
    assert audit["passed"]
    assert audit["verdict"]["entries"] == found["entries"]
    assert found["entries"] >= 3_000
    assert found["long_history"]["entries_before"] > found["many_wallets"]["entries_before"]
    assert found["cost_ratio"] > 0
    # The audit is one of settled ledgers: each of them has its debit and its credit.
    assert audit["verdict"]["transactions"] == 500
    assert found["ceiling"]["per_second"] > 0
    macs = found["macs"]
    assert macs["posting_us"] >= macs["written_us"] >= 0
    assert macs["audit_pace"] == macs["audit_per_cpu_second"] / macs["audit_per_cpu_second_without"] > 0


def test_the_ceiling_is_of_what_the_saga_writes(settings: LazySettings):
    settings.NOTIFICATIONS_ENABLED = False  # that people are to be told is taken back again
    alice, bob = world.person("alice", balance_minor=1_000), world.person("bob", balance_minor=1_000)
    real = world.start(alice, bob, 1)
    world.play(real)
    engine_ceiling({}, [world.wallet_id_of(alice), world.wallet_id_of(bob)], count=500, times=1)
    rows = list(collection(Transaction).find())
    assert len(rows) == 501
    assert {tuple(sorted(row)) for row in rows} == {tuple(sorted(world.row_of(real)))}
    assert {tuple(step["status"] for step in row["history"]) for row in rows} == {tuple(world.path_of(real))}
    assert {(row["status"], row["settlement"]) for row in rows} == {("COMPLETED", "CREDIT")}
    call_command("audit", expect_settled=True, verbosity=0)


@pytest.mark.parametrize(("percent", "expected"), [(50, 5), (95, 10), (99, 10), (10, 1), (1, 1)])
def test_takes_the_nearest_rank_as_percentile(percent: int, expected: int):
    assert percentile(range(1, 11), percent) == expected
