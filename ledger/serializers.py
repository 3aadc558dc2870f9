"""What the ledger's endpoints take and give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from rest_framework import serializers

from ledger.monitor import Report, Round
from ledger.simulation import MILLION, FailureType, Simulation
from payflow import clock
from payflow.api.describing import TIME
from payflow.api.fields import FlagField, StrictCharField, StrictSerializer

INVARIANTS = ("L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8")
FAIL_TRANSACTION_IDS_MAX = 1_000
FAILURE_TYPE = "How a credit fails: it is refused (ERROR), or does not answer in time (TIMEOUT)."
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

    enabled = FlagField(required=False, help_text="Whether anything is simulated.")
    failure_rate = RateField(
        required=False, help_text="The share of credits that fail: 0 to 1, with at most six decimal places."
    )
    fail_transaction_ids = serializers.ListField(
        child=TransactionIdField(),
        required=False,
        max_length=FAIL_TRANSACTION_IDS_MAX,
        help_text="Transactions whose credits fail in any case; they need not exist yet.",
    )
    failure_type = serializers.ChoiceField(
        choices=[kind.value for kind in FailureType], required=False, help_text=FAILURE_TYPE
    )

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

    enabled = serializers.BooleanField(help_text="Whether anything is simulated.")
    failure_rate = serializers.SerializerMethodField(help_text="The share of credits that fail, 0 to 1.")
    fail_transaction_ids = serializers.SerializerMethodField(
        help_text="Transactions whose credits fail in any case."
    )
    failure_type = serializers.ChoiceField(
        choices=[kind.value for kind in FailureType], help_text=FAILURE_TYPE
    )

    def get_failure_rate(self, state: Simulation) -> float:
        """Return the share of credits that fail, 0 to 1."""
        return state.failure_per_million / MILLION

    def get_fail_transaction_ids(self, state: Simulation) -> list[str]:
        """Return the ids in order."""
        return sorted(state.fail_transaction_ids)


class InvariantOutput(serializers.Serializer):
    """Whether an invariant holds over everything that was verified."""

    holds = serializers.BooleanField(help_text="Whether nothing is known that breaks it.")
    violations = serializers.IntegerField(help_text="In how many places it is broken.")


class ViolationOutput(serializers.Serializer):
    """Where something is broken, and since when it is known."""

    invariant = serializers.CharField(help_text="The invariant, L1 to L8.")
    detail = serializers.CharField(help_text="A sentence for people.")
    wallet_id = serializers.CharField(allow_null=True, help_text="The wallet, if it is in one.")
    sequence = serializers.IntegerField(allow_null=True, help_text="The entry in that wallet, if it is one.")
    transaction_id = serializers.CharField(allow_null=True, help_text="The transaction, if it is in one.")
    found_at = MomentField(help_text="When it was found.")


class LagOutput(serializers.Serializer):
    """What is not verified yet; `seconds` is null until every wallet has been visited once."""

    entries = serializers.IntegerField(help_text="How many entries are not verified yet.")
    seconds = serializers.FloatField(allow_null=True, help_text="How long ago everything was verified.")


class RoundOutput(serializers.Serializer):
    """A round that verifies everything again."""

    began_at = MomentField(allow_null=True, help_text="When the round that runs now began.")
    visited = serializers.IntegerField(help_text="How many entries, or transactions, it has visited so far.")
    last_ended_at = MomentField(allow_null=True, help_text="When the last round ended.")


class BeginningOutput(serializers.Serializer):
    """Who had the audit's record begin, and why."""

    at = MomentField(help_text="When it began.")
    by = serializers.CharField(help_text="Who accepted it: PayFlow itself while the ledger was empty.")
    reason = serializers.CharField(help_text="Why.")
    instead_of = serializers.CharField(help_text="What was wrong with the record before, empty if nothing.")


class AuditOutput(serializers.Serializer):
    """The verdict of the continuous audit."""

    status = serializers.ChoiceField(
        choices=["CLEAN", "VIOLATED", "UNVERIFIED", "UNKNOWN"],
        help_text="VIOLATED while an invariant is broken; UNVERIFIED while the audit's own record is "
        "missing, altered or older than one seen before; UNKNOWN while no audit has run for a while.",
    )
    unverified = serializers.CharField(
        allow_null=True, help_text="Why the audit's own record cannot be trusted, a sentence for people."
    )
    beginning = BeginningOutput(
        allow_null=True, help_text="When the audit's record began; everything before counts as accepted."
    )
    checked_at = MomentField(allow_null=True, help_text="When the audit last looked.")
    invariants = serializers.DictField(child=InvariantOutput(), help_text="Each invariant by its name.")
    wallets_checked = serializers.IntegerField(help_text="How many wallets have been looked at.")
    entries_verified = serializers.IntegerField(help_text="How many ledger entries have been verified.")
    lag = LagOutput(help_text="What is not verified yet.")
    history = RoundOutput(help_text="The round over all ledger entries.")
    transactions = RoundOutput(
        help_text="The round over all transactions, which looks for the entries that each must have."
    )
    broken_wallets = serializers.ListField(
        child=serializers.CharField(), help_text="The ids of the wallets in which something is broken."
    )
    violations = ViolationOutput(many=True, help_text="What is known to be broken, the first of it.")

    @classmethod
    def of(cls, report: Report) -> AuditOutput:
        """Return what shows a report."""
        return cls(
            {
                "status": report.status,
                "unverified": report.unverified or None,
                "beginning": _beginning(report.beginning),
                "checked_at": _time(report.checked_at),
                "invariants": {name: _invariant(report.counts.get(name, 0)) for name in INVARIANTS},
                "wallets_checked": report.wallets,
                "entries_verified": report.entries,
                "lag": {"entries": report.behind_entries, "seconds": report.behind_seconds},
                "history": _round(report.rounds["entries"]),
                "transactions": _round(report.rounds["transactions"]),
                "broken_wallets": sorted({v["wallet_id"] for v in report.violations if v["wallet_id"]}),
                "violations": [{**v, "found_at": _time(v["found_at"])} for v in report.violations],
            }
        )


def _invariant(violations: int) -> dict[str, Any]:
    return {"holds": violations == 0, "violations": violations}


def _beginning(beginning: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if beginning is None else {**beginning, "at": _time(beginning["at"])}


def _round(round_: Round) -> dict[str, Any]:
    return {
        "began_at": _time(round_.began_at),
        "visited": round_.visited,
        "last_ended_at": _time(round_.ended_at),
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else clock.rfc3339(moment)
