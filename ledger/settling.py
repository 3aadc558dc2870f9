"""What staff decide about the continuous audit: a wallet is settled, or the audit's record begins anew."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from ledger import audit_record, checkpoints, findings, seen
from ledger.audit import audit
from ledger.audit_record import Overtaken, Unverified
from ledger.errors import StillBroken
from ledger.monitor import trusted
from ledger.verdict import Tally, Verdict, Violation
from ledger.verification import INDEX_MISSING, Document
from payflow import clock
from payflow.errors import Transient
from payflow.mongodb import unavailable_is_transient

SETTLE_ATTEMPTS_MAX = 10
# The chain's own invariants; the others are about transactions, which freeze no wallet.
CHAIN_INVARIANTS = ("L1", "L2", "L3", "L5", "L8")


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
    for _ in range(SETTLE_ATTEMPTS_MAX):
        with suppress(Overtaken), unavailable_is_transient():
            return _settle(wallet_id, walked[-1] if walked else None, by, now, accept=accept)
    raise Transient("The audit is busy. Try again shortly.")


def _settle(wallet_id: str, head: Document | None, by: str, now: datetime, *, accept: bool) -> int:
    """`head` is the last entry that was verified: nobody has verified the newest one there is now."""
    try:
        record = audit_record.load()
    except Unverified as reason:
        raise StillBroken(f"{reason}. First: manage.py audit --accept-new-beginning") from reason
    disagreement = Tally(cut=now)
    checkpoints.compare(disagreement, record.beginning, wallet_id=wallet_id)
    for violation in disagreement.verdict.violations:
        if not accept:
            raise StillBroken(f"{violation} (--accept takes the chain as it is)")
    known = checkpoints.find([wallet_id], record.beginning).get(wallet_id)
    settled = checkpoints.move(known, head, now) if head else checkpoints.empty(known, wallet_id, now)
    closed = findings.close(findings.find_of_wallet(wallet_id, record.beginning), by=by, now=now)
    record.commit([settled, *closed])
    seen.share()
    findings.tell_closed(closed, by=by)
    return len(closed)


def begin_anew(verdict: Verdict, *, by: str, reason: str, freeze: findings.Freeze) -> None:
    """Have the audit begin anew from the ledger as it is, which `verdict` is about. Raises Transient.

    What the verdict found broken is written down at once, so that no verdict is CLEAN meanwhile.
    """
    with unavailable_is_transient():
        reading = audit_record.read_state()
        _, instead_of, _ = trusted(reading)
        found = [_as_finding(violation) for violation in verdict.violations]
        for violation in found:
            if violation is not None and violation.wallet_id is not None:
                freeze(violation.wallet_id)
        known = [violation for violation in found if violation is not None]
        changes = findings.new(known, clock.now())
        audit_record.begin_anew(by=by, reason=reason, instead_of=reading.fault or instead_of, changes=changes)
        findings.tell(changes)


def _as_finding(violation: Violation) -> Violation | None:
    """Return a violation of the full audit as the continuous one reports it; None where it reports others."""
    if violation.invariant in CHAIN_INVARIANTS and violation.wallet_id is not None:
        return violation
    if violation.transaction_id is not None:
        return Violation(violation.invariant, violation.detail, transaction_id=violation.transaction_id)
    return violation if violation.detail == INDEX_MISSING.detail else None
