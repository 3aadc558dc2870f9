"""The saga's steps: debit, credit, complete, refund; each moves a batch of transactions.

What must stay true: a decision is written down once, then acted on. Debit or decline is decided by the ledger
entry `<transaction>:debit`; credit or refund by `settlement`, set by an update that requires it unset.
A transaction that is stored proves nothing by itself: money moves, and is announced, only when its MAC proves
what was ordered and its entries prove what was done before (`transfers/proof.py`). Every step is safe to
repeat, to race, and to die in anywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta

from django.conf import settings

from ledger import posting, simulation
from ledger import selectors as ledger
from ledger.chain import Entry, Kind, Posting
from ledger.selectors import BrokenEntry
from payflow import clock, events
from payflow.crashpoints import crash_point
from payflow.events import Event, EventType
from payflow.mongodb import collection, unavailable_is_transient
from transfers import states
from transfers.body import transaction_body
from transfers.documents import Transaction
from transfers.moves import Row, announce, fail, finish, ids_of, in_status, move
from transfers.proof import entry_fault, genuine, proven, set_aside
from transfers.selectors import load
from transfers.states import Failure, Settlement, Status, WalletView
from wallets import selectors as wallets
from webhooks.fanout import fan_out


@dataclass(frozen=True, slots=True)
class Credited:
    """What a credit step did: ids to complete, ids whose credit was refused and must be refunded, and ids
    about which nothing is decided because their credit does not answer."""

    credited: list[str]
    refused: list[str]
    hanging: list[str]


def debit(transaction_ids: Collection[str], *, tell_all: bool = False) -> list[str]:
    """Take the money from the senders, or decline; return the ids that are now DEBITED."""
    rows = load(transaction_ids)
    waiting = genuine(in_status(rows, Status.INITIATED))
    entries = posting.post(_debit_postings(waiting))
    crash_point("saga.debit_posted")
    debited, declined, faults = [], defaultdict(list), {}
    for row in waiting:
        entry = entries.get(f"{row['_id']}:debit")
        if entry is not None and (fault := entry_fault(row, "debit", entry)):
            faults[row["_id"]] = fault
        elif entry is not None and entry.kind is Kind.DEBIT:
            debited.append(row)
        elif entry is not None:
            declined[entry.reason].append(row)
    set_aside(waiting, faults)
    found = proven(in_status(rows, Status.DEBITED))
    moved = move(debited, Status.INITIATED, Status.DEBITED, tell_all=tell_all)
    for reason, group in declined.items():
        finish(fail(group, Status.INITIATED, states.DECLINES[reason], refunded=False, tell_all=tell_all))
    announce(found)
    crash_point("saga.debited")
    return ids_of(moved, found)


def _debit_postings(rows: list[Row]) -> list[Posting]:
    views = _wallet_views(row["sender_wallet_id"] for row in rows)
    now, expires_after = clock.now(), timedelta(seconds=settings.SAGA_EXPIRES_AFTER_SECONDS)
    postings = []
    for row in rows:
        failure = states.decline_debit(
            initiated_at=row["initiated_at"],
            now=now,
            expires_after=expires_after,
            wallet=views.get(row["sender_wallet_id"]),
        )
        kind, reason = (Kind.DECLINED, failure.code) if failure else (Kind.DEBIT, "")
        postings.append(_posting(row, "debit", kind, row["sender_wallet_id"], reason))
    return postings


def credit(transaction_ids: Collection[str], *, tell_all: bool = False) -> Credited:
    """Give the money to the receivers, or decide to refund it.

    Everything that can make a credit impossible is looked at before CREDIT is decided; from then on it is
    posted again and again until it lands.
    """
    rows = proven([r for r in load(transaction_ids) if r["status"] in (Status.DEBITED, Status.CREDITED)])
    waiting = in_status(rows, Status.DEBITED)
    undecided = [row for row in waiting if not row.get("settlement")]
    heads = ledger.read_heads({row["receiver_wallet_id"] for row in waiting}) if waiting else {}
    possible, refusals, hanging = _sort_out(undecided, heads)
    _let_hang(hanging)
    accepted = _decide_credit(possible)
    crash_point("saga.credit_decided")
    refused = _refuse(undecided, refusals, tell_all=tell_all)
    decided = [row for row in waiting if row.get("settlement") == Settlement.CREDIT] + accepted
    wishes = [_posting(row, "credit", Kind.CREDIT, row["receiver_wallet_id"]) for row in decided]
    entries = posting.post(wishes, heads=heads)
    crash_point("saga.credit_posted")
    landed = _landed(decided, "credit", entries)
    found = in_status(rows, Status.CREDITED)
    moved = move(landed, Status.DEBITED, Status.CREDITED, tell_all=tell_all)
    announce(found)
    crash_point("saga.credited")
    return Credited(ids_of(moved, found), ids_of(refused), ids_of(hanging))


def _sort_out(
    rows: list[Row], heads: Mapping[str, Entry | BrokenEntry]
) -> tuple[list[Row], dict[str, Failure], list[Row]]:
    """Return the rows to credit, why others must be refused, by id, and the rows whose credit hangs."""
    state = simulation.current() if rows else simulation.OFF
    simulated = {row["_id"] for row in rows if simulation.is_refused(row["_id"], state)}
    refusals = _refusals([row for row in rows if row["_id"] not in simulated], heads)
    hanging = []
    if state.failure_type is simulation.FailureType.TIMEOUT:
        hanging = [row for row in rows if row["_id"] in simulated]
    else:
        refusals |= dict.fromkeys(simulated, states.SIMULATED)
    possible = [row for row in rows if row["_id"] not in refusals and row["_id"] not in simulated]
    return possible, refusals, hanging


def _let_hang(rows: list[Row]) -> None:
    """Keep recovery away until whoever waits for a hanging credit must have given up or be dead."""
    if not rows:
        return
    patience = states.hang_seconds(
        limit_seconds=settings.CREDIT_TIMEOUT_SECONDS,
        retries_max=settings.CREDIT_TIMEOUT_RETRIES_MAX,
        stalled_after_seconds=settings.SAGA_STALLED_AFTER_SECONDS,
    )
    query = {"_id": {"$in": ids_of(rows)}, "status": Status.DEBITED.value, "settlement": None}
    with unavailable_is_transient():
        due = {"$set": {"due_at": clock.after(clock.now(), patience)}}
        collection(Transaction).update_many(query, due)
    crash_point("saga.credit_hanging")


def _refusals(rows: list[Row], heads: Mapping[str, Entry | BrokenEntry]) -> dict[str, Failure]:
    views = _wallet_views(row["receiver_wallet_id"] for row in rows)
    balances = {id_: head.balance_minor for id_, head in heads.items() if isinstance(head, Entry)}
    unreadable = {id_ for id_, head in heads.items() if isinstance(head, BrokenEntry)}
    refusals = {}
    for row in rows:
        wallet_id = row["receiver_wallet_id"]
        failure = states.refuse_credit(
            amount_minor=row["amount_minor"],
            currency=row["currency"],
            wallet=views.get(wallet_id),
            balance_minor=None if wallet_id in unreadable else balances.get(wallet_id, 0),
        )
        if failure:
            refusals[row["_id"]] = failure
        else:
            balances[wallet_id] = balances.get(wallet_id, 0) + row["amount_minor"]
    return refusals


def _decide_credit(rows: list[Row]) -> list[Row]:
    """Set the settlement where nobody has; return the rows whose settlement is CREDIT, by whomever."""
    if not rows:
        return []
    undecided = {"_id": {"$in": ids_of(rows)}, "status": Status.DEBITED.value, "settlement": None}
    with unavailable_is_transient():
        decided = {"$set": {"settlement": Settlement.CREDIT.value}}
        count = collection(Transaction).update_many(undecided, decided).modified_count
    if count == len(rows):
        return [{**row, "settlement": Settlement.CREDIT.value} for row in rows]
    found = in_status(load(ids_of(rows)), Status.DEBITED)
    return proven([row for row in found if row.get("settlement") == Settlement.CREDIT])


def _refuse(rows: list[Row], refusals: dict[str, Failure], *, tell_all: bool) -> list[Row]:
    """Decide REFUND for the refused rows; return those now REFUNDING."""
    groups = defaultdict(list)
    for row in rows:
        if row["_id"] in refusals:
            groups[refusals[row["_id"]]].append(row)
    refused: list[Row] = []
    for failure, group in groups.items():
        refused += move(
            group,
            Status.DEBITED,
            Status.REFUNDING,
            reason=failure.code,
            requiring={"settlement": None},
            also={"settlement": Settlement.REFUND.value, "failure": {**asdict(failure), "refunded": False}},
            tell_all=tell_all,
        )
    crash_point("saga.refund_decided")
    return refused


def complete(transaction_ids: Collection[str], *, tell_all: bool = False) -> None:
    """Close credited transactions."""
    rows = load(transaction_ids)
    rows = proven([r for r in rows if r["status"] == Status.CREDITED or _is_untold(r, Status.COMPLETED)])
    found = in_status(rows, Status.COMPLETED)
    credited = in_status(rows, Status.CREDITED)
    also = {"completed_at": clock.now()}
    moved = move(credited, Status.CREDITED, Status.COMPLETED, also=also, tell_all=tell_all)
    announce(found)
    crash_point("saga.completed")
    finish([*moved, *found])


def refund(
    transaction_ids: Collection[str], *, undecided_because: Failure | None = None, tell_all: bool = False
) -> None:
    """Give the money back to the senders of transactions whose settlement is REFUND.

    With `undecided_because`, transactions without a settlement are decided for REFUND first; one that has
    decided CREDIT is left alone, always.
    """
    waiting = {Status.REFUNDING} if undecided_because is None else {Status.REFUNDING, Status.DEBITED}
    rows = load(transaction_ids)
    rows = proven([row for row in rows if row["status"] in waiting or _is_untold(row, Status.FAILED)])
    if undecided_because is not None:
        debited = [row for row in in_status(rows, Status.DEBITED) if not row.get("settlement")]
        refused = _refuse(debited, dict.fromkeys(ids_of(debited), undecided_because), tell_all=tell_all)
    else:
        refused = []
    # These were read anew where another executor was faster.
    due = [*in_status(rows, Status.REFUNDING), *proven(refused)]
    entries = posting.post([_posting(row, "refund", Kind.REFUND, row["sender_wallet_id"]) for row in due])
    crash_point("saga.refund_posted")
    landed = _landed(due, "refund", entries)
    groups = defaultdict(list)
    for row in landed:
        groups[row["failure"]["code"], row["failure"]["detail"]].append(row)
    for (code, detail), group in groups.items():
        finish(fail(group, Status.REFUNDING, Failure(code, detail), refunded=True, tell_all=tell_all))
    finished = in_status(rows, Status.FAILED)
    announce(finished)
    finish(finished)


def announce_failed_refunds(transaction_ids: Collection[str]) -> None:
    """Publish that a refund could not be made yet, for those still waiting for one. Raises Transient."""
    waiting = proven(in_status(load(transaction_ids), Status.REFUNDING))
    now = clock.now()
    tell = [Event(row["_id"], EventType.REFUND_FAILED, now, transaction_body(row)) for row in waiting]
    fan_out(tell)
    events.publish(tell)


def announce_in_full(transaction_ids: Collection[str]) -> None:
    """Publish every event of transactions that ended before all of it was told, and close them."""
    rows = proven([row for row in load(transaction_ids) if Status(row["status"]) in states.TERMINAL])
    announce(rows)
    finish(rows)


def _is_untold(row: Row, status: Status) -> bool:
    """Say whether a transaction has ended so, but perhaps not all of its events were published."""
    return row["status"] == status and "due_at" in row


def _landed(rows: list[Row], operation: str, entries: Mapping[str, Entry]) -> list[Row]:
    """Return the rows that an entry settles; one that settles something else is the audit's to report."""
    return [row for row in rows if not entry_fault(row, operation, entries.get(f"{row['_id']}:{operation}"))]


def _posting(row: Row, operation: str, kind: Kind, wallet_id: str, reason: str = "") -> Posting:
    return Posting(
        operation_id=f"{row['_id']}:{operation}",
        wallet_id=wallet_id,
        kind=kind,
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        transaction_id=row["_id"],
        reason=reason,
    )


def _wallet_views(wallet_ids: Iterable[str]) -> dict[str, WalletView]:
    found = wallets.find_wallets_by_id(wallet_ids=set(wallet_ids))
    return {id_: WalletView(w.currency, wallets.is_active(w)) for id_, w in found.items()}
