"""The postman: sends the notices that are due, each at most once.

What must stay true: no notice is given to the mail server again when it may have accepted it before. SMTP
has no ids by which a server would know a repeat, so a notice is marked SENDING, on disk, before it goes out:
- the server said yes: SENT;
- it said no, was not reached, or was not given the mail at all: PENDING again, for a later try, or FAILED;
- nobody heard what it said, for the connection ended or we died before it was written down: UNKNOWN. It is
  not sent again. A mail that is missing does less harm than a second one, which seems to tell of a second
  payment; the transaction itself can be looked up at any time. UNKNOWN ones are counted and listed for staff.
All of this lives in MongoDB; what ticks is beat.
"""

from __future__ import annotations

import logging
import smtplib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parseaddr
from random import SystemRandom
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core import mail
from django.core.mail import EmailMultiAlternatives

from accounts import selectors as accounts
from accounts.unsubscribing import unsubscribe_url
from payflow import clock, metrics
from payflow.crashpoints import crash_point
from payflow.duties import Skipped
from payflow.errors import Transient
from payflow.locales import known_locale
from payflow.mongodb import collection, unavailable_is_transient
from payflow.smtp import OutcomeUnknown, subject_text
from payflow.text import is_email
from transfers import digests, inbox, notice_queue, notices, selectors
from transfers.documents import Kind, Notice, NoticeStatus
from transfers.notice_texts import Letter, digest_letter, disabled_letter, held_letter, transfer_letter
from transfers.notices import Row
from transfers.selectors import log_ids

logger = logging.getLogger(__name__)
ATTEMPTS_KEPT_MAX = 40
# Transactions whose notices a tick writes down at once, and how often.
WRITTEN_MAX = 500
WRITTEN_PAGES_MAX = 20
EXPIRED_MAX = 1_000
# Of so many mails a process that dies may know alone that they were accepted, for about so long: that is
# written down together.
SENT_UNWRITTEN_MAX = 10
SENT_UNWRITTEN_SECONDS_MAX = 1.0
TRIES_SECONDS = (30.0, 120.0, 480.0, 1_800.0, 7_200.0, 21_600.0, 43_200.0)
JITTER = 0.1
# This process's threads are webhooks' too: mails take one of them.
_one_at_a_time = threading.Lock()
_random = SystemRandom()
_ABOUT_WEBHOOKS = {Kind.WEBHOOK_DISABLED: disabled_letter, Kind.WEBHOOK_HELD: held_letter}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt; `reason` names no address. `is_final`: another try would meet the same."""

    status: NoticeStatus
    reason: str = ""
    is_final: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """Whom and what a batch of notices speaks of, by id, as it was when the batch was claimed."""

    users: Mapping[str, accounts.User]
    transactions: Mapping[str, Row]


class UnusableAddress(Exception):  # noqa: N818 - it reads as what happened
    """The stored address is none that the mail library passes on as it is; it was stored by older rules."""


def next_try_seconds(attempts: int, chance: float) -> float:
    """Return the pause after so many tries: half a minute to half a day, 10 % up or down by chance 0..1."""
    pause = TRIES_SECONDS[min(attempts, len(TRIES_SECONDS)) - 1]
    return pause * (1 + JITTER * (2 * chance - 1))


def send_due(*, is_stopping: Callable[[], bool] = lambda: False) -> dict[str, int]:
    """Send notices that are due; return how many ended how.

    Raises Transient; and Skipped while another thread of this process sends.

    Up to NOTIFICATIONS_BATCH_MAX, and while it goes well more, for NOTIFICATIONS_SHARE_MAX of the time
    between ticks; no more while transfers come faster than they are made, and none once this process
    `is_stopping`.

    Several processes may do so at once: each notice has one holder.
    """
    done: Counter[str] = Counter()
    if not settings.NOTIFICATIONS_ENABLED:
        return done
    if not _one_at_a_time.acquire(blocking=False):
        raise Skipped
    try:
        done[NoticeStatus.UNKNOWN.value] += _give_up_on_the_dead()
        # A slow machine sends fewer mails, not the same ones at others' cost.
        share_seconds = settings.NOTIFICATIONS_SHARE_MAX * settings.NOTIFICATIONS_EVERY_SECONDS
        enough = time.monotonic() + min(share_seconds, settings.NOTIFICATIONS_TICK_SECONDS_MAX)
        _write_down(is_stopping)
        while rows := _claim(claim := uuid4().hex):
            sent_before = done[NoticeStatus.SENT.value]
            mailed = digests.take_out_too_many(rows, claim)
            digested = len(rows) - len(mailed)
            done[NoticeStatus.DIGESTED.value] += digested
            if mailed:
                _send_all(mailed, claim, done, is_stopping)
            is_going_well = digested or done[NoticeStatus.SENT.value] > sent_before
            if not is_going_well or time.monotonic() > enough or is_stopping() or _is_rush():
                break
    finally:
        _one_at_a_time.release()
    if any(done.values()):
        logger.info("notifications handled", extra={name.lower(): n for name, n in done.items() if n})
    return done


def _is_rush() -> bool:
    """Say whether more transfers wait than the saga takes at once; False where Redis does not tell."""
    try:
        return inbox.count() > settings.SAGA_BATCH_MAX
    except Transient:
        return False


def retry(notice_ids: Sequence[str]) -> int:
    """Have FAILED notices tried anew; return how many. UNKNOWN ones stay: they may have arrived."""
    query = {"_id": {"$in": list(notice_ids)}, "status": NoticeStatus.FAILED.value}
    change = {"status": NoticeStatus.PENDING.value, "next_attempt_at": clock.now(), "attempt_count": 0}
    with unavailable_is_transient():
        return collection(Notice).update_many(query, {"$set": change, "$unset": _ENDED}).modified_count


_ENDED = {"finished_at": ""}
_CLAIMED = {"claim": "", "next_attempt_at": ""}


def _give_up_on_the_dead() -> int:
    """Mark as UNKNOWN what somebody began to send and never reported; return how many."""
    now = clock.now()
    query = {"status": NoticeStatus.SENDING.value, "next_attempt_at": {"$lte": now}}
    with unavailable_is_transient():
        found = [row["_id"] for row in collection(Notice).find(query, {"_id": 1}).limit(EXPIRED_MAX)]
        # The claim stays: should its holder only have been slow, it still says how it went.
        attempt = {"at": now, "result": NoticeStatus.UNKNOWN.value, "reason": "the sender died"}
        update = {
            "$set": {"status": NoticeStatus.UNKNOWN.value, "finished_at": now},
            "$unset": {"next_attempt_at": ""},
            "$push": {"attempts": {"$each": [attempt], "$slice": -ATTEMPTS_KEPT_MAX}},
        }
        count = (
            collection(Notice).update_many({"_id": {"$in": found}, **query}, update).modified_count
            if found
            else 0
        )
    if count:
        metrics.NOTIFICATIONS_ENDED.labels(NoticeStatus.UNKNOWN.value).inc(count)
        logger.warning("notifications of unknown outcome", extra={"count": count})
    return count


def _claim(claim: str) -> list[Row]:
    """Take what is due and whose turn it is from everybody else for NOTIFICATIONS_CLAIM_SECONDS."""
    now, found = clock.now(), collection(Notice)
    due = {"status": NoticeStatus.PENDING.value, "next_attempt_at": {"$lte": now}}
    until = clock.after(now, settings.NOTIFICATIONS_CLAIM_SECONDS)
    ids = {"_id": {"$in": notice_queue.next_due(now=now, limit=settings.NOTIFICATIONS_BATCH_MAX)}}
    if not ids["_id"]["$in"]:
        return []
    with unavailable_is_transient():
        found.update_many({**ids, **due}, {"$set": {"claim": claim, "next_attempt_at": until}})
        return list(found.find({**ids, "claim": claim, "status": NoticeStatus.PENDING.value}))


def _write_down(is_stopping: Callable[[], bool]) -> None:
    """Write down what has not been: only what is written has its turn. In a rush only the first of it."""
    for _ in range(WRITTEN_PAGES_MAX):
        written = notices.write_down(transactions_max=WRITTEN_MAX)
        if written < WRITTEN_MAX or is_stopping() or _is_rush():
            break


def _send_all(rows: list[Row], claim: str, done: Counter[str], is_stopping: Callable[[], bool]) -> None:
    """Send over one connection until the time is up or this process is to stop; give the rest back."""
    deadline = time.monotonic() + settings.NOTIFICATIONS_TICK_SECONDS_MAX
    connection = mail.get_connection()
    sent: list[Row] = []
    first_sent_at = 0.0

    def write_sent() -> None:
        if sent:
            crash_point("notices.accepted")
            done[_write_outcome(sent, claim, Outcome(NoticeStatus.SENT), facts).value] += len(sent)
            sent.clear()

    try:
        facts = _look_up(rows)
        for row in rows:
            if time.monotonic() > deadline or is_stopping():
                break
            outcome = _send_one(row, claim, facts, connection)
            if outcome is None:
                continue
            if outcome.status is not NoticeStatus.SENT:
                done[_write_outcome([row], claim, outcome, facts).value] += 1
                continue
            first_sent_at = first_sent_at if sent else time.monotonic()
            sent.append(row)
            is_long_ago = time.monotonic() - first_sent_at > SENT_UNWRITTEN_SECONDS_MAX
            if is_long_ago or len(sent) >= SENT_UNWRITTEN_MAX:
                write_sent()
    finally:
        try:
            write_sent()
        finally:
            _hang_up(connection)
            _give_back(rows, claim)


def _give_back(rows: list[Row], claim: str) -> None:
    """Undo the claim of what was not tried after all, as far as MongoDB answers; else it runs out."""
    ids = [row["_id"] for row in rows]
    rest = {"_id": {"$in": ids}, "claim": claim, "status": NoticeStatus.PENDING.value}
    with suppress(Transient), unavailable_is_transient():
        given_back = {"$set": {"next_attempt_at": clock.now()}, "$unset": {"claim": ""}}
        collection(Notice).update_many(rest, given_back)


def _look_up(rows: list[Row]) -> Facts:
    """Read whom and what the notices speak of, for all at once. Raises Transient."""
    named = {row["transaction_id"] for row in rows if "transaction_id" in row}
    transactions = {row["_id"]: row for row in selectors.load(named)}
    sides = {row[side] for row in transactions.values() for side in ("sender_id", "receiver_id")}
    users = accounts.find_users(user_ids={row["user_id"] for row in rows} | sides)
    return Facts(users, transactions)


def _log_ids(row: Row, facts: Facts) -> dict[str, str]:
    """Return what a log line about one notice names: its id, and its transaction's."""
    transaction = facts.transactions.get(row.get("transaction_id", ""))
    return {"notice_id": row["_id"], "correlation_id": "", **(log_ids(transaction) if transaction else {})}


def _send_one(row: Row, claim: str, facts: Facts, connection: Any) -> Outcome | None:
    """Return what became of it, or None when it is somebody else's by now. Raises Transient."""
    try:
        message = _message(row, facts, connection)
    except Exception as error:
        # One that cannot be written stops no other.
        logger.error("notification cannot be written", extra=_log_ids(row, facts), exc_info=error)
        return Outcome(NoticeStatus.FAILED, f"it cannot be written ({type(error).__name__})")
    if message is None:
        return Outcome(NoticeStatus.SKIPPED)
    try:
        connection.open()
    except (OSError, ValueError) as error:  # smtplib's own errors are OSErrors, too
        return Outcome(NoticeStatus.FAILED, _said(error, "the server was not reached"), is_final=False)
    if not _mark_sending(row, claim):
        return None
    crash_point("notices.sending")
    outcome = _hand_over(message, connection)
    crash_point("notices.handed_over")
    if outcome.status is not NoticeStatus.SENT:
        _hang_up(connection)  # after a failure it may be in any state
    return outcome


def _hand_over(message: EmailMultiAlternatives, connection: Any) -> Outcome:
    try:
        connection.send_messages([message])
    except OutcomeUnknown:
        return Outcome(NoticeStatus.UNKNOWN, "the connection ended before the answer")
    except smtplib.SMTPRecipientsRefused as error:
        code = next(iter(error.recipients.values()), (0, b""))[0]
        return Outcome(NoticeStatus.FAILED, f"recipient refused, {code}", is_final=code >= 500)
    except smtplib.SMTPDataError as error:
        return Outcome(NoticeStatus.FAILED, _said(error, "mail refused"), is_final=error.smtp_code >= 500)
    except OSError as error:
        # Our address or our login, or the connection, before there was a mail: not this mail's fault.
        return Outcome(NoticeStatus.FAILED, _said(error, "not handed over"), is_final=False)
    except ValueError as error:  # a header that cannot be, an address that is none
        return Outcome(NoticeStatus.FAILED, f"it cannot be sent ({type(error).__name__})")
    return Outcome(NoticeStatus.SENT)


def _said(error: Exception, what: str) -> str:
    """The server's own words may hold addresses: its code must do."""
    code = getattr(error, "smtp_code", None)
    return f"{what}, {code}" if code else f"{what} ({type(error).__name__})"


def _hang_up(connection: Any) -> None:
    with suppress(OSError):
        connection.close()


def _mark_sending(row: Row, claim: str) -> bool:
    """Write down, on disk, that the server may have it from now on; False when another holds it."""
    query = {"_id": row["_id"], "claim": claim, "status": NoticeStatus.PENDING.value}
    until = clock.after(clock.now(), settings.NOTIFICATIONS_CLAIM_SECONDS)
    change = {"status": NoticeStatus.SENDING.value, "next_attempt_at": until}
    with unavailable_is_transient():
        return collection(Notice).update_one(query, {"$set": change}).modified_count == 1


def _write_outcome(rows: list[Row], claim: str, outcome: Outcome, facts: Facts) -> NoticeStatus:
    """Write down how it went with all of them, and when the next try is; return their status.

    Those that are to be tried again must have been tried equally often.
    """
    now, count, status = clock.now(), rows[0].get("attempt_count", 0) + 1, outcome.status
    attempt = {"at": now, "result": status.value, "reason": outcome.reason}
    change: dict[str, Any] = {}
    gone: dict[str, str] = {"claim": ""}
    if not outcome.is_final and count < settings.NOTIFICATIONS_ATTEMPTS_MAX:
        status = NoticeStatus.PENDING
        change["next_attempt_at"] = clock.after(now, next_try_seconds(count, _random.random()))
    else:
        change["finished_at"] = now
        gone = _CLAIMED
    update = {
        "$set": {**change, "status": status.value},
        "$unset": gone,
        "$inc": {"attempt_count": 1},
        "$push": {"attempts": {"$each": [attempt], "$slice": -ATTEMPTS_KEPT_MAX}},
    }
    ids = [row["_id"] for row in rows]
    # Lost with the machine, SENT becomes UNKNOWN, as if we had died before. What was refused must not.
    target = collection(Notice, lasting=outcome.status is not NoticeStatus.SENT)
    with unavailable_is_transient():
        target.update_many({"_id": {"$in": ids}, "claim": claim}, update)
    if status is not NoticeStatus.PENDING:
        metrics.NOTIFICATIONS_ENDED.labels(status.value).inc(len(rows))
    if status in (NoticeStatus.FAILED, NoticeStatus.UNKNOWN):
        for row in rows:
            extra = {"status": status.value, "reason": outcome.reason}
            logger.warning("notification not sent", extra={**_log_ids(row, facts), **extra})
    return status


def _message(row: Row, facts: Facts, connection: Any) -> EmailMultiAlternatives | None:
    """Return the mail, or None when it must not or cannot be sent to anybody."""
    user = facts.users.get(row["user_id"])
    if user is None or not user.is_active or user.email_notifications is False:
        return None
    if not is_email(user.email):
        raise UnusableAddress
    way_out = unsubscribe_url(user_id=row["user_id"])
    locale = known_locale(user.locale or "")
    if row["kind"] == Kind.DIGEST:
        lines = digests.lines_of(row["_id"])
        if not lines:
            return None
        letter = digest_letter(row["facts"], lines, locale=locale, unsubscribe_url=way_out)
    else:
        letter = _letter(row, facts, locale, way_out)
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"
    message = EmailMultiAlternatives(
        subject_text(letter.subject),
        letter.text,
        to=[user.email],
        connection=connection,
        headers={
            "Message-ID": f"<{row['_id']}@{domain}>",
            "Auto-Submitted": "auto-generated",  # RFC 3834
            "List-Unsubscribe": f"<{way_out}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",  # RFC 8058
        },
    )
    message.attach_alternative(letter.html, "text/html")
    return message


def _letter(row: Mapping[str, Any], facts: Facts, locale: str, way_out: str) -> Letter:
    kind = Kind(row["kind"])
    if kind in _ABOUT_WEBHOOKS:
        return _ABOUT_WEBHOOKS[kind](row["facts"], locale=locale, unsubscribe_url=way_out)
    transaction = facts.transactions[row["transaction_id"]]
    side = "sender_id" if kind is Kind.RECEIVED else "receiver_id"
    other = facts.users.get(transaction[side])
    other_name = other.name if other else ""
    return transfer_letter(kind, transaction, other_name=other_name, locale=locale, unsubscribe_url=way_out)
