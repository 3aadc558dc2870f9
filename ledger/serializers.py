"""What the ledger's endpoints take and give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from rest_framework import serializers

from ledger.monitor import Report
from ledger.simulation import MILLION, FailureType, Simulation
from payflow import clock
from payflow.api.describing import TIME
from payflow.api.fields import FlagField, StrictCharField, StrictSerializer

INVARIANTS = ("L1", "L2", "L3", "L4", "L5", "L6", "L7")
FAIL_TRANSACTION_IDS_MAX = 1_000
_TRANSACTION_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_RATE_STEP = Decimal(1) / MILLION


class RateField(serializers.Field):
    """A share from 0 to 1, as a JSON number of at most six decimal places."""

    json_schema = {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "description": "A share from 0 to 1, of at most six decimal places.",
    }
    default_error_messages = {
        "invalid": "A number is required.",
        "out_of_range": "The rate lies between 0 and 1.",
        "too_fine": "The rate has at most six decimal places.",
    }

    def to_internal_value(self, data: Any) -> int:
        """Return the rate per million."""
        if isinstance(data, bool) or not isinstance(data, (int, Decimal)):
            self.fail("invalid")
        if not 0 <= data <= 1:
            self.fail("out_of_range")
        rate = Decimal(data)
        rounded = rate.quantize(_RATE_STEP)
        if rounded != rate:
            self.fail("too_fine")
        return int(rounded * MILLION)


class TransactionIdField(StrictCharField):
    """The id of a transaction, which need not exist yet."""

    json_schema = {"type": "string", "pattern": f"^{_TRANSACTION_ID.pattern}$"}
    default_error_messages = {"invalid_id": "This cannot be the id of a transaction."}

    def to_internal_value(self, data: Any) -> str:
        """Return the id."""
        text = super().to_internal_value(data)
        if not _TRANSACTION_ID.fullmatch(text):
            self.fail("invalid_id")
        return text


class MomentField(serializers.CharField):
    """A time that is written down already."""

    json_schema = TIME


class SimulationInput(StrictSerializer):
    """POST /ledger/simulation: what is left out stays as it is."""

    enabled = FlagField(required=False)
    failure_rate = RateField(required=False)
    fail_transaction_ids = serializers.ListField(
        child=TransactionIdField(), required=False, max_length=FAIL_TRANSACTION_IDS_MAX
    )
    failure_type = serializers.ChoiceField(choices=[kind.value for kind in FailureType], required=False)

    def validate(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of `simulation.change`."""
        wanted = dict(attrs)
        if "failure_rate" in wanted:
            wanted["failure_per_million"] = wanted.pop("failure_rate")
        if "failure_type" in wanted:
            wanted["failure_type"] = FailureType(wanted["failure_type"])
        return wanted


class SimulationOutput(serializers.Serializer):
    """What is simulated; the same state always reads the same."""

    enabled = serializers.BooleanField()
    failure_rate = serializers.SerializerMethodField()
    fail_transaction_ids = serializers.SerializerMethodField()
    failure_type = serializers.ChoiceField(choices=[kind.value for kind in FailureType])

    def get_failure_rate(self, state: Simulation) -> float:
        """Return the share of credits that fail, 0 to 1."""
        return state.failure_per_million / MILLION

    def get_fail_transaction_ids(self, state: Simulation) -> list[str]:
        """Return the ids in order."""
        return sorted(state.fail_transaction_ids)


class InvariantOutput(serializers.Serializer):
    """Whether an invariant holds over everything that was verified."""

    holds = serializers.BooleanField()
    violations = serializers.IntegerField()


class ViolationOutput(serializers.Serializer):
    """Where something is broken, and since when it is known."""

    invariant = serializers.CharField()
    detail = serializers.CharField()
    wallet_id = serializers.CharField(allow_null=True)
    sequence = serializers.IntegerField(allow_null=True)
    transaction_id = serializers.CharField(allow_null=True)
    found_at = MomentField()


class LagOutput(serializers.Serializer):
    """What is not verified yet; `seconds` is null until every wallet has been visited once."""

    entries = serializers.IntegerField()
    seconds = serializers.FloatField(allow_null=True)


class HistoryOutput(serializers.Serializer):
    """The round that verifies all of the history anew."""

    began_at = MomentField(allow_null=True)
    last_ended_at = MomentField(allow_null=True)


class AuditOutput(serializers.Serializer):
    """The verdict of the continuous audit."""

    status = serializers.ChoiceField(choices=["CLEAN", "VIOLATED", "UNKNOWN"])
    checked_at = MomentField(allow_null=True)
    invariants = serializers.DictField(child=InvariantOutput())
    wallets_checked = serializers.IntegerField()
    entries_verified = serializers.IntegerField()
    lag = LagOutput()
    history = HistoryOutput()
    broken_wallets = serializers.ListField(child=serializers.CharField())
    violations = ViolationOutput(many=True)

    @classmethod
    def of(cls, report: Report) -> AuditOutput:
        """Return what shows a report."""
        return cls(
            {
                "status": report.status,
                "checked_at": _time(report.checked_at),
                "invariants": {name: _invariant(report.counts.get(name, 0)) for name in INVARIANTS},
                "wallets_checked": report.wallets,
                "entries_verified": report.entries,
                "lag": {"entries": report.behind_entries, "seconds": report.behind_seconds},
                "history": {
                    "began_at": _time(report.round_began_at),
                    "last_ended_at": _time(report.round_ended_at),
                },
                "broken_wallets": sorted({v["wallet_id"] for v in report.violations if v["wallet_id"]}),
                "violations": [{**v, "found_at": _time(v["found_at"])} for v in report.violations],
            }
        )


def _invariant(violations: int) -> dict[str, Any]:
    return {"holds": violations == 0, "violations": violations}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else clock.rfc3339(moment)
