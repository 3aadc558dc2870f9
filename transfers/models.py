"""Transactions and notices as the admin lists them. Unmanaged: `transfers/documents.py` is their truth."""

from __future__ import annotations

from django.db import models

from transfers.documents import NoticeStatus
from transfers.states import Settlement, Status


class TransactionRow(models.Model):
    """One transaction, to be read; its history and failure are read from the document itself."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=160)
    sender_id = models.CharField(max_length=24)
    receiver_id = models.CharField(max_length=24)
    sender_wallet_id = models.CharField(max_length=160)
    receiver_wallet_id = models.CharField(max_length=160)
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    description = models.CharField(max_length=255, null=True)
    status = models.CharField(max_length=16, choices=[(s.value, s.value) for s in Status])
    settlement = models.CharField(max_length=16, null=True, choices=[(s.value, s.value) for s in Settlement])
    initiated_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(null=True)
    attempts = models.IntegerField()
    needs_attention = models.BooleanField()
    correlation_id = models.CharField(max_length=128, null=True)

    class Meta:
        managed = False
        db_table = "transactions"
        verbose_name = "transaction"

    def __str__(self) -> str:
        return self.id


class NoticeRow(models.Model):
    """One e-mail, to be read; its attempts are read from the document itself."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=160)
    kind = models.CharField(max_length=32)
    user_id = models.CharField(max_length=24)
    event_id = models.CharField(max_length=240)
    transaction_id = models.CharField(max_length=160, null=True)
    status = models.CharField(max_length=16, choices=[(s.value, s.value) for s in NoticeStatus])
    attempt_count = models.IntegerField(null=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    next_attempt_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "notices"
        verbose_name = "notice"

    def __str__(self) -> str:
        return self.id
