"""What the transaction endpoints take. What they show is in body.py."""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings
from rest_framework import serializers

from payflow import text
from payflow.api.fields import (
    CurrencyField,
    IdField,
    RawAmountField,
    StrictCharField,
    StrictSerializer,
    in_minor_units,
)
from payflow.api.pages import CursorField, PageQuery
from transfers.selectors import Direction
from transfers.states import Status

DESCRIPTION_LENGTH_MAX = 140
BATCH_SIZE_MAX = 1_000
_BATCH_ID = re.compile(r"bat_[0-9a-f]{32}", re.ASCII)
_REFERENCE = re.compile(r"[A-Za-z0-9._:/-]{1,64}", re.ASCII)


class DescriptionField(StrictCharField):
    """Text of the sender's own, kept exactly: any script, emoji, joiners and direction marks.

    Refused is what could break a line, end a string, hide text, or turn the text around it where the
    receiver reads it (`payflow/text.py`).
    """

    default_error_messages = {
        "invalid_text": "The description must be one line of visible text, without control characters."
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_blank=True, max_length=DESCRIPTION_LENGTH_MAX, default="", **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the text untouched."""
        sent = super().to_internal_value(data)
        if sent and not text.is_visible(sent):
            self.fail("invalid_text")
        return sent


class ReceiverEmailField(StrictCharField):
    """The email of whoever is paid, in any case. What is no email is nobody's."""

    def to_internal_value(self, data: Any) -> str:
        """Return the one spelling that is compared."""
        address = text.email_spelling(super().to_internal_value(data))
        if not address:
            self.fail("blank")
        return address


class SenderReferenceField(StrictCharField):
    """The sender's own name for a transfer, kept exactly: an invoice number, a payroll line."""

    json_schema = {
        "type": "string",
        "pattern": f"^{_REFERENCE.pattern}$",
        "description": "Your own name for the transfer, such as an invoice number. It names one transfer "
        "for ever: a second one with it is refused.",
    }
    default_error_messages = {
        "invalid_reference": "A reference is 1 to 64 characters of A-Z, a-z, 0-9 and . _ : / -."
    }

    def __init__(self) -> None:
        super().__init__(required=False)

    def to_internal_value(self, data: Any) -> str:
        """Return the reference."""
        reference = super().to_internal_value(data)
        if not _REFERENCE.fullmatch(reference):
            self.fail("invalid_reference")
        return reference


class NamedReferenceField(SenderReferenceField):
    """The reference of a transfer that was sent."""

    json_schema = {
        **SenderReferenceField.json_schema,
        "description": "Only the one that you have sent under this name of yours.",
    }


class BatchIdField(StrictCharField):
    """The id of a batch."""

    json_schema = {"type": "string", "pattern": "^bat_[0-9a-f]{32}$"}
    default_error_messages = {"invalid_id": "This cannot be the id of a batch."}

    def to_internal_value(self, data: Any) -> str:
        """Return the id."""
        batch_id = super().to_internal_value(data)
        if not _BATCH_ID.fullmatch(batch_id):
            self.fail("invalid_id")
        return batch_id


class StartTransaction(StrictSerializer):
    """POST /transactions; adds `amount_minor`."""

    receiver_id = IdField(
        required=False,
        max_length=64,
        help_text="The user who is paid. Send this or `receiver_email`, not both.",
    )
    receiver_email = ReceiverEmailField(
        required=False,
        max_length=text.EMAIL_LENGTH_MAX,
        help_text="The email of the user who is paid. Send this or `receiver_id`, not both.",
    )
    amount = RawAmountField()
    currency = CurrencyField(
        default=settings.DEFAULT_CURRENCY, help_text="The currency of the amount and of both wallets."
    )
    description = DescriptionField(
        help_text="Words for the receiver, kept exactly: one line without control characters."
    )
    reference = SenderReferenceField()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Require exactly one receiver; read the amount in the currency's minor units."""
        if ("receiver_id" in attrs) == ("receiver_email" in attrs):
            detail = serializers.ErrorDetail(
                "Name the receiver by receiver_id or by receiver_email.", "invalid"
            )
            raise serializers.ValidationError({"receiver_id": [detail]})
        return {**attrs, "amount_minor": in_minor_units(attrs["amount"], attrs["currency"])}


class TransfersField(serializers.Field):
    """A list of transfers as sent: each is validated for itself, by StartTransaction."""

    json_schema = {
        "type": "array",
        "minItems": 1,
        "maxItems": BATCH_SIZE_MAX,
        "items": StartTransaction,
        "description": "Each is accepted or refused for itself; one that is not valid is refused in the "
        "answer.",
    }
    default_error_messages = {
        "not_a_list": "Send a list of transfers.",
        "size": f"A batch holds 1 to {BATCH_SIZE_MAX} transfers.",
    }

    def to_internal_value(self, data: Any) -> list[Any]:
        """Return the list untouched."""
        if not isinstance(data, list):
            self.fail("not_a_list")
        if not 1 <= len(data) <= BATCH_SIZE_MAX:
            self.fail("size")
        return data


class StartBatch(StrictSerializer):
    """POST /transactions/batch."""

    transfers = TransfersField()


class ListQuery(PageQuery):
    """?status=&direction=&batch=&reference=&limit=&cursor=."""

    status = serializers.ChoiceField(
        choices=[status.value for status in Status], required=False, help_text="Only those in this status."
    )
    direction = serializers.ChoiceField(
        choices=[d.value for d in Direction], required=False, help_text="Only those sent, or those received."
    )
    batch = BatchIdField(required=False, help_text="Only those of this batch; staff see all of them.")
    reference = NamedReferenceField()
    cursor = CursorField("txn_[0-9a-f]{32}")
