"""The figures as tables for people, each beside its target. Pure but for the printing."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

# One line: what is measured, its target, the figure, a remark.
Line = tuple[str, str, str, str]


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print every table of a finished run."""
    figures = Table(title="PayFlow benchmark")
    for heading in ("what", "target", "measured", "remark"):
        figures.add_column(heading, justify="right" if heading in ("target", "measured") else "left")
    for line in figure_lines(report):
        figures.add_row(*line)
    console.print(figures)
    console.print(_cpu_table(report))
    if "transfers" in report:
        console.print(_memory_table(report["transfers"]["memory"]))
    for name, audit in report["audits"].items():
        seen = audit["verdict"]
        counts = (
            f"{seen['entries']:,} entries, {seen['transactions']:,} transactions" if seen else "no verdict"
        )
        console.print(f"Audit of the {name}: {audit['summary']} ({counts})")
    machine = report["machine"]
    load, speed = machine["load_average"], machine["reference_ms"]
    console.print(
        f"Machine: {machine['cpus']} CPUs; load average {load[0]:.1f} before, {load[1]:.1f} after; reference "
        f"work {speed[0]:.0f} ms before, {speed[1]:.0f} ms after (compare runs only where these are alike). "
        f"Others kept {machine['others_cpus']:.2f} CPUs busy meanwhile (median)."
        + (" That is a busy machine: wall times are worse than they could be." * machine["is_busy"])
    )


def figure_lines(report: dict[str, Any]) -> list[Line]:
    """Each figure beside its target."""
    lines: list[Line] = []
    if "transfers" in report:
        lines += _transfer_lines(report["transfers"], report["sizes"], report["options"])
    if "postings" in report:
        lines += _posting_lines(report["postings"])
    if "transfers" in report and "postings" in report:
        lines.append(_share_line(report["transfers"]["batches"], report["postings"]["ceiling"]))
    if "webhooks" in report:
        lines += _webhook_lines(report["webhooks"])
    return lines


def _transfer_lines(found: dict[str, Any], sizes: dict[str, Any], options: dict[str, Any]) -> list[Line]:
    through, late, memory, saga = (found[name] for name in ("throughput", "latency", "memory", "saga"))
    batches, size = found["batches"], sizes["batch_size"]
    keys = ", idempotency keys" if options["keys"] else ""
    return [
        (
            "transfers accepted and completed",
            "≥ 150/s",
            f"{through['per_second']:.0f}/s",
            f"{sizes['users']} users, {sizes['connections']} connections{keys}; {_spread(through)}",
        ),
        ("CPU of one transfer, everything", "", *_cpu_cells(through)),
        (
            f"the same in batches of {size}",
            "≥ 1000/s",
            f"{batches['per_second']:.0f}/s",
            f"{sizes['batch_connections']} connections{keys}; {_spread(batches)}",
        ),
        (f"CPU of one transfer in batches of {size}", "", *_cpu_cells(batches)),
        (
            f"POST to COMPLETED at {late['rate']:.0f}/s, p95",
            "< 250 ms",
            f"{late['p95_ms']:.0f} ms",
            f"p50 {late['p50_ms']:.0f} ms, p99 {late['p99_ms']:.0f} ms",
        ),
        (
            f"POST to its answer at {late['rate']:.0f}/s, p95",
            "",
            f"{late['answer_p95_ms']:.0f} ms",
            f"p50 {late['answer_p50_ms']:.0f} ms",
        ),
        (
            "the saga from its own side",
            "",
            f"{saga['per_second']:.0f}/s",
            f"{saga['transfers']} transfers waiting in the inbox",
        ),
        (
            "memory of the whole stack (PSS)",
            "< 900 MB",
            f"{memory['pss_mb']:.0f} MB",
            f"after {memory['transfers']} transfers, {'with' if options['flower'] else 'WITHOUT'} Flower",
        ),
    ]


def _spread(found: dict[str, Any]) -> str:
    rates = [window["per_second"] for window in found["windows"]]
    done = sum(window["completed"] for window in found["windows"])
    return f"{done} done; {min(rates):.0f} to {max(rates):.0f}/s"


def _cpu_cells(found: dict[str, Any]) -> tuple[str, str]:
    cpu_ms = sum(found["cpu_ms"].values())
    return f"{cpu_ms:.1f} ms", f"with all CPUs to itself: {found['cpus'] * 1000 / cpu_ms:.0f}/s"


def _posting_lines(found: dict[str, Any]) -> list[Line]:
    many, one, long = found["many_wallets"], found["one_wallet"], found["long_history"]
    cost = "client {client:.2f} ms, MongoDB {mongo:.2f} ms of CPU per {what}"
    return [
        (
            "postings over many wallets",
            "≥ 3000/s",
            f"{many['per_second']:.0f}/s",
            cost.format(what="posting", **many["cpu_ms"]),
        ),
        (
            "postings into one wallet",
            "≥ 1500/s",
            f"{one['per_second']:.0f}/s",
            cost.format(what="posting", **one["cpu_ms"]),
        ),
        (
            "the engine's ceiling: a transfer's writes alone",
            "",
            f"{found['ceiling']['per_second']:.0f}/s",
            cost.format(what="transfer", **found["ceiling"]["cpu_ms"]),
        ),
        (
            f"postings with {long['entries_before']:,} entries",
            "",
            f"{long['per_second']:.0f}/s",
            cost.format(what="posting", **long["cpu_ms"]),
        ),
        (
            f"cost with {long['entries_before']:,} to cost with {many['entries_before']:,} entries",
            "about 1",
            f"{found['cost_ratio']:.2f}",
            f"by CPU time {found['cost_ratio_cpu']:.2f}",
        ),
        *_mac_lines(found["macs"]),
    ]


def _mac_lines(macs: dict[str, float]) -> list[Line]:
    written = f"written {macs['written_us']:.1f}, a newest entry read {macs['read_us']:.1f}"
    paces = f"{macs['audit_per_cpu_second']:,.0f} to {macs['audit_per_cpu_second_without']:,.0f}"
    return [
        (
            "CPU that MACs add to a posting",
            "≤ 5 %",
            f"{macs['posting_share']:.1%}",
            f"{macs['posting_us']:.1f} µs: {written}",
        ),
        (
            "the full audit with MACs to the same without",
            "≥ 0.8",
            f"{macs['audit_pace']:.2f}",
            f"{paces} entries a second of CPU",
        ),
    ]


def _share_line(batches: dict[str, Any], ceiling: dict[str, Any]) -> Line:
    share = batches["per_second"] / ceiling["per_second"]
    remark = f"{batches['per_second']:.0f}/s of {ceiling['per_second']:.0f}/s"
    return ("transfers in batches to the engine's ceiling", "", f"{share:.2f}", remark)


def _webhook_lines(found: dict[str, Any]) -> list[Line]:
    alone, queue = found["alone"], found["queue"]
    cpu_ms, left = sum(alone["cpu_ms"].values()), f"{queue['pending_after']:,}"
    return [
        (
            "deliveries to a fast receiver",
            "",
            f"{alone['per_second']:.0f}/s",
            f"{alone['deliveries']:,} done; {cpu_ms:.1f} ms of CPU each, everything",
        ),
        (
            f"transfers with {queue['pending_before']:,} deliveries pending to transfers without",
            "about 1",
            f"{queue['ratio']:.2f}",
            f"{queue['with_per_second']:.0f}/s to {queue['without_per_second']:.0f}/s; {left} still pending",
        ),
    ]


def _cpu_table(report: dict[str, Any]) -> Table:
    """Milliseconds of CPU per transfer or posting, by process."""
    columns = {}
    if "transfers" in report:
        columns["transfer over HTTP"] = report["transfers"]["throughput"]["cpu_ms"]
        columns["transfer in batches"] = report["transfers"]["batches"]["cpu_ms"]
        columns["transfer, saga alone"] = report["transfers"]["saga"]["cpu_ms"]
    if "postings" in report:
        columns["posting"] = report["postings"]["many_wallets"]["cpu_ms"]
    if "webhooks" in report:
        columns["delivery"] = report["webhooks"]["alone"]["cpu_ms"]
    table = Table(title="CPU by process, ms")
    for heading in ("process", *columns):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    for process in dict.fromkeys(name for used in columns.values() for name in used):
        table.add_row(process, *(_ms(used.get(process)) for used in columns.values()))
    table.add_row("all", *(_ms(sum(used.values())) for used in columns.values()))
    return table


def _memory_table(memory: dict[str, Any]) -> Table:
    table = Table(title="Memory by process, MB of PSS")
    table.add_column("process")
    table.add_column("MB", justify="right")
    for process, size in memory["by_process"].items():
        table.add_row(process, f"{size:.0f}")
    return table


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
