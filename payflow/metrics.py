"""Metrics for Prometheus: every name of ours in one place, and the text that `GET /metrics` gives.

The processes of one machine share PROMETHEUS_MULTIPROC_DIR: each writes files of its own there, and any web
process adds them up. What must stay true: no label is free text from outside, for each value is kept for
ever. The numbers are for watching; the truth about money is the ledger's.
"""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    exposition,
    generate_latest,
)
from prometheus_client import values as storage
from prometheus_client.multiprocess import MultiProcessCollector

from payflow.metric_files import Owner

CONTENT_TYPE = exposition.CONTENT_TYPE_LATEST
_DIRECTORY = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")


_owner = Owner(Path(_DIRECTORY)) if _DIRECTORY else None
if _owner is not None:
    # Before the first metric is made, anybody's: each keeps the storage of its time.
    storage.ValueClass = storage.MultiProcessValue(_owner.name)

BUILD = Gauge("payflow_build", "1, with the version that runs.", ["version"], multiprocess_mode="mostrecent")
DUTY_AGE = Gauge(
    "payflow_duty_age_seconds",
    "How long ago a periodic duty last ran without an error, by MongoDB's clock.",
    ["duty"],
    multiprocess_mode="mostrecent",
)
DATABASE_RESTORED = Gauge(
    "payflow_database_restored",
    "1: PayFlow has found that the database was restored, and no operator has accepted it yet.",
    multiprocess_mode="mostrecent",
)
STORAGE_FREE = Gauge(
    "payflow_storage_free_bytes", "What is free where MongoDB's data lie.", multiprocess_mode="mostrecent"
)
STORAGE_FULL = Gauge(
    "payflow_storage_full",
    "1: less than STORAGE_FREE_MIN_MB is free; writes are refused and duties pause.",
    multiprocess_mode="mostrecent",
)
STORAGE_REFUSED = Counter(
    "payflow_storage_refused", "Requests that were refused because the storage was nearly full."
)
STORED_DATA_INVALID = Counter(
    "payflow_stored_data_invalid",
    "How often the API met a stored document that it cannot show, by collection.",
    ["collection"],
)
AUDIT_CLEAN = Gauge(
    "payflow_ledger_audit_clean", "1: no invariant is known to be broken.", multiprocess_mode="mostrecent"
)
AUDIT_TIMESTAMP = Gauge(
    "payflow_ledger_audit_timestamp_seconds", "When the audit last ran.", multiprocess_mode="mostrecent"
)
AUDIT_BEHIND = Gauge(
    "payflow_ledger_audit_behind_entries",
    "New entries that the audit has seen and left for later.",
    multiprocess_mode="mostrecent",
)
AUDIT_VERIFIED = Gauge(
    "payflow_ledger_audit_verified",
    "0: the audit's own record cannot be trusted.",
    multiprocess_mode="mostrecent",
)
AUDIT_COUNTER = Gauge(
    "payflow_ledger_audit_counter",
    "The counter of the audit's record, which never goes back.",
    multiprocess_mode="mostrecent",
)
AUDIT_ROUND_VISITED = Gauge(
    "payflow_ledger_audit_round_visited",
    "Entries, or transactions, that the audit's round over all of them has visited so far.",
    ["round"],
    multiprocess_mode="mostrecent",
)
AUDIT_ROUND_BEGAN = Gauge(
    "payflow_ledger_audit_round_began_timestamp_seconds",
    "When the audit's round over all entries, or all transactions, began.",
    ["round"],
    multiprocess_mode="mostrecent",
)
LEDGER_VERIFIED = Counter("payflow_ledger_entries_verified", "New ledger entries that the audit verified.")
LEDGER_VIOLATIONS = Counter(
    "payflow_ledger_violations", "Broken invariants that the audit has found.", ["invariant"]
)
TRANSACTIONS_ENDED = Counter(
    "payflow_transactions_ended", "Transactions by outcome, and why they failed.", ["status", "reason"]
)
TRANSACTIONS_RECOVERED = Counter(
    "payflow_transactions_recovered", "Stalled transactions that recovery has driven."
)
TRANSACTIONS_FLAGGED = Counter(
    "payflow_transactions_needing_attention", "Transactions that recovery has flagged for staff."
)
IDEMPOTENCY = Counter(
    "payflow_idempotency",
    "Requests with an idempotency key: acted (or left to MongoDB to replay), replayed, in_progress, reused,"
    " unguarded (without Redis).",
    ["outcome"],
)
SERVER_AWAY = Gauge(
    "payflow_server_away",
    "1: MongoDB or Redis counts as away, as the process that found out last sees it.",
    ["server"],
    multiprocess_mode="mostrecent",
)
SERVER_REFUSED = Counter(
    "payflow_server_refused",
    "Errands of requests that were not begun: the server counts as away, or the request's budget is spent.",
    ["server"],
)
SERVER_SECONDS = Histogram(
    "payflow_server_seconds",
    "How long a request waited for a server in all.",
    ["server"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0),
)
RATE_LIMITED = Counter(
    "payflow_rate_limited", "Requests that a rate limit refused, by group of endpoints.", ["group"]
)
WEB_REFUSED = Counter(
    "payflow_web_refused",
    "Requests that the web front did not begin: queue_full, caller_share, waited_too_long, bodies, streams"
    " (answered `overloaded`), body_too_slow, client_left.",
    ["reason"],
)
WEB_WAIT_SECONDS = Histogram(
    "payflow_web_wait_seconds",
    "How long requests waited for a thread before they were begun.",
    ["lane"],
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0),
)
WEB_WAITING = Gauge(
    "payflow_web_waiting", "Requests that wait for a thread now.", ["lane"], multiprocess_mode="livesum"
)
WEBHOOK_ATTEMPTS = Counter(
    "payflow_webhook_attempts", "Attempts at deliveries by what came of them.", ["outcome"]
)
WEBHOOK_ATTEMPT_SECONDS = Histogram(
    "payflow_webhook_attempt_seconds",
    "How long receivers took to answer, or to fail to.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
WEBHOOK_DELIVERIES_ENDED = Counter("payflow_webhook_deliveries_ended", "Deliveries by outcome.", ["status"])
WEBHOOK_CIRCUITS_OPENED = Counter(
    "payflow_webhook_circuits_opened", "How often an endpoint that failed was left alone for a while."
)
WEBHOOK_ENDPOINTS_DISABLED = Counter(
    "payflow_webhook_endpoints_disabled", "Endpoints that were disabled because they failed.", ["reason"]
)
WEBHOOK_ENDPOINTS_HELD = Counter(
    "payflow_webhook_endpoints_held", "How often an endpoint was held, as its owner's backlog was too large."
)
WEBHOOK_OVERDUE = Gauge(
    "payflow_webhook_overdue_seconds",
    "How long the endpoint that waits longest for a delivery worker has waited; one that is served does not.",
    multiprocess_mode="mostrecent",
)
WEBHOOK_SWEEP_TIMESTAMP = Gauge(
    "payflow_webhook_sweep_timestamp_seconds", "When the sweep last ran.", multiprocess_mode="mostrecent"
)

NOTIFICATIONS_ENDED = Counter(
    "payflow_notifications_ended",
    "E-mails by what became of them; UNKNOWN ones may have arrived.",
    ["status"],
)


def render(version: str) -> bytes:
    """Return all metrics of all processes in Prometheus's text format.

    Raises OSError when the folder that the processes share is gone and cannot be made again: a page without
    numbers must not look like a good one.
    """
    if _owner is None:
        BUILD.labels(version).set(1)
        return generate_latest(REGISTRY)
    _owner.look()
    # Here, for a process that has begun anew has forgotten it.
    BUILD.labels(version).set(1)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=_DIRECTORY)
    return generate_latest(registry)
