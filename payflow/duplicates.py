"""Delivers every message of Celery twice, on request (PAYFLOW_DUPLICATE_MESSAGES), for drills and tests.

A broker promises "at least once", so every task must bear a second delivery: here each gets one. The copy is
the same message, task id included. What a copy's task publishes is not copied again, or a chain would double
at every step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import current_app, current_task
from celery.signals import after_task_publish, before_task_publish

_HEADER = "copy_payflow"


def file_of(data_dir: Path) -> Path:
    """The file that grows by one byte for each copy, so that a drill can count them."""
    return data_dir / "duplicated-messages"


def deliver_twice(data_dir: Path) -> None:
    """Copy every message that this process publishes from now on."""

    def mark(headers: dict[str, Any] | None = None, **_: object) -> None:
        if headers is not None and current_task and getattr(current_task.request, _HEADER, None):
            headers[_HEADER] = True

    def publish_again(body: Any, headers: dict[str, Any], routing_key: str, **_: object) -> None:
        if headers.get(_HEADER):
            return
        with current_app.producer_or_acquire() as producer:
            producer.publish(
                body,
                exchange="",
                routing_key=routing_key,
                serializer="json",
                headers={**headers, _HEADER: True},
                correlation_id=headers["id"],
                reply_to="",
            )
        with file_of(data_dir).open("ab") as file:
            file.write(b".")

    before_task_publish.connect(mark, weak=False)
    after_task_publish.connect(publish_again, weak=False)
