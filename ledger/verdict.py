"""What an audit finds: violations (all counted, the first of them kept), sums per currency, counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from ledger.verification import Document, Fault
from payflow import clock

VIOLATIONS_KEPT_MAX = 100


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant and where it shows."""

    invariant: str
    detail: str
    wallet_id: str | None = None
    sequence: int | None = None
    transaction_id: str | None = None

    def __str__(self) -> str:
        place = [f"wallet {self.wallet_id} #{self.sequence}"] if self.wallet_id else []
        place += [f"transaction {self.transaction_id}"] if self.transaction_id else []
        return f"{' '.join([self.invariant, ', '.join(place)]).strip()}: {self.detail}"


@dataclass(slots=True)
class Sums:
    """The money of one currency, in minor units."""

    deposits: int = 0
    withdrawals: int = 0
    clearing: int = 0
    balances: int = 0
    in_flight: int = 0

    def add_flow(self, entry: Document) -> None:
        """Add what a well-formed entry moves between its wallet and the other side."""
        amount = entry["amount_minor"]
        if entry["contra"] == "clearing":
            self.clearing += amount
        elif amount > 0:
            self.deposits += amount
        else:
            self.withdrawals -= amount

    def faults(self) -> list[Fault]:
        """Return which of L5 and L6 these sums break."""
        faults = []
        if self.clearing != -self.in_flight:
            faults.append(
                Fault("L5", f"clearing holds {-self.clearing}, debited and not settled are {self.in_flight}")
            )
        if self.balances != self.deposits - self.withdrawals - self.in_flight:
            faults.append(
                Fault(
                    "L6",
                    f"balances {self.balances} are not deposits {self.deposits} - withdrawals "
                    f"{self.withdrawals} - in flight {self.in_flight}",
                )
            )
        return faults


@dataclass(slots=True)
class Verdict:
    """The outcome of an audit. It is clean when nothing is violated."""

    entries: int = 0
    wallets: int = 0
    transactions: int = 0
    in_flight: int = 0
    seconds: float = 0.0
    sums: dict[str, Sums] = field(default_factory=dict)
    # Set when money moved meanwhile, and the sums are over what is older than this.
    sums_until: datetime | None = None
    violations: list[Violation] = field(default_factory=list)
    violations_count: int = 0
    # Why the record of the continuous audit cannot be trusted, else an empty string.
    unverified: str = ""

    @property
    def status(self) -> str:
        """CLEAN when every invariant holds and the audit's record says so, too."""
        return "VIOLATED" if self.violations_count else "UNVERIFIED" if self.unverified else "CLEAN"

    @property
    def is_clean(self) -> bool:
        """Say whether every invariant holds, and nothing speaks against the audit's record."""
        return self.status == "CLEAN"

    @property
    def entries_per_second(self) -> float:
        """How fast the ledger was read."""
        return self.entries / self.seconds if self.seconds else 0.0

    def add(self, violation: Violation) -> None:
        """Count a violation; keep it if it is among the first."""
        self.violations_count += 1
        if len(self.violations) < VIOLATIONS_KEPT_MAX:
            self.violations.append(violation)

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict for JSON."""
        verdict = {"status": self.status, "clean": self.is_clean, **asdict(self)}
        verdict["seconds"] = round(self.seconds, 3)
        verdict["sums_until"] = clock.rfc3339(self.sums_until) if self.sums_until else None
        return verdict


class Tally:
    """What a running audit adds up. `all` is what was seen, `aged` what is older than `cut`.

    `on_violation` is called with every violation: the verdict keeps only the first of them.
    """

    def __init__(self, cut: datetime, on_violation: Callable[[Violation], None] | None = None) -> None:
        self.verdict = Verdict()
        self._on_violation = on_violation
        self.cut = cut
        self.all: dict[str, Sums] = defaultdict(Sums)
        self.aged: dict[str, Sums] = defaultdict(Sums)

    def report(self, fault: Fault, entry: Document | None = None, transaction_id: str | None = None) -> None:
        """Add a violation, at an entry or about a transaction as a whole."""
        wallet_id = sequence = None
        if entry is not None:
            wallet_id, sequence = str(entry.get("wallet_id")), entry.get("sequence")
            transaction_id = transaction_id or entry.get("transaction_id")
        violation = Violation(fault.invariant, fault.detail, wallet_id, sequence, transaction_id)
        self.verdict.add(violation)
        if self._on_violation is not None:
            self._on_violation(violation)

    def judge_sums(self, *, is_moving: bool) -> None:
        """Report broken sums (L5, L6), and hand the sums to the verdict.

        While money moves, the two sides were read at different times: what is older than the cut counts.
        """
        for currency, sums in sorted(self.all.items()):
            if is_moving and sums.faults() and not self.aged[currency].faults():
                self.verdict.sums[currency], self.verdict.sums_until = self.aged[currency], self.cut
                continue
            self.verdict.sums[currency] = sums
            for fault in sums.faults():
                self.report(Fault(fault.invariant, f"{currency}: {fault.detail}"))
