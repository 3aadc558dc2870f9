"""The continuous audit: each tick verifies what is new, and a slice of what is old, and stores the verdict.

What must stay true:
- A tick is bounded, whatever the ledger holds; what it leaves, the next ones take up.
- Ticks may run anywhere, several at once: findings and checkpoints are written by conditional updates, and of
  two ticks that began at the same place one has its position stored.
- It raises no false alarm (`ledger/checkpoints.py` tells why), for an alarm freezes a wallet.
- When its own record was tampered with, or the key was lost, it stops and says so, and freezes nobody.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from django.conf import settings
from pymongo.errors import DuplicateKeyError, ExecutionTimeout

from ledger import checkpoints, findings, rounds
from ledger.audit import audit
from ledger.checkpoints import STATE_ID, Untrusted
from ledger.crosscheck import Transactions
from ledger.documents import AuditState, Checkpoint, LedgerEntry
from ledger.errors import StillBroken
from ledger.incremental import Suspicion, Targets, Verifier
from ledger.verdict import Tally, Violation
from ledger.verification import Document
from payflow import clock, health, metrics
from payflow.mongodb import collection, unavailable_is_transient

logger = logging.getLogger(__name__)

# A wallet's first entry may bear a time this long before it landed: writers' clocks differ.
NEW_WALLET_SECONDS = 3_600.0
COUNT_MS_MAX = 2_000
LISTED_MAX = 100
# One over the entries in the order of their chains, one over the transactions from new to old.
ROUNDS = ("entries", "transactions")
SUSPICIONS_MAX = 500
# The verdict is of no use any more when no tick has come for so many intervals.
STALE_TICKS = 6
STALE_SECONDS_MIN = 60.0
# The chain's own invariants; the others are about transactions, which freeze no wallet.
CHAIN_INVARIANTS = ("L1", "L2", "L3", "L5", "L8")


@dataclass(slots=True)
class Tick:
    """What one tick did."""

    verified: int = 0
    reverified: int = 0
    behind: int = 0
    news: int = 0
    seconds: float = 0.0
    is_halted: bool = False


def tick(*, transactions: Transactions | None, freeze: findings.Freeze) -> Tick:
    """Verify what is new and a slice of what is old. `freeze` is called for a wallet whose chain is broken.

    Without `transactions`, what needs them (L7) is left out. Raises Transient when MongoDB does not answer.
    """
    started, now = time.perf_counter(), clock.now()
    with unavailable_is_transient():
        try:
            state = checkpoints.trusted_state() or _begin()
        except Untrusted as reason:
            halt = Violation(findings.AUDIT, f"{reason} (manage.py audit --forget-checkpoints begins anew)")
            metrics.AUDIT_CLEAN.set(0)
            return Tick(news=findings.report(halt, freeze=freeze, now=now), is_halted=True)
        verifier = Verifier(
            transactions=transactions,
            freeze=freeze,
            since=state.get("complete_since"),
            now=now,
            deadline=time.monotonic() + settings.AUDIT_TICK_SECONDS_MAX,
            suspected=_suspected(state),
        )
        findings.clear_audit(now=now)
        done = Tick()
        changes = _run(verifier, state, done, now)
        done.verified, done.news = verifier.verified, verifier.news
        done.seconds = time.perf_counter() - started
        _store(state, changes, done, now)
    is_clean = not findings.count_open()
    metrics.AUDIT_CLEAN.set(is_clean)
    metrics.AUDIT_TIMESTAMP.set(now.timestamp())
    metrics.AUDIT_BEHIND.set(done.behind)
    for name, round_ in changes["position"]["rounds"].items():
        metrics.AUDIT_ROUND_VISITED.labels(name).set(round_["visited"])
        metrics.AUDIT_ROUND_BEGAN.labels(name).set(round_["began_at"].timestamp())
    metrics.LEDGER_VERIFIED.inc(done.verified)
    if done.verified or done.news:
        logger.info("ledger audited", extra={**_figures(done), "clean": is_clean})
    return done


def _begin() -> Document:
    """Store the state before the first checkpoint is."""
    state = {"_id": STATE_ID, "version": 0, **checkpoints.sealed_state(None), "position": {}, "verdict": {}}
    try:
        collection(AuditState).insert_one(state)
    except DuplicateKeyError:
        return checkpoints.trusted_state() or state
    return state


def _run(verifier: Verifier, state: Document, done: Tick, now: datetime) -> dict[str, Any]:
    """Take the three readings; return what changes in the state."""
    position = {"wallets": "", "history": None, "transactions": None, "again": "", **state["position"]}
    position.setdefault("rounds", {name: new_round(now) for name in ROUNDS})
    suspected = _suspected(state)
    unseen = verifier.verify(
        {id_: suspicion.until for id_, suspicion in suspected.items()},
        entries_max=settings.AUDIT_NEW_ENTRIES_MAX,
    )
    targets, is_drained = rounds.newest(entries_max=settings.AUDIT_NEW_ENTRIES_MAX, report=verifier.report)
    left = verifier.verify(targets, entries_max=settings.AUDIT_NEW_ENTRIES_MAX)
    changes: dict[str, Any] = {}
    if verifier.has_time:
        targets, position["wallets"] = rounds.next_wallets(
            after=position["wallets"], limit=settings.AUDIT_WALLETS_MAX
        )
        left |= verifier.verify(targets, entries_max=settings.AUDIT_NEW_ENTRIES_MAX)
    if verifier.has_time:
        changes |= _take_slice(verifier, state, position, done, now)
    _take_transactions(verifier, position, now)
    verifier.check_ground()
    position["again"] = verifier.check_again(after=position["again"])
    suspicions = {id_: suspected[id_] for id_ in unseen} | verifier.suspicions
    position["suspicions"] = [
        {"wallet_id": id_, "until": suspicion.until, "since": suspicion.since}
        for id_, suspicion in islice(suspicions.items(), SUSPICIONS_MAX)
    ]
    done.behind = _behind(left | {id_: suspicion.until for id_, suspicion in suspicions.items()})
    if is_drained and not left and not suspicions:
        position["caught_up_at"] = now
    return {**changes, "position": position}


def _suspected(state: Document) -> dict[str, Suspicion]:
    """Return what was missing at the last tick."""
    rows = state["position"].get("suspicions", ())
    return {row["wallet_id"]: Suspicion(row["until"], row["since"]) for row in rows}


def _take_slice(
    verifier: Verifier, state: Document, position: dict[str, Any], done: Tick, now: datetime
) -> dict[str, Any]:
    """Verify the next slice of history, and move `position` behind it if all of it was done."""
    since = state.get("complete_since")
    # Until everything was visited once, there is more to find than to repeat.
    entries_max = settings.AUDIT_OLD_ENTRIES_MAX if since else settings.AUDIT_NEW_ENTRIES_MAX
    part = rounds.next_history(position=position["history"], entries_max=entries_max)
    for violation in part.violations:
        verifier.report(violation)
    done.reverified = part.entries
    if verifier.verify(part.targets, entries_max=part.entries + 1):
        return {}
    position["history"] = part.position
    began_at = go_on(position, "entries", part.entries, now, at_end=part.position is None)
    # The round is complete: whatever was there when it began has its checkpoint now.
    if began_at is None or collection(Checkpoint).find_one({}, {"_id": 1}) is None:
        return {}
    complete = began_at - timedelta(seconds=NEW_WALLET_SECONDS)
    return {**checkpoints.sealed_state(max(complete, since) if since else complete), **_recount()}


def _take_transactions(verifier: Verifier, position: dict[str, Any], now: datetime) -> None:
    """Check what was suspected, and the next part of the round over transactions."""
    verifier.check_suspected({row["id"]: row["since"] for row in position.get("suspected_transactions", ())})
    visited = 0
    while (
        verifier.has_time
        and visited < settings.AUDIT_TRANSACTIONS_MAX
        and len(verifier.suspected_transactions) < SUSPICIONS_MAX
    ):
        part = verifier.check_part(before=position["transactions"])
        position["transactions"] = part.before
        visited += part.visited
        if go_on(position, "transactions", part.visited, now, at_end=part.before is None):
            break
    position["suspected_transactions"] = [
        {"id": id_, "since": since} for id_, since in verifier.suspected_transactions.items()
    ]


def new_round(now: datetime) -> dict[str, Any]:
    """Return a round that has visited nothing."""
    return {"began_at": now, "ended_at": None, "visited": 0}


def go_on(
    position: dict[str, Any], name: str, visited: int, now: datetime, *, at_end: bool
) -> datetime | None:
    """Count what a round has visited; at its end begin the next, and return when this one began."""
    round_ = position["rounds"][name]
    if not at_end:
        position["rounds"][name] = {**round_, "visited": round_["visited"] + visited}
        return None
    position["rounds"][name] = {**new_round(now), "ended_at": now}
    began_at: datetime = round_["began_at"]
    return began_at


def _recount() -> dict[str, Any]:
    """Count the verified entries anew: what ticks have added was lost where two of them met."""
    pipeline = [{"$group": {"_id": None, "entries": {"$sum": "$sequence"}}}]
    try:
        rows = list(collection(Checkpoint).aggregate(pipeline, maxTimeMS=COUNT_MS_MAX))
    except ExecutionTimeout:
        return {}
    return {"entries": rows[0]["entries"]} if rows else {}


def _behind(left: Targets) -> int:
    known = checkpoints.find(left)
    return sum(until - known.get(wallet_id, {}).get("sequence", 0) for wallet_id, until in left.items())


def _store(state: Document, changes: dict[str, Any], done: Tick, now: datetime) -> None:
    """Store the position and the verdict, unless another tick was faster: then its position stands."""
    entries = changes.pop("entries", state["verdict"].get("entries", 0) + done.verified)
    verdict = {
        "at": now,
        "wallets": collection(Checkpoint).estimated_document_count(),
        "entries": entries,
        "stored": collection(LedgerEntry).estimated_document_count(),
        **_figures(done),
    }
    since = changes.get("complete_since", state.get("complete_since"))
    # Sealed anew each time, so that an old key can be forgotten.
    update = {**checkpoints.sealed_state(since), **changes, "verdict": verdict}
    collection(AuditState).update_one(
        {"_id": STATE_ID, "version": state["version"]}, {"$set": update, "$inc": {"version": 1}}
    )


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
    checked_at: datetime | None
    violations: list[dict[str, Any]]
    counts: dict[str, int]
    wallets: int
    entries: int
    behind_entries: int
    behind_seconds: float | None
    # By their names, those of ROUNDS.
    rounds: dict[str, Round]


def latest() -> Report:
    """Return the latest verdict. Raises Transient.

    VIOLATED: something is open. UNKNOWN: no audit has run for a while, or it cannot. CLEAN: neither.
    """
    with unavailable_is_transient():
        state = collection(AuditState).find_one({"_id": STATE_ID}) or {}
    verdict, position = state.get("verdict") or {}, state.get("position") or {}
    now, checked_at, caught_up_at = clock.now(), verdict.get("at"), position.get("caught_up_at")
    behind = verdict.get("behind", 0)
    is_complete = state.get("complete_since") is not None
    if not is_complete:
        # Nobody has looked everywhere yet; the difference is an estimate.
        behind = max(behind, verdict.get("stored", 0) - verdict.get("entries", 0))
    counts = findings.count_open()
    halted = counts.pop(findings.AUDIT, 0)
    stale_after = timedelta(seconds=max(STALE_SECONDS_MIN, STALE_TICKS * settings.AUDIT_EVERY_SECONDS))
    is_known = checked_at is not None and now - checked_at < stale_after and not halted
    return Report(
        status="VIOLATED" if counts else "CLEAN" if is_known else "UNKNOWN",
        checked_at=checked_at,
        violations=findings.list_open(limit=LISTED_MAX),
        counts=counts,
        wallets=verdict.get("wallets", 0),
        entries=verdict.get("entries", 0),
        behind_entries=behind,
        behind_seconds=(now - caught_up_at).total_seconds() if is_complete and caught_up_at else None,
        rounds={name: Round(**position.get("rounds", {}).get(name, {})) for name in ROUNDS},
    )


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
    return health.Report(report.status == "CLEAN" or is_new, facts)


def settle_wallet(wallet_id: str, *, by: str, accept: bool) -> int:
    """Clear what was found about a wallet, as a member of staff decides; return how much it was.

    Its chain must be sound in itself. With `accept` what it holds now is taken as verified, though it is not
    what the checkpoint remembers. Raises StillBroken, Transient.
    """
    now = clock.now()
    walked: list[Document] = []
    verdict = audit(wallet_id=wallet_id, against_checkpoints=False, on_head=walked.append)
    for violation in verdict.violations:
        if violation.invariant in CHAIN_INVARIANTS:
            raise StillBroken(str(violation))
    with unavailable_is_transient():
        disagreement = Tally(cut=now)
        checkpoints.compare(disagreement, wallet_id=wallet_id)
        for violation in disagreement.verdict.violations:
            if not accept:
                raise StillBroken(f"{violation} (--accept takes the chain as it is)")
        if walked:
            # Not the newest entry there is now: nobody has verified that one.
            checkpoints.put(walked[-1], now)
        else:
            checkpoints.remove(wallet_id)
    return findings.clear_wallet(wallet_id, by=by, now=now)
