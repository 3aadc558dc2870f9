"""What the transaction endpoints take. What they show is in body.py."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from rest_framework import serializers

from payflow.api.fields import (
    CurrencyField,
    RawAmountField,
    StrictCharField,
    StrictSerializer,
    in_minor_units,
)
from payflow.api.pages import CursorField, PageQuery
from transfers.selectors import Direction
from transfers.states import Status

DESCRIPTION_LENGTH_MAX = 140


class StartTransaction(StrictSerializer):
    """POST /transactions; adds `amount_minor`."""

    receiver_id = StrictCharField(required=False, max_length=64)
    receiver_email = StrictCharField(required=False, max_length=254)
    amount = RawAmountField()
    currency = CurrencyField(default=settings.DEFAULT_CURRENCY)
    description = StrictCharField(
        required=False, allow_blank=True, max_length=DESCRIPTION_LENGTH_MAX, default=""
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Require exactly one receiver; read the amount in the currency's minor units."""
        if ("receiver_id" in attrs) == ("receiver_email" in attrs):
            detail = serializers.ErrorDetail(
                "Name the receiver by receiver_id or by receiver_email.", "invalid"
            )
            raise serializers.ValidationError({"receiver_id": [detail]})
        return {**attrs, "amount_minor": in_minor_units(attrs["amount"], attrs["currency"])}


class ListQuery(PageQuery):
    """?status=&direction=&limit=&cursor=."""

    status = serializers.ChoiceField(choices=[status.value for status in Status], required=False)
    direction = serializers.ChoiceField(choices=[d.value for d in Direction], required=False)
    cursor = CursorField("txn_[0-9a-f]{32}")
