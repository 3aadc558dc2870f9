"""How much the benchmark does: each number is an option of `python -m tests.load.bench`."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields, replace


@dataclass(frozen=True)
class Sizes:
    """The full run; the key figures are medians of `windows` repetitions."""

    users: int = 200
    connections: int = 16
    batch_size: int = 100
    batch_connections: int = 6
    windows: int = 3
    window_seconds: float = 30.0
    latency_rate: float = 50.0
    latency_seconds: float = 20.0
    memory_transfers: int = 10_000
    saga_transfers: int = 10_000
    posting_wallets: int = 200
    postings_per_window: int = 4_000
    entries_few: int = 10_000
    entries_many: int = 1_000_000
    deliveries: int = 5_000
    deliveries_pending: int = 10_000


QUICK = replace(
    Sizes(),
    window_seconds=10.0,
    latency_seconds=10.0,
    memory_transfers=3_000,
    saga_transfers=3_000,
    entries_many=100_000,
    deliveries=1_500,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option for each number, named like it."""
    for field in fields(Sizes):
        kind = type(field.default)
        help_text = f"full run {field.default}, --quick {getattr(QUICK, field.name)}"
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, metavar="N", help=help_text)


def from_options(options: argparse.Namespace) -> Sizes:
    """The full or quick sizes, with what the options name replaced."""
    chosen = {name: getattr(options, name) for name in asdict(Sizes())}
    return replace(QUICK if options.quick else Sizes(), **{k: v for k, v in chosen.items() if v is not None})
