"""Turns: a worker's thread serves one endpoint for a while, then it is another's turn.

What must stay true: no endpoint, however slow, dead or busy, keeps the others waiting for longer than a turn.
Only so many threads speak to one endpoint (slots.py); a turn lasts WEBHOOK_TURN_SECONDS and one attempt; one
that fails is left alone (circuit.py). An endpoint's deliveries are begun in the order of their sequence, but
one that failed waits for its time and holds up nobody.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import Any

from django.conf import settings

from payflow import clock
from payflow.mongodb import collection, unavailable_is_transient
from webhooks import circuit, delivery, nudge, secrets, sequencing, services, slots
from webhooks.circuit import Gate
from webhooks.delivery import Endpoint
from webhooks.documents import Subscription
from webhooks.errors import SealBroken
from webhooks.transport import Line

logger = logging.getLogger(__name__)
PLACES_MAX = 500
# What is due at an endpoint that is disabled comes up again this late, unless it is enabled before.
LOOK_AGAIN_SECONDS = 3_600.0
# A key that is missing is an operator's mistake, and soon put right.
UNSEALED_LOOK_AGAIN_SECONDS = 60.0
_NEEDED = dict.fromkeys(("url", "is_active", "secrets", "consecutive_failures", "paused_until"), 1)
Row = dict[str, Any]


def take(*, subscription_id: str) -> int:
    """Serve an endpoint for a turn; return how many further turns it could use at once. Raises Transient."""
    nudge.taken(subscription_id)
    with unavailable_is_transient():
        subscription = collection(Subscription).find_one({"_id": subscription_id}, _NEEDED)
    if subscription is None:
        services.drop_pending(subscription_id=subscription_id)
        return 0
    limit = 1 if circuit.is_suspect(subscription) else settings.WEBHOOK_ENDPOINT_CONCURRENCY
    if not slots.enter(subscription_id, limit=limit, is_suspect=circuit.is_suspect(subscription)):
        return 0
    more = False
    try:
        more = _serve(subscription)
    finally:
        left = slots.leave(subscription_id)
    return max(1, limit - left.taken) if more or left.was_asked else 0


def _serve(subscription: Row) -> bool:
    subscription_id, now = subscription["_id"], clock.now()
    sequencing.place(subscription_id=subscription_id, limit=PLACES_MAX)
    if not subscription["is_active"]:
        delivery.postpone(subscription_id=subscription_id, until=clock.after(now, LOOK_AGAIN_SECONDS))
        return False
    gate = circuit.gate(subscription, now=now)
    if gate is Gate.OPEN:
        delivery.postpone(subscription_id=subscription_id, until=subscription["paused_until"])
        return False
    probing_until = _probe(subscription_id, now) if gate is Gate.HALF_OPEN else None
    if gate is Gate.HALF_OPEN and probing_until is None:
        return False
    try:
        signers = secrets.signing_secrets(subscription["secrets"], now=now)
    except SealBroken:
        logger.exception("webhook secrets cannot be opened", extra={"subscription_id": subscription_id})
        delivery.postpone(
            subscription_id=subscription_id, until=clock.after(now, UNSEALED_LOOK_AGAIN_SECONDS)
        )
        return False
    with Line(subscription["url"]) as line:
        endpoint = Endpoint(subscription_id, signers, line)
        return _deliver(endpoint, is_failing=circuit.is_suspect(subscription), probing_until=probing_until)


def _probe(subscription_id: str, now: datetime) -> datetime | None:
    """Return until when the endpoint is this thread's to try, None when it is not, or nothing is due."""
    if not delivery.has_due(subscription_id=subscription_id, now=now):
        return None
    return circuit.take_probe(subscription_id=subscription_id, now=now)


def _deliver(endpoint: Endpoint, *, is_failing: bool, probing_until: datetime | None) -> bool:
    """Send what is due until the turn is over or a failure says to stop; return whether there may be more."""
    subscription_id = endpoint.subscription_id
    deadline = time.monotonic() + settings.WEBHOOK_TURN_SECONDS
    while time.monotonic() < deadline:
        row = delivery.claim(subscription_id=subscription_id, now=clock.now())
        if row is None:
            if not sequencing.place(subscription_id=subscription_id, limit=PLACES_MAX):
                return False
            continue
        failure = delivery.attempt(endpoint, row)
        if failure is not None:
            if circuit.note_failure(subscription_id=subscription_id, now=clock.now(), failure=failure):
                return False
        elif is_failing:
            circuit.note_success(subscription_id=subscription_id)
            if probing_until is not None:
                # Who looked while the circuit was being tried has had the others wait for that long.
                delivery.hasten(subscription_id=subscription_id, postponed_to=probing_until)
        is_failing = failure is not None
    return True
