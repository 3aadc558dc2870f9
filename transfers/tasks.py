"""The saga's steps as Celery tasks, chained: debit → credit → complete, and refund when a credit fails.

A task takes ids, makes one call, and is safe to repeat. A chain that is lost, or whose retries are
exhausted, is picked up by recovery.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

from celery import Task, chain, shared_task
from django.conf import settings

from ledger import monitor
from payflow import correlation, generation, storage
from payflow.celery import is_stopping
from payflow.crashpoints import crash_point
from payflow.duties import DutyTask
from payflow.errors import Transient
from transfers import inbox, notices, postman, recovery, saga, states
from transfers.errors import CreditTimeout
from transfers.facts import StoredTransactions
from transfers.moves import IDS_LOGGED_MAX
from wallets import services as wallets
from webhooks import circuit

logger = logging.getLogger(__name__)
# From this part of a full step on, those that wait are a crowd.
CROWD_PARTS = 10
RETRY: dict[str, Any] = {
    "autoretry_for": (Transient,),
    "max_retries": 5,
    "retry_backoff": 1,
    "retry_backoff_max": 8,
    "retry_jitter": True,
}


def start_saga() -> None:
    """Publish one chain; its debit takes what waits in the inbox."""
    chain(debit.s(), credit.s().on_error(credit_failed.s()), complete.s()).apply_async()


@shared_task(name="transfers.debit", bind=True, **RETRY)
def debit(self: Task, transaction_ids: list[str] | None = None) -> list[str]:
    """Debit what was given, else what waits in the inbox; start another chain if more waits."""
    if transaction_ids is None:
        # A step costs nearly as much for one transfer as for ten: give others a moment to come along.
        time.sleep(settings.SAGA_LINGER_SECONDS)
        crowd = max(2, settings.SAGA_BATCH_MAX // CROWD_PARTS)
        if crowd <= inbox.count() < settings.SAGA_BATCH_MAX:
            # They come in batches, and for whoever sends hundreds a longer moment is none.
            time.sleep(settings.SAGA_CROWD_LINGER_SECONDS)
        transaction_ids, more = inbox.pop(settings.SAGA_BATCH_MAX)
        self.request.args = [transaction_ids]  # a retry must work on these, not on the next ones
        if len(transaction_ids) > 1:
            correlation.enter(None)  # the batch is of several requests, and speaks for none of them
        crash_point("tasks.popped")
        if more:
            start_saga()
            crash_point("tasks.chain_published")
    return _hand_on(self, saga.debit(transaction_ids))


@shared_task(name="transfers.credit", bind=True, **RETRY)
def credit(self: Task, transaction_ids: list[str]) -> list[str]:
    """Credit, or decide a refund and enqueue it."""
    step = saga.credit(transaction_ids)
    if step.hanging:
        # A message of their own, so that they hold up nobody; it waits in a timer, not in a worker's child.
        wait = {"countdown": settings.CREDIT_TIMEOUT_SECONDS, "link_error": credit_failed.s()}
        credit_hanging.apply_async((step.hanging,), **wait)
        crash_point("tasks.hanging_published")
    _refund_later(step.refused)
    return _hand_on(self, step.credited)


@shared_task(name="transfers.credit_hanging", bind=True, dont_autoretry_for=(CreditTimeout,), **RETRY)
def credit_hanging(self: Task, transaction_ids: list[str]) -> None:
    """Look again at credits that have hung past their limit; what still hangs gets one more, then fails."""
    step = saga.credit(transaction_ids)
    _refund_later(step.refused)
    if step.credited:
        complete.delay(step.credited)
        crash_point("tasks.complete_published")
    if step.hanging:
        wait, tries = settings.CREDIT_TIMEOUT_SECONDS, settings.CREDIT_TIMEOUT_RETRIES_MAX
        raise self.retry((step.hanging,), exc=CreditTimeout(), countdown=wait, max_retries=tries)


@shared_task(name="transfers.complete", **RETRY)
def complete(transaction_ids: list[str]) -> None:
    """Close credited transactions."""
    saga.complete(transaction_ids)


@shared_task(name="transfers.refund", **RETRY)
def refund(transaction_ids: list[str]) -> None:
    """Refund transactions whose settlement is REFUND."""
    saga.refund(transaction_ids)


@shared_task(name="transfers.refund_failed_credits", **RETRY)
def refund_failed_credits(transaction_ids: list[str]) -> None:
    """Refund those transactions that have decided nothing yet; what has decided CREDIT stays."""
    saga.refund(transaction_ids, undecided_because=states.CREDIT_EXHAUSTED, tell_all=True)


@shared_task(name="transfers.credit_failed")
def credit_failed(request: Any, error: Exception, traceback: Any) -> None:
    """A credit task's error callback: its retries are exhausted, so enqueue the refund.

    An error that nobody foresaw, perhaps of one transaction among many, is no reason to refund them all:
    recovery takes them one by one.
    """
    exhausted = isinstance(error, Transient)
    _log_failure("credit failed for good", request, error, refunding=exhausted)
    if exhausted:
        refund_failed_credits.apply_async((request.args[0],), link_error=refund_failed.s())


@shared_task(name="transfers.refund_failed")
def refund_failed(request: Any, error: Exception, traceback: Any) -> None:
    """A refund task's error callback: say so; recovery goes on refunding."""
    _log_failure("refund failed; recovery goes on", request, error)
    # Whatever made the refund fail may well make this fail, and callbacks are not retried.
    tell_failed_refunds.delay(request.args[0])


@shared_task(name="transfers.tell_failed_refunds", **RETRY)
def tell_failed_refunds(transaction_ids: list[str]) -> None:
    """Tell of refunds that are still to be made. Lost, recovery tells of those that it cannot make either."""
    saga.announce_failed_refunds(transaction_ids)


@shared_task(name="transfers.recover", base=DutyTask)
def recover() -> None:
    """Beat's task: re-drive what has stalled, and start a chain if what waits in the inbox has none."""
    try:
        # What waits there may be of a database that was replaced by an older copy.
        generation.advance()
        line = inbox.watch()
    except Transient:
        line = inbox.Line()
    try:
        recovery.recover_stalled(taken_until=line.taken_until)
    finally:
        if line.is_stuck:
            start_saga()


@shared_task(name="transfers.audit", base=DutyTask)
def audit() -> None:
    """Beat's task: verify what is new in the ledger, and freeze the wallets whose chain is broken."""
    monitor.tick(transactions=StoredTransactions(), freeze=wallets.freeze_broken_wallet)


@shared_task(name="notifications.send", base=DutyTask)
def send_notices() -> None:
    """Beat's task: send the e-mails that are due, as long as this worker is not told to stop."""
    postman.send_due(is_stopping=lambda: is_stopping() or storage.is_full())


@shared_task(name="notifications.remove_old", base=DutyTask)
def remove_old_notices() -> None:
    """Beat's task: remove what nobody asks about any more."""
    notices.remove_old()


@shared_task(name="notifications.webhook_disabled", **RETRY)
def webhook_disabled(subscription_id: str) -> None:
    """Write down that the owner of an endpoint is to be told, which ends the asking for it."""
    notice = circuit.owner_notice(subscription_id=subscription_id)
    if notice is not None:
        notices.write_down_disabled(subscription_id=subscription_id, **asdict(notice))
        circuit.owner_told(subscription_id=subscription_id, since=notice.since)


def _hand_on(task: Task, transaction_ids: list[str]) -> list[str]:
    """Return the next step's ids; with none, end the chain here and save its messages."""
    if not transaction_ids:
        task.request.chain = None
    return transaction_ids


def _refund_later(transaction_ids: list[str]) -> None:
    if transaction_ids:
        refund.apply_async((transaction_ids,), link_error=refund_failed.s())
        crash_point("tasks.refund_published")


def _log_failure(message: str, request: Any, error: Exception, **extra: Any) -> None:
    ids = request.args[0]
    what = {"error": type(error).__name__, "task_id": request.id, "transactions": len(ids)}
    logger.error(message, extra={**what, "transaction_ids": ids[:IDS_LOGGED_MAX], **extra})
