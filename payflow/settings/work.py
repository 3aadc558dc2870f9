"""The work behind the API: the saga, the continuous audit, Celery; and the logs of all."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import NamedTuple

from payflow import safety
from payflow.settings.base import CLOCK_SKEW_SECONDS_MAX, IS_PRODUCTION, REDIS_URL, env
from payflow.settings.mail import (
    EMAIL_TIMEOUT,
    NOTIFICATIONS_CLAIM_SECONDS,
    NOTIFICATIONS_EVERY_SECONDS,
    NOTIFICATIONS_OVERDUE_SECONDS_MAX,
    NOTIFICATIONS_TICK_SECONDS_MAX,
)

# --- Money and the saga -----------------------------------------------------------------------------------

DEFAULT_CURRENCY = env.str("DEFAULT_CURRENCY", default="USD")
SAGA_BATCH_MAX = env.int("SAGA_BATCH_MAX", default=500)
SAGA_LINGER_SECONDS = env.float("SAGA_LINGER_SECONDS", default=0.06)
SAGA_CROWD_LINGER_SECONDS = env.float("SAGA_CROWD_LINGER_SECONDS", default=0.15)
SAGA_STALLED_AFTER_SECONDS = env.float("SAGA_STALLED_AFTER_SECONDS", default=5.0)
SAGA_EXPIRES_AFTER_SECONDS = env.float("SAGA_EXPIRES_AFTER_SECONDS", default=900.0)
SAGA_ATTENTION_AFTER_ATTEMPTS = env.int("SAGA_ATTENTION_AFTER_ATTEMPTS", default=10)
CREDIT_TIMEOUT_SECONDS = env.float("CREDIT_TIMEOUT_SECONDS", default=3.0)
CREDIT_TIMEOUT_RETRIES_MAX = env.int("CREDIT_TIMEOUT_RETRIES_MAX", default=1)
# /health says "degraded" when a transaction has been under way for longer: most likely no worker runs.
SAGA_QUEUE_AGE_SECONDS_MAX = env.float("SAGA_QUEUE_AGE_SECONDS_MAX", default=30.0)
RECOVERY_EVERY_SECONDS = env.float("RECOVERY_EVERY_SECONDS", default=2.0)
RECOVERY_BATCH_MAX = env.int("RECOVERY_BATCH_MAX", default=500)
RECOVERY_LOCK_SECONDS = env.float("RECOVERY_LOCK_SECONDS", default=5.0)
RECOVERY_TICK_SECONDS_MAX = env.float("RECOVERY_TICK_SECONDS_MAX", default=20.0)

# --- Events -----------------------------------------------------------------------------------------------

# A message is about 1 KB, and Redis keeps them in memory.
EVENTS_STREAM_LENGTH_MAX = env.int("EVENTS_STREAM_LENGTH_MAX", default=20_000)

# --- The continuous audit ---------------------------------------------------------------------------------

AUDIT_EVERY_SECONDS = env.float("AUDIT_EVERY_SECONDS", default=10.0)
AUDIT_TICK_SECONDS_MAX = env.float("AUDIT_TICK_SECONDS_MAX", default=2.5)
AUDIT_NEW_ENTRIES_MAX = env.int("AUDIT_NEW_ENTRIES_MAX", default=5_000)
AUDIT_OLD_ENTRIES_MAX = env.int("AUDIT_OLD_ENTRIES_MAX", default=1_000)
AUDIT_WALLETS_MAX = env.int("AUDIT_WALLETS_MAX", default=500)
AUDIT_TRANSACTIONS_MAX = env.int("AUDIT_TRANSACTIONS_MAX", default=1_000)

# --- Webhooks ---------------------------------------------------------------------------------------------

WEBHOOKS_PER_USER_MAX = env.int("WEBHOOKS_PER_USER_MAX", default=20)
# After a rotation the former secret signs beside the new one for so long.
WEBHOOK_SECRET_OVERLAP_SECONDS = env.int("WEBHOOK_SECRET_OVERLAP_SECONDS", default=86_400)
# Looking up the host of a new endpoint takes no longer.
WEBHOOK_LOOKUP_SECONDS_MAX = env.float("WEBHOOK_LOOKUP_SECONDS_MAX", default=2.0)
# Where an endpoint may listen; no ports stand for any.
WEBHOOK_PORTS = (80, 443) if IS_PRODUCTION else ()
# What a delivery waits for after its first attempt, after its second, and so on; then it is a dead letter.
WEBHOOK_RETRY_SECONDS = env.list(
    "WEBHOOK_RETRY_SECONDS", cast=float, default=[5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 28_800.0, 28_800.0]
)
# An attempt has so long to connect, and so long in all, looking up the host's name included.
WEBHOOK_CONNECT_SECONDS = env.float("WEBHOOK_CONNECT_SECONDS", default=2.0)
WEBHOOK_TOTAL_SECONDS = env.float("WEBHOOK_TOTAL_SECONDS", default=5.0)
# An attempt whose worker died is made again after this long.
WEBHOOK_CLAIM_SECONDS = env.float("WEBHOOK_CLAIM_SECONDS", default=30.0)
# So many threads of a worker may speak to one endpoint at once, each for so long before it yields to others.
WEBHOOK_ENDPOINT_CONCURRENCY = env.int("WEBHOOK_ENDPOINT_CONCURRENCY", default=2)
WEBHOOK_TURN_SECONDS = env.float("WEBHOOK_TURN_SECONDS", default=2.0)
# An endpoint that failed so often in a row is left alone for so long, then longer and longer.
WEBHOOK_CIRCUIT_FAILURES = env.int("WEBHOOK_CIRCUIT_FAILURES", default=5)
WEBHOOK_CIRCUIT_SECONDS = env.float("WEBHOOK_CIRCUIT_SECONDS", default=30.0)
# One that failed so often in a row, and for so long, is disabled and its owner told.
WEBHOOK_DISABLE_AFTER_FAILURES = env.int("WEBHOOK_DISABLE_AFTER_FAILURES", default=20)
WEBHOOK_DISABLE_AFTER_HOURS = env.float("WEBHOOK_DISABLE_AFTER_HOURS", default=72.0)
WEBHOOK_SWEEP_EVERY_SECONDS = env.float("WEBHOOK_SWEEP_EVERY_SECONDS", default=5.0)
WEBHOOK_RETENTION_DAYS = env.int("WEBHOOK_RETENTION_DAYS", default=30)
# A user with more undelivered deliveries has further events held, until half of them are left.
WEBHOOK_UNDELIVERED_PER_USER_MAX = env.int("WEBHOOK_UNDELIVERED_PER_USER_MAX", default=20_000)

# --- Celery -----------------------------------------------------------------------------------------------

CELERY_BROKER_URL = REDIS_URL
# Left to itself kombu would take any certificate.
CELERY_BROKER_USE_SSL = {"ssl_cert_reqs": "required"} if REDIS_URL.startswith("rediss://") else None
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "payflow-saga"
CELERY_TASK_CREATE_MISSING_QUEUES = True
CELERY_TASK_ROUTES = {
    "transfers.*": {"queue": "payflow-saga"},
    # Reads much and hurries nobody: not beside the saga's steps.
    "transfers.audit": {"queue": "payflow-notifications"},
    "webhooks.*": {"queue": "payflow-webhooks"},
    # Neither waits behind deliveries: the worker keeps threads for this queue (webhooks/slots.py).
    "webhooks.sweep": {"queue": "payflow-notifications"},
    "webhooks.remove_old": {"queue": "payflow-notifications"},
    "notifications.*": {"queue": "payflow-notifications"},
}
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = False
CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_TIME_LIMIT = 60
CELERY_TASK_SOFT_TIME_LIMIT = 45
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 3
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 400_000  # kilobytes
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# A full Redis, or one whose disk is full, refuses writes. A worker must not end because of that.
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
# A message of a worker that died, or has stood still for so long, is delivered to another.
_VISIBILITY_TIMEOUT_SECONDS = env.int("CELERY_VISIBILITY_TIMEOUT_SECONDS", default=90)
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "global_keyprefix": "payflow:celery:",
    "visibility_timeout": _VISIBILITY_TIMEOUT_SECONDS,
    "unacked_restore_interval": max(1, min(5, _VISIBILITY_TIMEOUT_SECONDS // 4)),
    "unacked_restore_throttle": 1,
    "socket_timeout": 10,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
}
# For drills: each message is delivered twice.
DUPLICATE_MESSAGES = not IS_PRODUCTION and env.bool("PAYFLOW_DUPLICATE_MESSAGES", default=False)
# A request that finds the broker gone gives up within a second: recovery starts the saga later.
CELERY_TASK_PUBLISH_RETRY = False


# --- Periodic duties --------------------------------------------------------------------------------------


class Duty(NamedTuple):
    """A task that must run again and again, at most this far apart."""

    task: str
    every_seconds: float


# Each has an age in /health and /metrics (payflow/duties.py).
DUTIES = {
    "recovery": Duty("transfers.recover", RECOVERY_EVERY_SECONDS),
    "notifications": Duty("notifications.send", NOTIFICATIONS_EVERY_SECONDS),
    "notification_removal": Duty("notifications.remove_old", 600.0),
    "audit": Duty("transfers.audit", AUDIT_EVERY_SECONDS),
    "webhook_sweep": Duty("webhooks.sweep", WEBHOOK_SWEEP_EVERY_SECONDS),
    "webhook_removal": Duty("webhooks.remove_old", 600.0),
}
# Beat asks at least so often; whether a run is due, the claim decides. So a lost message delays a duty by no
# more than this.
DUTY_TICK_SECONDS_MAX = 60.0
# /health says "degraded" when a duty has not run for three intervals, and for at least so long.
DUTY_OVERDUE_SECONDS_MIN = env.float("DUTY_OVERDUE_SECONDS_MIN", default=60.0)
# No `expires`: it would compare beat's clock with a worker's.
CELERY_BEAT_SCHEDULE = {
    name: {
        "task": duty.task,
        "schedule": min(duty.every_seconds, DUTY_TICK_SECONDS_MAX),
        # Due as soon as beat starts.
        "last_run_at": datetime(2000, 1, 1, tzinfo=UTC),
    }
    for name, duty in DUTIES.items()
}

# Where one machine's time is compared with another's clock. One machine alone, as of a drill, has no skew.
_SKEW_SECONDS = CLOCK_SKEW_SECONDS_MAX if IS_PRODUCTION else 0.0
safety.refuse_out_of_range(
    [
        # A transfer that a worker ahead finds must not look expired, nor one that has just begun overdue.
        ("SAGA_EXPIRES_AFTER_SECONDS", SAGA_EXPIRES_AFTER_SECONDS, 10 * _SKEW_SECONDS, inf),
        ("SAGA_QUEUE_AGE_SECONDS_MAX", SAGA_QUEUE_AGE_SECONDS_MAX, 2 * _SKEW_SECONDS, inf),
        ("NOTIFICATIONS_OVERDUE_SECONDS_MAX", NOTIFICATIONS_OVERDUE_SECONDS_MAX, 2 * _SKEW_SECONDS, inf),
        # A claim that a worker ahead takes for run out would be two attempts at once, or a mail given up.
        (
            "WEBHOOK_CLAIM_SECONDS",
            WEBHOOK_CLAIM_SECONDS,
            WEBHOOK_TOTAL_SECONDS + 2 + _SKEW_SECONDS,
            3_600,
        ),
        (
            "NOTIFICATIONS_CLAIM_SECONDS",
            NOTIFICATIONS_CLAIM_SECONDS,
            NOTIFICATIONS_TICK_SECONDS_MAX + EMAIL_TIMEOUT + _SKEW_SECONDS,
            inf,
        ),
    ]
)

# Posting takes no larger batch; a message that comes again while its task still runs is work done twice.
safety.refuse_out_of_range(
    [
        ("SAGA_BATCH_MAX", SAGA_BATCH_MAX, 1, 1_000),
        ("RECOVERY_EVERY_SECONDS", RECOVERY_EVERY_SECONDS, 0.1, 60),
        ("RECOVERY_LOCK_SECONDS", RECOVERY_LOCK_SECONDS, 0.1, 60),
        ("NOTIFICATIONS_EVERY_SECONDS", NOTIFICATIONS_EVERY_SECONDS, 0.1, 3_600),
        ("AUDIT_EVERY_SECONDS", AUDIT_EVERY_SECONDS, 0.1, 300),
        # Less of any of these, and the audit falls behind for ever.
        ("AUDIT_TICK_SECONDS_MAX", AUDIT_TICK_SECONDS_MAX, 0.1, 30),
        ("DUTY_OVERDUE_SECONDS_MIN", DUTY_OVERDUE_SECONDS_MIN, 1, 3_600),
        ("EVENTS_STREAM_LENGTH_MAX", EVENTS_STREAM_LENGTH_MAX, 100, 10_000_000),
        ("AUDIT_NEW_ENTRIES_MAX", AUDIT_NEW_ENTRIES_MAX, 100, inf),
        ("AUDIT_OLD_ENTRIES_MAX", AUDIT_OLD_ENTRIES_MAX, 10, inf),
        ("AUDIT_WALLETS_MAX", AUDIT_WALLETS_MAX, 10, inf),
        ("AUDIT_TRANSACTIONS_MAX", AUDIT_TRANSACTIONS_MAX, 10, inf),
        ("WEBHOOK_RETRY_SECONDS", min(WEBHOOK_RETRY_SECONDS, default=0.0), 0, inf),
        ("WEBHOOK_RETRY_SECONDS", max(WEBHOOK_RETRY_SECONDS, default=0.0), 0, 30 * 86_400),
        ("WEBHOOK_CONNECT_SECONDS", WEBHOOK_CONNECT_SECONDS, 0.1, 30),
        ("WEBHOOK_TOTAL_SECONDS", WEBHOOK_TOTAL_SECONDS, 0.1, 30),
        ("WEBHOOK_ENDPOINT_CONCURRENCY", WEBHOOK_ENDPOINT_CONCURRENCY, 1, 100),
        ("WEBHOOK_TURN_SECONDS", WEBHOOK_TURN_SECONDS, 0.1, 20),
        ("WEBHOOK_CIRCUIT_FAILURES", WEBHOOK_CIRCUIT_FAILURES, 1, inf),
        ("WEBHOOK_CIRCUIT_SECONDS", WEBHOOK_CIRCUIT_SECONDS, 0, 900),
        ("WEBHOOK_DISABLE_AFTER_FAILURES", WEBHOOK_DISABLE_AFTER_FAILURES, 1, inf),
        ("WEBHOOK_DISABLE_AFTER_HOURS", WEBHOOK_DISABLE_AFTER_HOURS, 0, inf),
        ("WEBHOOK_SWEEP_EVERY_SECONDS", WEBHOOK_SWEEP_EVERY_SECONDS, 0.1, 3_600),
        ("WEBHOOK_RETENTION_DAYS", WEBHOOK_RETENTION_DAYS, 1, inf),
        # A count reads so many keys of an index.
        ("WEBHOOK_UNDELIVERED_PER_USER_MAX", WEBHOOK_UNDELIVERED_PER_USER_MAX, 2, 1_000_000),
        ("WEBHOOKS_PER_USER_MAX", WEBHOOKS_PER_USER_MAX, 1, 1_000),
        ("WEBHOOK_SECRET_OVERLAP_SECONDS", WEBHOOK_SECRET_OVERLAP_SECONDS, 0, inf),
        ("WEBHOOK_LOOKUP_SECONDS_MAX", WEBHOOK_LOOKUP_SECONDS_MAX, 0.1, 10),
        (
            "CELERY_VISIBILITY_TIMEOUT_SECONDS",
            _VISIBILITY_TIMEOUT_SECONDS,
            # Drills make it short on purpose. Workers note by their own clocks when they took a message.
            CELERY_TASK_TIME_LIMIT + _SKEW_SECONDS if IS_PRODUCTION else 1,
            inf,
        ),
    ]
)

# --- Logs -------------------------------------------------------------------------------------------------

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"correlation": {"()": "payflow.logs.CorrelationFilter"}},
    "formatters": {"json": {"()": "payflow.logs.JsonFormatter"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["correlation"]},
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        "pymongo": {"level": "WARNING"},
    },
}
