"""What a drill did and found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from payflow.money import format_amount
from payflow.stack.drill.answers import Times


@dataclass(slots=True)
class Report:
    """The outcome of a drill; all is well when `wrong` is empty."""

    seed: int
    seconds: float
    operations: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    doubts: int = 0
    duplicated_messages: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    points_missing: list[str] = field(default_factory=list)
    webhooks: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    recoveries: dict[str, dict[str, float]] = field(default_factory=dict)
    answers: dict[str, Times] = field(default_factory=dict)
    calm_after_seconds: float = 0.0
    money_gained_minor: dict[str, int] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {"clean": self.is_clean, **asdict(self)}

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        yield f"Failure drill: {self.seconds:.0f} s of load and faults, seed {self.seed}"
        yield ""
        yield from _load_lines(self)
        yield ""
        yield from _fault_lines(self)
        yield ""
        yield from _answer_lines(self)
        yield ""
        yield from _point_lines(self)
        yield ""
        yield from _money_lines(self)
        yield ""
        if self.is_clean:
            yield "Nothing is wrong: the ledger, the audit and what the clients were told agree."
            return
        yield f"{len(self.wrong)} things are wrong:"
        yield from (f"  {sentence}" for sentence in self.wrong)


def _load_lines(report: Report) -> Iterator[str]:
    yield "Load"
    for kind, count in report.operations.items():
        yield f"  {kind:<12}{count:>7} wanted {report.accepted.get(kind, 0):>7} accepted"
    total = sum(report.requests.values())
    yield f"  {total} requests, of which {report.doubts} left it open what they had done and were repeated"
    for result, count in sorted(report.requests.items(), key=lambda item: -item[1]):
        yield f"    {result:<36}{count:>7}"


def _fault_lines(report: Report) -> Iterator[str]:
    yield "Faults, and the time until all that was under way had ended and health was good again"
    yield f"  {'kind':<16}{'times':>6}{'p50':>9}{'max':>9}"
    for kind, count in report.faults.items():
        felt = report.recoveries.get(kind)
        times = f"{felt['p50_seconds']:>7.1f} s{felt['max_seconds']:>7.1f} s" if felt else ""
        yield f"  {kind:<16}{count:>6}{times}"
    yield f"  messages delivered twice: {report.duplicated_messages}"
    yield "  restarts: " + ", ".join(f"{name} {count}" for name, count in report.restarts.items())


def _answer_lines(report: Report) -> Iterator[str]:
    yield "Answers to requests that were under way during a fault; what was refused, or not answered in 10 s"
    yield f"  {'fault':<16}{'requests':>9}{'p50':>9}{'p95':>9}{'max':>9}"
    for kind, times in sorted(report.answers.items(), key=lambda item: item[1].p95_seconds):
        seconds = "".join(f"{s:>7.2f} s" for s in (times.p50_seconds, times.p95_seconds, times.max_seconds))
        refused = ", ".join(f"{count} x {refusal}" for refusal, count in times.refusals.items())
        yield f"  {kind:<16}{times.requests:>9}{seconds}  {refused}".rstrip()


def _point_lines(report: Report) -> Iterator[str]:
    total = len(report.points) + len(report.points_missing)
    yield f"Crash points: {len(report.points)} of {total} hit"
    names = sorted(report.points)
    for left, right in zip(names[::2], [*names[1::2], ""], strict=False):
        pair = [f"{name} x {report.points[name]}" for name in (left, right) if name]
        yield "  " + "".join(f"{text:<38}" for text in pair).rstrip()
    if report.points_missing:
        yield f"  missing: {', '.join(report.points_missing)}"


def _money_lines(report: Report) -> Iterator[str]:
    yield "Transactions: " + ", ".join(f"{count} {name}" for name, count in sorted(report.outcomes.items()))
    if report.webhooks:
        counts = report.webhooks
        yield f"Webhooks: {counts['requests']} requests, {counts['refused']} refused on purpose"
    yield f"Quiet {report.calm_after_seconds:.1f} s after the last fault"
    if report.audit:
        verdict = "clean" if report.audit.get("clean") else "NOT clean"
        counted = f"{report.audit.get('entries')} entries of {report.audit.get('wallets')} wallets"
        yield f"Audit L1-L8: {verdict}, {counted}"
    yield "Money created or lost: " + _amounts(report.money_gained_minor)


def _amounts(gained: Mapping[str, int]) -> str:
    texts = [f"{format_amount(minor, currency)} {currency}" for currency, minor in sorted(gained.items())]
    return ", ".join(texts) or "unknown"
