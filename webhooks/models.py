"""Webhooks as the admin lists them. Unmanaged: `webhooks/documents.py` is their truth. Without secrets."""

from __future__ import annotations

from django.db import models
from django_mongodb_backend.fields import ArrayField

from webhooks.documents import DeliveryStatus, DisabledBecause


class SubscriptionRow(models.Model):
    """One endpoint, to be read."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=160)
    user_id = models.CharField(max_length=24)
    url = models.CharField("URL", max_length=2_048)
    events = ArrayField(models.CharField(max_length=64), null=True)
    is_active = models.BooleanField("active")
    disabled_because = models.CharField(
        max_length=16, null=True, choices=[(each.value, each.value) for each in DisabledBecause]
    )
    consecutive_failures = models.IntegerField("failures in a row", null=True)
    failing_since = models.DateTimeField(null=True)
    paused_until = models.DateTimeField(null=True)
    held_since = models.DateTimeField(null=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "webhook_subscriptions"
        verbose_name = "webhook"

    def __str__(self) -> str:
        return self.id


class DeliveryRow(models.Model):
    """One delivery, to be read; its attempts are read from the document itself, its body from its event."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=160)
    subscription_id = models.CharField(max_length=160)
    event_id = models.CharField(max_length=200)
    sequence = models.BigIntegerField(null=True)
    status = models.CharField(max_length=16, choices=[(each.value, each.value) for each in DeliveryStatus])
    attempt_count = models.IntegerField("attempts", null=True)
    next_attempt_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "webhook_deliveries"
        verbose_name = "delivery"
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return self.id
