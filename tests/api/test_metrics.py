"""GET /metrics: every number that PayFlow counts, each seen to move; and who may read them."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import LazySettings
from prometheus_client.parser import text_string_to_metric_families

from ledger.documents import LedgerEntry
from payflow import clock, duties
from payflow.mongodb import collection
from tests.api.client import Api, Party, assert_problem
from tests.ledger.books import rewrite
from tests.transfers.world import make_due
from transfers import recovery, saga, tasks

PATH = "/metrics"
TOKEN = "a token for Prometheus"


def sample(name: str, **labels: str) -> float:
    """Return a sample as Prometheus would read it over HTTP; 0 where there is none."""
    response = Api().get(PATH)
    assert response.status_code == 200
    for family in text_string_to_metric_families(response.content.decode()):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return float(found.value)
    return 0


def started(sender: Party, receiver: Party, amount: str) -> str:
    body = {"receiver_id": receiver.id, "amount": amount}
    return str(sender.api.post_json("/transactions", body).json()["id"])


def test_counts_transactions_by_outcome(anna: Party, bob: Party) -> None:
    completed = {"status": "COMPLETED", "reason": ""}
    failed = {"status": "FAILED", "reason": "insufficient_balance"}
    name = "payflow_transactions_ended_total"
    before = sample(name, **completed), sample(name, **failed)
    ids = [started(anna, bob, "1.00"), started(anna, bob, "999.00")]
    for _ in range(2):
        saga.complete(saga.credit(saga.debit(ids)).credited)
    assert (sample(name, **completed), sample(name, **failed)) == (before[0] + 1, before[1] + 1)


def test_counts_what_recovery_does(anna: Party, bob: Party, settings: LazySettings) -> None:
    settings.SAGA_ATTENTION_AFTER_ATTEMPTS = 1
    names = ("payflow_transactions_recovered_total", "payflow_transactions_needing_attention_total")
    before = [sample(name) for name in names]
    id_ = started(anna, bob, "1.00")
    make_due(id_)
    recovery.recover_stalled()
    assert [sample(name) for name in names] == [count + 1 for count in before]


def test_shows_the_audits_verdict(anna: Party) -> None:
    verified, violations = "payflow_ledger_entries_verified_total", "payflow_ledger_violations_total"
    before = sample(verified), sample(violations, invariant="L1")
    tasks.audit()
    assert sample("payflow_ledger_audit_clean") == 1
    assert sample("payflow_ledger_audit_behind_entries") == 0
    assert sample(verified) == before[0] + 1
    age = clock.now().timestamp() - sample("payflow_ledger_audit_timestamp_seconds")
    assert 0 <= age < timedelta(minutes=1).total_seconds()
    entry = collection(LedgerEntry).find_one({"wallet_id": anna.wallet.id})
    rewrite(entry["_id"], amount_minor=1)
    for _ in range(2):
        tasks.audit()
    assert sample("payflow_ledger_audit_clean") == 0
    assert sample(violations, invariant="L1") == before[1] + 1


def test_counts_requests_by_route(anna: Party) -> None:
    labels = {"view": "wallet-me", "method": "GET"}
    count = "django_http_responses_total_by_status_view_method_total"
    times = "django_http_requests_latency_seconds_by_view_method_count"
    before = sample(count, status="200", **labels), sample(times, **labels)
    anna.api.get("/wallets/me")
    assert sample(count, status="200", **labels) == before[0] + 1
    assert sample(times, **labels) == before[1] + 1


def test_keeps_nothing_that_a_client_makes_up() -> None:
    Api().send("BREW", "/made-up-address", b"{}", CONTENT_LENGTH="x")
    text = Api().get(PATH).content.decode()
    assert "BREW" not in text
    assert "made-up-address" not in text


def test_says_which_version_runs(settings: LazySettings) -> None:
    assert sample("payflow_build", version=settings.VERSION) == 1


def test_with_a_token_only_its_bearer_may_read(settings: LazySettings) -> None:
    settings.METRICS_TOKEN = TOKEN
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}):
        assert_problem(Api().get(PATH, headers=headers), 401, "not_authenticated")
    assert Api().get(PATH, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_in_production_there_is_no_way_in_without_a_token(settings: LazySettings) -> None:
    settings.IS_PRODUCTION = True
    assert_problem(Api().get(PATH), 404, "not_found")


COUNT = """
import django
django.setup()
from payflow import metrics
metrics.TRANSACTIONS_RECOVERED.inc(2)
metrics.AUDIT_CLEAN.set({clean})
print(metrics.render("0.1.0").decode())
"""


@pytest.mark.parametrize("processes", [3])
def test_adds_up_the_processes_that_share_a_folder(tmp_path: Path, processes: int) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    environment["DJANGO_SETTINGS_MODULE"] = "payflow.settings"
    for number in range(processes):
        command = [sys.executable, "-c", COUNT.format(clean=number % 2)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
    lines = done.stdout.splitlines()
    assert "payflow_transactions_recovered_total 6.0" in lines
    assert "payflow_ledger_audit_clean 0.0" in lines


def test_the_age_of_a_duty_grows_while_mongodb_is_silent(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sample("payflow_duty_age_seconds", duty="audit")
    request.getfixturevalue("mongodb_down")
    monkeypatch.setattr(duties._seen, "at", duties._seen.at - 1_000)
    assert sample("payflow_duty_age_seconds", duty="audit") > before + 999
