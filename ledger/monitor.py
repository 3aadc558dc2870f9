"""The continuous audit: each tick verifies what is new, and a slice of what is old, and stores the verdict.

What must stay true:
- A tick is bounded, whatever the ledger holds; what it leaves, the next ones take up.
- Ticks may run anywhere, several at once: of two that write, one is overtaken and ends.
- It raises no false alarm (`ledger/checkpoints.py` tells why), for an alarm freezes a wallet.
- When its own record cannot be trusted (`ledger/audit_record.py`), it stops and says so, and freezes nobody.
- A wallet about which something is open stays frozen, whoever thaws it in the database.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from ledger import audit_record, audit_steps, findings, seen
from ledger.audit_record import (
    CHECKPOINTS,
    Overtaken,
    Reading,
    Record,
    Unverified,
)
from ledger.audit_steps import ROUNDS, Tick
from ledger.crosscheck import Transactions
from ledger.documents import LedgerEntry
from ledger.incremental import Verifier
from ledger.verification import Document
from payflow import clock, health, metrics
from payflow.mongodb import collection, unavailable_is_transient

logger = logging.getLogger(__name__)

LISTED_MAX = 100
# The verdict is of no use any more when no tick has come for so many intervals.
STALE_TICKS = 6
STALE_SECONDS_MIN = 60.0


def tick(*, transactions: Transactions | None, freeze: findings.Freeze) -> Tick:
    """Verify what is new and a slice of what is old. `freeze` is called for a wallet whose chain is broken.

    Without `transactions`, what needs them (L7) is left out. Raises Transient when MongoDB does not answer.
    """
    started, now = time.perf_counter(), clock.now()
    with unavailable_is_transient():
        try:
            record = audit_record.load()
        except Unverified as reason:
            logger.error("the audit's record cannot be trusted", extra={"reason": str(reason)})
            metrics.AUDIT_CLEAN.set(0)
            metrics.AUDIT_VERIFIED.set(0)
            return Tick(is_halted=True)
        verifier = Verifier(
            record,
            transactions=transactions,
            freeze=freeze,
            now=now,
            deadline=time.monotonic() + settings.AUDIT_TICK_SECONDS_MAX,
            suspected=audit_steps.suspected_wallets(record.state),
        )
        done = Tick()
        try:
            _run(verifier, record, done, now, started)
        except Overtaken:
            # What was verified and written down until now stands; the other tick goes on.
            return Tick(verifier.verified, news=verifier.news, is_overtaken=True)
        finally:
            seen.share()
    _measure(record, done, now)
    return done


def _measure(record: Record, done: Tick, now: datetime) -> None:
    is_verified = record.state["unverified"] is None
    is_clean = is_verified and not findings.count_open(record.beginning)
    metrics.AUDIT_CLEAN.set(is_clean)
    metrics.AUDIT_VERIFIED.set(is_verified)
    metrics.AUDIT_TIMESTAMP.set(now.timestamp())
    metrics.AUDIT_BEHIND.set(done.behind)
    for name, round_ in record.state["position"]["rounds"].items():
        metrics.AUDIT_ROUND_VISITED.labels(name).set(round_["visited"])
        metrics.AUDIT_ROUND_BEGAN.labels(name).set(round_["began_at"].timestamp())
    metrics.LEDGER_VERIFIED.inc(done.verified)
    if done.verified or done.news:
        logger.info("ledger audited", extra={**_figures(done), "clean": is_clean})


def _run(verifier: Verifier, record: Record, done: Tick, now: datetime, started: float) -> None:
    """Add up the record again, take the readings, and store position and verdict."""
    found = audit_steps.add_up(record, now)
    position = {"wallets": "", "history": None, "transactions": None, **record.state["position"]}
    position.setdefault("rounds", {name: audit_steps.new_round(now) for name in ROUNDS})
    changes = audit_steps.look(verifier, record, position, done, now)
    verifier.check_ground()
    verifier.write_down()
    verifier.check_again(found)
    verifier.write_down()
    done.verified, done.news = verifier.verified, verifier.news
    done.seconds = time.perf_counter() - started
    _store(record, {**changes, "position": position}, done, now)


def _store(record: Record, fields: dict[str, Any], done: Tick, now: datetime) -> None:
    """Store the position and the verdict."""
    entries = fields.pop("entries", record.state["verdict"].get("entries", 0) + done.verified)
    verdict = {
        "at": now,
        "wallets": record.state["registers"][CHECKPOINTS]["count"],
        "entries": entries,
        "stored": collection(LedgerEntry).estimated_document_count(),
        **_figures(done),
    }
    record.commit(**fields, verdict=verdict)


def _figures(done: Tick) -> dict[str, Any]:
    return {
        "verified": done.verified,
        "reverified": done.reverified,
        "behind": done.behind,
        "news": done.news,
        "milliseconds": round(done.seconds * 1000),
    }


@dataclass(frozen=True, slots=True)
class Round:
    """How far a round has come that verifies everything anew."""

    began_at: datetime | None = None
    # When the round before it ended.
    ended_at: datetime | None = None
    visited: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What the continuous audit has to say; `violations` are the first LISTED_MAX that are open."""

    status: str
    # Why no verdict rests on the audit's record, else an empty string.
    unverified: str
    checked_at: datetime | None
    violations: list[dict[str, Any]]
    counts: dict[str, int]
    wallets: int
    entries: int
    behind_entries: int
    behind_seconds: float | None
    # By their names, those of ROUNDS.
    rounds: dict[str, Round]
    # Who began the record, when and why: at, by, reason, instead_of.
    beginning: dict[str, Any] | None


def latest() -> Report:
    """Return the latest verdict. Raises Transient.

    VIOLATED: something is open. UNVERIFIED: the audit's own record is not what it has written last. UNKNOWN:
    no audit has run for a while. CLEAN: none of these.
    """
    with unavailable_is_transient():
        reading = audit_record.read_state()
        state, unverified, is_doubtful = trusted(reading)
        beginning = state.get("beginning", 0)
        counts = findings.count_open(beginning)
        violations = findings.list_open(beginning, limit=LISTED_MAX)
    verdict, position = state.get("verdict") or {}, state.get("position") or {}
    now, checked_at, caught_up_at = clock.now(), verdict.get("at"), position.get("caught_up_at")
    behind = verdict.get("behind", 0)
    is_complete = state.get("complete_since") is not None
    if not is_complete:
        # Nobody has looked everywhere yet; the difference is an estimate.
        behind = max(behind, verdict.get("stored", 0) - verdict.get("entries", 0))
    is_known = checked_at is not None and not _is_stale(checked_at, now) and not is_doubtful
    otherwise = "UNVERIFIED" if unverified else "CLEAN" if is_known else "UNKNOWN"
    return Report(
        status="VIOLATED" if counts else otherwise,
        unverified=unverified,
        checked_at=checked_at,
        violations=violations,
        counts=counts,
        wallets=verdict.get("wallets", 0),
        entries=verdict.get("entries", 0),
        behind_entries=behind,
        behind_seconds=(now - caught_up_at).total_seconds() if is_complete and caught_up_at else None,
        rounds={name: Round(**position.get("rounds", {}).get(name, {})) for name in ROUNDS},
        beginning=state["beginnings"][-1] if state.get("beginnings") else None,
    )


def trusted(reading: Reading) -> tuple[Document, str, bool]:
    """Return the state as far as it can be trusted, why it cannot, and whether that may pass."""
    if not reading.fault:
        seen.trust()
        state = reading.state or {}
        return state, (state.get("unverified") or {}).get("reason", ""), False
    is_certain = seen.doubted_for() >= audit_record.DOUBT_SECONDS or not reading.may_pass
    # What is genuine may still be shown: only it is not the latest.
    is_genuine = reading.state is not None and reading.may_pass
    state = reading.state if is_genuine and reading.state else {}
    return state, reading.fault if is_certain else "", True


def _is_stale(moment: datetime, now: datetime) -> bool:
    seconds = max(STALE_SECONDS_MIN, STALE_TICKS * settings.AUDIT_EVERY_SECONDS)
    return now - moment >= timedelta(seconds=seconds)


def report_health() -> health.Report:
    """Say what the audit's verdict is, how old, and how far its rounds are: well when it is CLEAN."""
    report, now = latest(), clock.now()

    def age(moment: datetime | None) -> float | None:
        return None if moment is None else round((now - moment).total_seconds(), 3)

    rounds_ = {
        name: {
            "visited": round_.visited,
            "age_seconds": age(round_.began_at),
            "last_ended_seconds": age(round_.ended_at),
        }
        for name, round_ in report.rounds.items()
    }
    facts = {"status": report.status, "age_seconds": age(report.checked_at), "rounds": rounds_}
    # Before its first tick it has nothing to say.
    is_new = report.status == "UNKNOWN" and report.checked_at is None
    if is_new and report.beginning is not None:
        is_new = not _is_stale(report.beginning["at"], now)
    return health.Report(report.status == "CLEAN" or is_new, facts)
