"""Webhooks as Celery tasks. A message only says where to look; what there is to do is in MongoDB."""

from __future__ import annotations

from celery import shared_task

from payflow import correlation
from payflow.duties import DutyTask
from webhooks import nudge, sweep, turns


@shared_task(name=nudge.DELIVER_TASK)
def deliver(subscription_id: str) -> None:
    """Serve one endpoint for a turn; who waits, or has more, goes to the end of the queue."""
    correlation.enter(None)  # its deliveries are of many requests: that of the nudge is one of them
    nudge.nudge(turns.take(subscription_id=subscription_id))


@shared_task(name=nudge.SPREAD_TASK)
def spread(subscription_ids: list[str]) -> None:
    """Have each of these endpoints served."""
    nudge.spread(subscription_ids)


@shared_task(name="webhooks.sweep", base=DutyTask)
def sweep_due() -> None:
    """Beat's task: find what is due."""
    sweep.sweep()


@shared_task(name="webhooks.remove_old", base=DutyTask)
def remove_old() -> None:
    """Beat's task: remove deliveries that ended long ago."""
    sweep.remove_old()
