"""Turns: a worker's thread serves one endpoint for a while, then it is another's turn.

What must stay true: no endpoint, however slow, dead or busy, keeps the others waiting for longer than a turn.
Only so many threads speak to one endpoint, and to all that are slow or fail (slots.py); a turn lasts
WEBHOOK_TURN_SECONDS and one attempt; an endpoint that fails is left alone (circuit.py), and what waits for it
stays as it is. Deliveries are begun in the order of their sequence, but one that failed waits for its time
and holds up nobody.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from django.conf import settings

from payflow import clock
from payflow.mongodb import collection, unavailable_is_transient
from webhooks import circuit, delivery, nudge, refill, secrets, sequencing, services, slots
from webhooks.circuit import Gate
from webhooks.delivery import Endpoint
from webhooks.documents import Subscription
from webhooks.errors import SealBroken
from webhooks.transport import Line

logger = logging.getLogger(__name__)
PLACES_MAX = 500
STEP_MAX = 1_000
# A key that is missing is an operator's mistake, and soon put right.
UNSEALED_LOOK_AGAIN_SECONDS = 60.0
# How exact `worked_at` is: it is not written more often than this.
NOTED_EVERY_SECONDS = 10.0
_NEEDED = dict.fromkeys(
    ("user_id", "url", "is_active", "secrets", "consecutive_failures", "paused_until", "fresh_since",
     "held_since", "worked_at"),
    1,
)  # fmt: skip
Row = dict[str, Any]


def take(*, subscription_id: str) -> list[str]:
    """Serve an endpoint for a turn; return those to look at next, itself if it has more. Raises Transient."""
    nudge.taken(subscription_id)
    with unavailable_is_transient():
        subscription = collection(Subscription).find_one({"_id": subscription_id}, _NEEDED)
    if subscription is None:
        dropped = services.drop_pending(subscription_id=subscription_id, limit=STEP_MAX)
        return [subscription_id] if dropped == STEP_MAX else []
    # Before there is a slot: a receiver can fetch what has its place, however long its endpoint has to wait.
    # One page a turn, so that all endpoints get on alike; it comes again for the next one, also where nothing
    # may be sent to it now.
    more = _queue(subscription) == PLACES_MAX
    is_suspect = circuit.is_suspect(subscription) or slots.is_slow(subscription_id)
    limit = 1 if is_suspect else settings.WEBHOOK_ENDPOINT_CONCURRENCY
    visitor = slots.Visitor(subscription_id, subscription["user_id"], limit, is_suspect)
    waiting: list[str] = []
    if slots.enter(visitor):
        try:
            more = _serve(subscription, is_suspect=is_suspect) or more
        finally:
            waiting = slots.leave(visitor)
    _note_turn(subscription)
    return [*waiting, subscription_id] if more else waiting


def _queue(subscription: Row) -> int:
    """Number an endpoint's next deliveries, and those that were held if there is room; return how many."""
    subscription_id = subscription["_id"]
    placed = sequencing.place(subscription_id=subscription_id, limit=PLACES_MAX)
    if placed or "held_since" not in subscription or not subscription["is_active"]:
        return placed
    if not refill.refill(subscription_id=subscription_id, user_id=subscription["user_id"]):
        return 0
    return sequencing.place(subscription_id=subscription_id, limit=PLACES_MAX)


def _note_turn(subscription: Row) -> None:
    """Write down that a worker has done what there was to do now, for whoever asks whether any does."""
    now = clock.now()
    noted = subscription.get("worked_at")
    if noted is None or (now - noted).total_seconds() > NOTED_EVERY_SECONDS:
        with unavailable_is_transient():
            change = {"$max": {"worked_at": now}}
            collection(Subscription, lasting=False).update_one({"_id": subscription["_id"]}, change)


def _serve(subscription: Row, *, is_suspect: bool) -> bool:
    subscription_id, now = subscription["_id"], clock.now()
    gate = circuit.gate(subscription, now=now)
    if not subscription["is_active"] or gate is Gate.OPEN:
        return False
    if "fresh_since" in subscription and not _begin_anew(subscription):
        return True
    if gate is Gate.HALF_OPEN and not _is_ours_to_try(subscription_id):
        return False
    try:
        signers = secrets.signing_secrets(subscription["secrets"], now=now)
    except SealBroken:
        logger.exception("webhook secrets cannot be opened", extra={"subscription_id": subscription_id})
        until = clock.after(now, UNSEALED_LOOK_AGAIN_SECONDS)
        circuit.leave_alone(subscription_id=subscription_id, until=until)
        return False
    with Line(subscription["url"]) as line:
        return _deliver(Endpoint(subscription_id, signers, line), subscription, is_suspect=is_suspect)


def _begin_anew(subscription: Row) -> bool:
    """Have what waits for an endpoint tried now, a step of it; return whether that was all."""
    subscription_id, since = subscription["_id"], subscription["fresh_since"]
    if delivery.resume(subscription_id=subscription_id, since=since, limit=STEP_MAX) == STEP_MAX:
        return False
    services.end_new_chance(subscription_id=subscription_id, since=since)
    return True


def _is_ours_to_try(subscription_id: str) -> bool:
    """Say whether something is due for an endpoint, and this thread is the one to try it."""
    now = clock.now()
    if not delivery.has_due(subscription_id=subscription_id, now=now):
        return False
    return circuit.take_probe(subscription_id=subscription_id, now=now)


def _deliver(endpoint: Endpoint, subscription: Row, *, is_suspect: bool) -> bool:
    """Send what is due until the turn is over or something says to stop; return whether there may be more."""
    subscription_id, is_failing = endpoint.subscription_id, circuit.is_suspect(subscription)
    deadline = time.monotonic() + settings.WEBHOOK_TURN_SECONDS
    while time.monotonic() < deadline:
        row = delivery.claim(subscription_id=subscription_id, now=clock.now())
        if row is None:
            if not _queue(subscription):
                return False
            continue
        outcome = delivery.attempt(endpoint, row)
        if not outcome.was_made:
            return False
        slots.note_pace(subscription_id, seconds=outcome.seconds)
        if outcome.failure is not None:
            now = clock.now()
            if circuit.note_failure(subscription_id=subscription_id, now=now, failure=outcome.failure):
                return False
        elif is_failing:
            circuit.note_success(subscription_id=subscription_id)
        is_failing = outcome.failure is not None
        if slots.is_slow(subscription_id) and not is_suspect:
            # From now on it has to share with its like.
            return True
    return True
