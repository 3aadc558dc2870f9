"""What webhooks refuse."""

from __future__ import annotations

from payflow.errors import NotFound, Refused


class WebhookNotFound(NotFound):
    """The user has no such webhook."""


class DeliveryNotFound(NotFound):
    """The webhook has no such delivery."""


class WebhookLimit(Refused):
    """The user has as many webhooks as they may."""

    code = "webhook_limit"
    status = 409
    title = "Too many webhooks"
    advice = "Delete one that is not needed, or change one instead."


class WebhookDisabled(Refused):
    """Nothing is sent to an endpoint that is disabled."""

    code = "webhook_disabled"
    status = 409
    title = "Webhook disabled"
    advice = "Enable it with `PATCH /webhooks/{id}` and `is_active` true once it answers again."


class DisabledByStaff(Refused):
    """What staff have disabled only staff enable."""

    code = "webhook_disabled_by_staff"
    status = 409
    title = "Webhook disabled by staff"
    advice = "Ask support why, and to enable it again."


class DeliveryPending(Refused):
    """The delivery is on its way already."""

    code = "delivery_pending"
    status = 409
    title = "Delivery under way"
    advice = "Wait: it is tried until it succeeds or becomes a dead letter."


class UrlRefused(Refused):
    """Nothing is sent to such an address."""

    code = "webhook_url_refused"
    title = "Webhook URL refused"
    advice = "Send a URL of a host that everyone can reach, such as https://example.com/hooks."

    def __init__(self, detail: str) -> None:
        super().__init__(detail, field="url")


class InvalidSecret(Refused):
    """The text is no signing secret of the Standard Webhooks form."""

    code = "invalid_secret"
    title = "Invalid secret"
    advice = "Leave `secret` out to get a new one, or send `whsec_` and 24 to 64 random bytes in base64."

    def __init__(self, detail: str) -> None:
        super().__init__(detail, field="secret")


class SealBroken(Exception):  # noqa: N818 - it reads as what happened
    """A stored secret cannot be opened with any of WEBHOOK_SECRET_KEYS: one of them is missing."""
