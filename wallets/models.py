"""The wallets as the admin lists them. Unmanaged: `wallets/documents.py` is their truth."""

from __future__ import annotations

from django.db import models
from django_mongodb_backend.fields import ArrayField

from wallets.documents import Status


class WalletRow(models.Model):
    """One wallet, to be read."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=160)
    user_id = models.CharField(max_length=24)
    currency = models.CharField(max_length=3)
    status = models.CharField(max_length=16, choices=[(s.value, s.value) for s in Status])
    frozen_because = ArrayField(models.CharField(max_length=32), null=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "wallets"
        verbose_name = "wallet"
        permissions = [("deposit", "Can deposit money that arrives from outside")]

    def __str__(self) -> str:
        return self.id
