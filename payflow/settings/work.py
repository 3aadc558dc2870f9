"""The work behind the API: the saga, the continuous audit, Celery; and the logs of all."""

from __future__ import annotations

from math import inf

from payflow import safety
from payflow.settings.base import IS_PRODUCTION, REDIS_URL, env

# --- Money and the saga -----------------------------------------------------------------------------------

DEFAULT_CURRENCY = env.str("DEFAULT_CURRENCY", default="USD")
SAGA_BATCH_MAX = env.int("SAGA_BATCH_MAX", default=500)
SAGA_LINGER_SECONDS = env.float("SAGA_LINGER_SECONDS", default=0.03)
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

# --- The continuous audit ---------------------------------------------------------------------------------

AUDIT_EVERY_SECONDS = env.float("AUDIT_EVERY_SECONDS", default=10.0)
AUDIT_TICK_SECONDS_MAX = env.float("AUDIT_TICK_SECONDS_MAX", default=5.0)
AUDIT_NEW_ENTRIES_MAX = env.int("AUDIT_NEW_ENTRIES_MAX", default=5_000)
AUDIT_OLD_ENTRIES_MAX = env.int("AUDIT_OLD_ENTRIES_MAX", default=1_000)
AUDIT_WALLETS_MAX = env.int("AUDIT_WALLETS_MAX", default=500)

# --- Celery -----------------------------------------------------------------------------------------------

CELERY_BROKER_URL = REDIS_URL
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "payflow-saga"
CELERY_TASK_CREATE_MISSING_QUEUES = True
CELERY_TASK_ROUTES = {
    "transfers.*": {"queue": "payflow-saga"},
    # Reads much and hurries nobody: not beside the saga's steps.
    "transfers.audit": {"queue": "payflow-notifications"},
    "webhooks.*": {"queue": "payflow-webhooks"},
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
CELERY_BEAT_SCHEDULE = {
    "recover-stalled-transactions": {
        "task": "transfers.recover",
        "schedule": RECOVERY_EVERY_SECONDS,
        "options": {"expires": 3 * RECOVERY_EVERY_SECONDS},
    },
    "audit-what-is-new": {
        "task": "transfers.audit",
        "schedule": AUDIT_EVERY_SECONDS,
        "options": {"expires": AUDIT_EVERY_SECONDS},
    },
}

# Posting takes no larger batch; a message that comes again while its task still runs is work done twice.
safety.refuse_out_of_range(
    [
        ("SAGA_BATCH_MAX", SAGA_BATCH_MAX, 1, 1_000),
        ("AUDIT_NEW_ENTRIES_MAX", AUDIT_NEW_ENTRIES_MAX, 1, inf),
        ("AUDIT_OLD_ENTRIES_MAX", AUDIT_OLD_ENTRIES_MAX, 1, inf),
        ("AUDIT_WALLETS_MAX", AUDIT_WALLETS_MAX, 1, inf),
        (
            "CELERY_VISIBILITY_TIMEOUT_SECONDS",
            _VISIBILITY_TIMEOUT_SECONDS,
            # Drills make it short on purpose.
            CELERY_TASK_TIME_LIMIT if IS_PRODUCTION else 1,
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
