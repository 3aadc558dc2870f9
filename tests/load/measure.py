"""Runs one part of the benchmark with the environment of the servers it measures.

`python -m tests.load.measure transfers|postings|webhooks` reads its order (JSON) from standard input, tells
its progress on standard error, and writes its figures (JSON) to standard output. A process of its own for
each part, because Django reads its settings once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "payflow.settings")
django.setup()

from tests.load import http_part  # noqa: E402 - the documents want settings first
from tests.load.load import LoadError  # noqa: E402
from tests.load.population import create_users  # noqa: E402
from tests.load.posting_part import posting_alone  # noqa: E402
from tests.load.saga_part import saga_alone  # noqa: E402
from tests.load.sizes import Sizes  # noqa: E402
from tests.load.target import Target, completed  # noqa: E402
from tests.load.webhooks_part import beside_a_long_queue, deliveries_alone  # noqa: E402

WARM_UP_SECONDS = 2.0


def main() -> int:
    """Measure what was ordered; 1 with a sentence on standard error when something did not work."""
    order = json.load(sys.stdin)
    sizes = Sizes(**order["sizes"])
    try:
        if sys.argv[1] == "postings":
            report = posting_alone(order["sessions"], sizes, _say)
        else:
            target = Target(order["base_url"], order["sessions"], sizes, _say, order["keys"])
            report = _measure_webhooks(target) if sys.argv[1] == "webhooks" else _measure_transfers(target)
    except LoadError as error:
        _say(f"failed: {error}")
        return 1
    json.dump(report, sys.stdout)
    return 0


def _warm_up(target: Target) -> None:
    _say(f"register {target.sizes.users} users with a wallet and a deposit")
    target.user_ids = create_users(target.sizes.users)
    target.closed_loop(min(WARM_UP_SECONDS, target.sizes.window_seconds))


def _measure_webhooks(target: Target) -> dict[str, Any]:
    _warm_up(target)
    report = {"alone": deliveries_alone(target), "queue": beside_a_long_queue(target)}
    return {**report, "completed": completed()}


def _measure_transfers(target: Target) -> dict[str, Any]:
    _warm_up(target)
    report = {
        "throughput": http_part.throughput(target),
        "latency": http_part.latency(target),
        "memory": http_part.memory(target),
        "batches": http_part.in_batches(target),
        "saga": saga_alone(target),
    }
    return {**report, "completed": completed()}


def _say(text: str) -> None:
    sys.stderr.write(f"    {time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
