"""The headers that prove to a receiver that a delivery is ours: the Standard Webhooks specification, 1.0.0.

`webhook-id` is the event's id: the same for every attempt, for every repeat, and for every endpoint that
hears of the event, so it is what receivers deduplicate by. `webhook-timestamp` is the attempt's time, signed
with the rest, so a delivery that somebody has recorded cannot be played back later.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook

from payflow import clock


def signature_headers(
    *, message_id: str, attempted_at: datetime, payload: str, secrets: Sequence[str]
) -> dict[str, str]:
    """Return the three headers; each secret signs, the newest first, while former ones overlap."""
    signatures = [Webhook(secret).sign(message_id, attempted_at, payload) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(clock.epoch_ms(attempted_at) // 1000),
        "webhook-signature": " ".join(signatures),
    }
