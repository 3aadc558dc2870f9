"""The Celery application: `celery -A payflow.celery …`.

Tasks carry the correlation id of the request that caused them in a message header.
"""

from __future__ import annotations

import gc
import logging.config
import os
import threading

from celery import Celery
from celery.signals import (
    before_task_publish,
    setup_logging,
    task_postrun,
    task_prerun,
    worker_before_create_process,
    worker_process_init,
    worker_shutting_down,
)
from django.conf import settings

from payflow import broker_transport, correlation, duplicates, mongodb
from payflow.crashpoints import crash_point
from payflow.pausing import PausingTask

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "payflow.settings")

broker_transport.use()
app = Celery("payflow", task_cls=PausingTask)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

if settings.DUPLICATE_MESSAGES:
    duplicates.deliver_twice(settings.DATA_DIR)

_HEADER = "correlation_id_payflow"
_stopping = threading.Event()


def is_stopping() -> bool:
    """Say whether this worker was told to stop. For tasks in its threads: forked children do not hear it."""
    return _stopping.is_set()


@worker_shutting_down.connect
def note_that_it_stops(**_: object) -> None:
    """What has been begun is waited for; nothing new should be."""
    _stopping.set()


@before_task_publish.connect
def send_correlation_id(headers: dict | None = None, **_: object) -> None:
    """Put the current correlation id on an outgoing message."""
    if headers is not None:
        headers.setdefault(_HEADER, correlation.current())


@task_prerun.connect
def take_correlation_id(task: object = None, **_: object) -> None:
    """Continue with the correlation id that the message carries."""
    correlation.enter(getattr(getattr(task, "request", None), _HEADER, None))


@task_postrun.connect
def pass_the_last_crash_point(**_: object) -> None:
    """The task is done and has published what follows, but its message is not acknowledged yet."""
    crash_point("tasks.ended")


@worker_before_create_process.connect
def share_memory_with_the_child(**_: object) -> None:
    """Keep the garbage collector from touching, and so from copying, what a forked child shares."""
    gc.collect()
    gc.freeze()


@worker_process_init.connect
def give_child_its_own_connections(**_: object) -> None:
    """A forked child must not share its parent's MongoDB client."""
    mongodb.reconnect()


@setup_logging.connect
def use_djangos_logging(**_: object) -> None:
    """Keep Celery from replacing the logging that Django has configured."""
    logging.config.dictConfig(settings.LOGGING)
