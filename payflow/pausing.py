"""The base of every task: it does nothing while the storage is nearly full (payflow/storage.py)."""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.exceptions import Ignore

from payflow import storage


class PausingTask(Task):
    """A task that drops its message where there is no room for what it would write.

    Messages are accelerators: recovery, the sweep and the next tick of beat find what there is to do.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run, unless there is no room. A direct call, as tests make them, runs always."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        self.pause_if_full()
        # Celery's own call would hide the message's request behind an empty one.
        return self.run(*args, **kwargs)

    def pause_if_full(self) -> None:
        """End the task here, as if it had never been asked for, where there is no room."""
        if storage.is_full():
            raise Ignore
