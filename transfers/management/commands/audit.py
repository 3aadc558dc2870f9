"""`manage.py audit --full`: verify the ledger's invariants L1 to L8, over everything or over one wallet, and
compare the ledger with the checkpoints of the continuous audit (which GET /ledger/audit tells of).

`--export-heads FILE` also writes a signed statement of all heads, `--against FILE` proves that the ledger
extends such a statement. `--accept-new-beginning` has the continuous audit begin anew.

Exit status: 0 everything holds, 1 something is violated, 2 the audit could not run, 3 nothing is violated,
but the record of the continuous audit cannot be trusted (UNVERIFIED).
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from pymongo.errors import PyMongoError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ledger import settling
from ledger.audit import audit
from ledger.head_statements import BadStatement, Statement, StatementWriter, find_contradictions
from ledger.reading import Progress as OnProgress
from ledger.verdict import VIOLATIONS_KEPT_MAX, Sums, Verdict, Violation
from payflow import clock
from payflow.errors import Transient
from payflow.money import EXPONENTS, format_amount
from transfers import selectors
from transfers.facts import StoredTransactions
from wallets import selectors as wallets
from wallets import services as wallets_services

COULD_NOT_RUN = 2
VIOLATED = 1
UNVERIFIED = 3
TEXT_LENGTH_MAX = 500


class Command(BaseCommand):
    """Reads everything, changes no entry; safe on a running system."""

    help = (
        "Verify the ledger's invariants. Exits 1 on any violation, 2 when it could not run, 3 if unverified."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        scope = parser.add_mutually_exclusive_group()
        scope.add_argument("--full", action="store_true", help="verify everything (the default)")
        scope.add_argument("--wallet", metavar="ID", help="verify this wallet only")
        scope.add_argument(
            "--accept-new-beginning",
            action="store_true",
            help="verify everything but the record of the continuous audit, and let that begin anew from the "
            "ledger as it is",
        )
        parser.add_argument("--reason", default="", help="why a new beginning is accepted; it is recorded")
        parser.add_argument(
            "--who", default=getpass.getuser(), help="who accepts it (your name on this machine)"
        )
        parser.add_argument(
            "--expect-settled",
            action="store_true",
            help="treat a transaction that has not ended, and a batch that is not all written down, as a "
            "violation (use it on a system at rest)",
        )
        parser.add_argument(
            "--export-heads",
            metavar="FILE",
            type=Path,
            help="write a signed statement of every wallet's head to a new file, if everything holds",
        )
        parser.add_argument(
            "--against",
            metavar="FILE",
            type=Path,
            help="prove that the ledger extends an earlier statement: nothing in it is gone or changed",
        )
        parser.add_argument("--json", action="store_true", help="print the verdict as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the audit and print its verdict."""
        wallet_id, path = options["wallet"], options["export_heads"]
        _refuse_nameless(options)
        with _failures_as_sentences():
            if wallet_id and (path or options["against"]):
                raise CommandError("A statement is about all wallets, not one.", returncode=COULD_NOT_RUN)
            if wallet_id and wallets.find_wallet_by_id(wallet_id=wallet_id) is None:
                raise CommandError(f"There is no wallet {wallet_id}.", returncode=COULD_NOT_RUN)
            earlier = _verified_statement(options["against"]) if options["against"] else None
            with _writing_statement(path) if path else nullcontext() as writer:
                verdict = _audit(options, earlier, writer)
                if writer and verdict.is_clean:
                    writer.finish(settings.RECEIPT_SIGNING_KEYS)
            if options["accept_new_beginning"]:
                settling.begin_anew(
                    verdict,
                    by=options["who"],
                    reason=options["reason"],
                    freeze=wallets_services.freeze_broken_wallet,
                )
        notes = [*_statement_notes(verdict, earlier, path, writer)]
        if options["json"]:
            self.stdout.write(json.dumps({**verdict.as_dict(), "notes": notes}, indent=2))
        else:
            self._print(verdict, is_partial=wallet_id is not None)
            for note in notes:
                self.stdout.write(f"  {_ascii(note)}")
        if not verdict.is_clean:
            sys.exit(VIOLATED if verdict.violations_count else UNVERIFIED)

    def _print(self, verdict: Verdict, *, is_partial: bool) -> None:
        scope = "L1-L4, L7 and L8 of this wallet" if is_partial else "L1-L8"
        if verdict.is_clean:
            self.stdout.write(self.style.SUCCESS(f"The audit is clean: {scope} hold."))
        elif not verdict.violations_count:
            self.stdout.write(self.style.ERROR(f"The audit is UNVERIFIED: {scope} hold, but nothing more."))
        else:
            count = f"{verdict.violations_count:,} violation{'s' if verdict.violations_count > 1 else ''}"
            self.stdout.write(self.style.ERROR(f"The audit found {count}."))
        for line in _summary(verdict, is_partial=is_partial):
            self.stdout.write(line)
        if verdict.unverified:
            self.stdout.write(self.style.ERROR(_ascii(f"  {verdict.unverified}.")))
            self.stdout.write("  See docs/operations.md, UNVERIFIED.")
        for violation in verdict.violations:
            self.stdout.write(self.style.ERROR(_ascii(f"  {violation}")))
        hidden = verdict.violations_count - len(verdict.violations)
        if hidden:
            self.stdout.write(f"  and {hidden:,} more")


def _audit(options: dict[str, Any], earlier: Statement | None, writer: StatementWriter | None) -> Verdict:
    with _progress_bar() as on_progress:
        verdict = audit(
            transactions=StoredTransactions(),
            wallet_id=options["wallet"],
            expect_settled=options["expect_settled"],
            against_checkpoints=not options["accept_new_beginning"],
            on_progress=on_progress,
            on_head=writer.add if writer else lambda head: None,
        )
    if earlier:
        for violation in find_contradictions(earlier):
            verdict.add(violation)
    if options["expect_settled"] and options["wallet"] is None:
        for batch_id in selectors.list_unfinished_batches(limit=VIOLATIONS_KEPT_MAX):
            verdict.add(Violation("L7", f"batch {batch_id} is not all written down"))
    return verdict


@contextmanager
def _failures_as_sentences() -> Iterator[None]:
    """Turn what keeps the audit from running into a sentence and its exit status."""
    try:
        yield
    except Transient as error:
        raise CommandError(f"The audit could not run. {error.detail}", returncode=COULD_NOT_RUN) from error
    except PyMongoError as error:
        reason = f"The audit could not run: MongoDB said {type(error).__name__}."
        raise CommandError(reason, returncode=COULD_NOT_RUN) from error
    except (BadStatement, OSError) as error:
        # The statement was changed while it was read, or the new one could not be written.
        raise CommandError(f"The audit could not run: {error}", returncode=COULD_NOT_RUN) from error


def _verified_statement(path: Path) -> Statement:
    """Return an earlier statement that is genuine: a forged one is refused before the audit begins."""
    statement = Statement(path, keys=settings.RECEIPT_SIGNING_KEYS, issuer=settings.RECEIPT_ISSUER)
    try:
        statement.verify()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.", returncode=COULD_NOT_RUN) from error
    except BadStatement as error:
        raise CommandError(f"{path} proves nothing: {error}", returncode=COULD_NOT_RUN) from error
    return statement


def _writing_statement(path: Path) -> StatementWriter:
    try:
        return StatementWriter(path, issuer=settings.RECEIPT_ISSUER, exported_at=clock.now())
    except FileExistsError as error:
        reason = f"{path} exists already: it may be the statement that finds a loss."
        raise CommandError(reason, returncode=COULD_NOT_RUN) from error
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written: {error.strerror}.", returncode=COULD_NOT_RUN
        ) from error


def _statement_notes(
    verdict: Verdict, earlier: Statement | None, path: Path | None, writer: StatementWriter | None
) -> Iterator[str]:
    if earlier and verdict.is_clean:
        yield f"It extends the statement of {earlier.exported_at}: {earlier.wallets:,} wallets."
    if writer and verdict.is_clean:
        kid = settings.RECEIPT_SIGNING_KEYS.signer.kid
        yield f"{path} states the heads of {writer.wallets:,} wallets, signed with the key {kid}."
    elif writer:
        yield f"{path} was not written: only a ledger that holds is stated."


def _refuse_nameless(options: dict[str, Any]) -> None:
    """A new beginning has somebody who accepts it, and a reason."""
    if not options["accept_new_beginning"]:
        return
    for name in ("reason", "who"):
        text = options[name].strip()
        if not (text and text.isprintable() and len(text) <= TEXT_LENGTH_MAX):
            reason = f"--{name} takes 1 to {TEXT_LENGTH_MAX} printable characters."
            raise CommandError(reason, returncode=COULD_NOT_RUN)


def _summary(verdict: Verdict, *, is_partial: bool) -> Iterator[str]:
    counts = {
        "entries": verdict.entries,
        "wallets": verdict.wallets,
        "transactions": verdict.transactions,
        "in flight": verdict.in_flight,
    }
    yield "  " + "   ".join(f"{name} {count:,}" for name, count in counts.items())
    yield f"  {verdict.seconds:.1f} s, {verdict.entries_per_second:,.0f} entries/s"
    for currency, sums in sorted(verdict.sums.items()):
        yield f"  {_ascii(currency)}: {_equation(currency, sums, is_partial=is_partial)}"
    if verdict.sums_until:
        yield f"  (money moved meanwhile: sums until {clock.rfc3339(verdict.sums_until)})"


def _equation(currency: str, sums: Sums, *, is_partial: bool) -> str:
    def shown(minor: int) -> str:
        return format_amount(minor, currency) if currency in EXPONENTS else f"{minor} minor units"

    money_in = f"deposits {shown(sums.deposits)} - withdrawals {shown(sums.withdrawals)}"
    if is_partial:
        return f"{money_in} + transfers {shown(sums.clearing)} = balance {shown(sums.balances)}"
    return f"{money_in} = balances {shown(sums.balances)} + in flight {shown(sums.in_flight)}"


def _ascii(text: str) -> str:
    """A document may hold anything; a pipe or an old terminal must still take the line."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


@contextmanager
def _progress_bar() -> Iterator[OnProgress]:
    """Show a bar on a terminal, nothing in a pipe; it goes away when the audit has ended."""
    columns = (TextColumn("Auditing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("audit", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
