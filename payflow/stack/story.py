"""How the demo looks on a terminal of 80 columns, and in a pipe (the same words without colours)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

INDENT = 4
STYLES = {"COMPLETED": "bold green", "FAILED": "bold red", "REFUNDING": "yellow"}
KINDS = {"DEPOSIT": "green", "CREDIT": "green", "REFUND": "yellow", "DECLINED": "red"}


class Story:
    """Prints each part of the demo."""

    def __init__(self, console: Console):
        self._console = console

    def opening(self, text: str) -> None:
        """The headline, and what happened before the first transfer."""
        self._console.print()
        self._console.rule("[bold]The demo[/bold]")
        self._console.print()
        self._indented(Text(text), 2)

    def saga(self, title: str, transaction: Mapping[str, Any]) -> None:
        """One transfer: what was tried, how it went and how long each step took."""
        history = transaction["history"]
        times = [datetime.fromisoformat(move["at"]) for move in history]
        line = Text()
        for position, move in enumerate(history):
            if position:
                line.append(f" ─{milliseconds(times[position - 1], times[position])}→ ", style="dim")
            line.append(move["status"], style=STYLES.get(move["status"], ""))
        self._console.print()
        self._indented(
            Text(title, style="bold") + Text(f"  {milliseconds(times[0], times[-1])}", style="dim"), 2
        )
        self._indented(line)
        failure = transaction["failure"]
        if failure:
            outcome = "refunded" if failure["refunded"] else "declined"
            self._indented(Text(f"{outcome} ({failure['code']}): {failure['detail']}", style="dim"))

    def wallet(self, title: str, entries: Sequence[Mapping[str, Any]], notes: Mapping[str, str]) -> None:
        """A wallet's ledger, oldest entry first."""
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("#", justify="right")
        table.add_column("entry")
        table.add_column("amount", justify="right")
        table.add_column("balance", justify="right")
        table.add_column("for")
        for entry in entries:
            note = notes.get(entry["transaction_id"] or "", "")
            if entry["kind"] == "DECLINED":
                note = f"{note} ({entry['requested_amount']} asked)"
            table.add_row(
                str(entry["sequence"]),
                Text(entry["kind"], style=KINDS.get(entry["kind"], "")),
                f"{signed(entry['amount'])} {entry['currency']}",
                f"{entry['balance']} {entry['currency']}",
                note,
            )
        self._console.print()
        self._indented(Text(title, style="bold"), 2)
        self._indented(table)

    def audit(self, summary: str, *, clean: bool) -> None:
        """The verdict on every invariant, over everything in the ledger."""
        verdict = Text("clean", style="bold green") if clean else Text("NOT PASSED", style="bold red")
        self._console.print()
        self._indented(Text("The audit of the whole ledger: ", style="bold") + verdict, 2)
        for line in summary.strip().splitlines():
            self._indented(Text(line))

    def _indented(self, shown: RenderableType, columns: int = INDENT) -> None:
        self._console.print(Padding(shown, (0, 0, 0, columns), expand=False))


def milliseconds(start: datetime, end: datetime) -> str:
    """The time between two moments, as in "41 ms"."""
    return f"{(end - start).total_seconds() * 1000:.0f} ms"


def signed(amount: str) -> str:
    """The amount with the sign that says which way the money went; none where none went."""
    return f"+{amount}" if any(digit in amount for digit in "123456789") and amount[0] != "-" else amount
