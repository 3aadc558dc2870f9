"""The Celery application as beat and Flower need it: the broker and the schedule, and nothing else.

Neither runs a task, so neither needs Django's apps in memory: about half of what a worker takes.
"""

from __future__ import annotations

import logging.config

from celery import Celery
from celery.signals import setup_logging

from payflow import duplicates, settings

app = Celery("payflow", set_as_current=True, fixups=[])
app.config_from_object(settings, namespace="CELERY")

if settings.DUPLICATE_MESSAGES:
    duplicates.deliver_twice(settings.DATA_DIR)


@setup_logging.connect
def use_one_form_of_log(**_: object) -> None:
    """Write the same JSON lines as every other process."""
    logging.config.dictConfig(settings.LOGGING)
