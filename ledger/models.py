"""The ledger's entries as the admin lists them. Unmanaged: `ledger/documents.py` is their truth."""

from __future__ import annotations

from typing import Any

from django.db import models

from ledger.chain import Kind


class EntryRow(models.Model):
    """One ledger entry, to be read."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=160)
    wallet_id = models.CharField(max_length=160)
    sequence = models.BigIntegerField()
    kind = models.CharField(max_length=16, choices=[(k.value, k.value) for k in Kind])
    amount_minor = models.BigIntegerField()
    balance_minor = models.BigIntegerField()
    requested_minor = models.BigIntegerField(null=True)
    currency = models.CharField(max_length=3)
    contra = models.CharField(max_length=16)
    transaction_id = models.CharField(max_length=160, null=True)
    reason = models.CharField(max_length=255, null=True)
    created_at = models.DateTimeField()
    previous_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)
    key_id = models.CharField(max_length=64, null=True)
    mac = models.CharField(max_length=64, null=True)

    def as_document(self) -> dict[str, Any]:
        """Return the row as it is stored."""
        return {field.column: getattr(self, field.attname) for field in self._meta.concrete_fields}

    class Meta:
        managed = False
        db_table = "ledger_entries"
        verbose_name = "ledger entry"
        verbose_name_plural = "ledger entries"
        permissions = [
            ("view_audit", "Can see the audit report"),
            ("change_simulation", "Can simulate failures (never in production)"),
        ]

    def __str__(self) -> str:
        return self.id
