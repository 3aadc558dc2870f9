"""`make bench`: measures PayFlow on this machine and checks that what it measured was right.

It starts stacks of its own, with data of their own, and removes both; a PayFlow that runs already is not
touched. A fast run that fails the audit is a failed run; so is one in which a transfer was not accepted or
did not complete. No target is enforced: wall times depend on who else uses the machine.

Exit status: 0 measured and audited, 1 something did not work or the audit found a violation.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from payflow.stack.embedded import Servers, embedded_servers, free_port
from payflow.stack.errors import StackError
from payflow.stack.paths import ROOT, data_dir
from payflow.stack.progress import complain
from payflow.stack.stack import Stack, child_env
from tests.load import procfs
from tests.load.load import LoadError
from tests.load.report import print_report
from tests.load.sizes import Sizes, add_options, from_options

PARTS = ("transfers", "postings", "webhooks")
PART_SECONDS_MAX = 7_200.0
AUDIT_SECONDS_MAX = 1_800.0
# From this many CPUs kept busy by others on, wall times say little.
BUSY_CPUS_MIN = 0.25
TABLE_WIDTH_MIN = 110


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and report."""
    options = _parse(arguments)
    console = Console(stderr=options.json)
    console.width = max(console.width, TABLE_WIDTH_MIN)
    try:
        report = run(from_options(options), options, console)
    except (StackError, LoadError) as error:
        complain(f"The benchmark failed: {error}")
        return 1
    print_report(report, console)
    file = data_dir() / "bench.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")
    if options.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        console.print(f"All figures: {file}")
    failed = [name for name, audit in report["audits"].items() if not audit["passed"]]
    for name in failed:
        complain(f"The audit of the {name} failed:\n{report['audits'][name]['output']}")
    return 1 if failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything: about two minutes")
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    parser.add_argument("--json", action="store_true", help="write the figures to standard output as JSON")
    parser.add_argument("--no-flower", action="store_true", help="leave Flower out of the stack")
    parser.add_argument("--keys", action="store_true", help="send an Idempotency-Key with each transfer")
    add_options(parser)
    return parser.parse_args(arguments)


def run(sizes: Sizes, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure and audit each part; return the report. Raises StackError or LoadError."""
    chosen = [options.only] if options.only else PARTS
    report: dict[str, Any] = {
        "sizes": asdict(sizes),
        "options": {"quick": options.quick, "keys": options.keys, "flower": not options.no_flower},
        "audits": {},
    }
    load_before, speed_before = os.getloadavg()[0], procfs.reference_ms()
    data_dir().mkdir(parents=True, exist_ok=True)
    for part in chosen:
        # Beside the real data: the disk is part of what is measured.
        folder = Path(tempfile.mkdtemp(prefix="bench-", dir=data_dir()))
        try:
            measure = {"transfers": _transfers, "postings": _postings, "webhooks": _webhooks}[part]
            report[part] = measure(folder, sizes, report, options, console)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    others = _others_cpus(report)
    report["machine"] = {
        "cpus": os.cpu_count(),
        "load_average": [load_before, os.getloadavg()[0]],
        "reference_ms": [speed_before, procfs.reference_ms()],
        "others_cpus": others,
        "is_busy": others > BUSY_CPUS_MIN,
    }
    return report


def _transfers(
    folder: Path, sizes: Sizes, report: dict[str, Any], options: argparse.Namespace, console: Console
) -> dict[str, Any]:
    found, supervisor_mb = _on_a_stack("transfers", folder, sizes, report, options, console)
    for name in ("throughput", "batches"):
        found[name]["cpus"] = os.cpu_count()
    found["memory"]["by_process"]["supervisor"] = supervisor_mb
    found["memory"]["pss_mb"] += supervisor_mb
    return found


def _webhooks(
    folder: Path, sizes: Sizes, report: dict[str, Any], options: argparse.Namespace, console: Console
) -> dict[str, Any]:
    return _on_a_stack("webhooks", folder, sizes, report, options, console)[0]


def _on_a_stack(
    part: str,
    folder: Path,
    sizes: Sizes,
    report: dict[str, Any],
    options: argparse.Namespace,
    console: Console,
) -> tuple[dict[str, Any], float]:
    """Measure and audit a part over HTTP; return what was found, and the memory of the supervisor."""
    flower_port = None if options.no_flower else free_port()
    stack = Stack(folder, free_port(), flower_port, free_port())
    console.print(f"{part.capitalize()}: a stack of its own")
    with stack:
        # What supervises the stack belongs to it; this process is as large as `make run`'s.
        supervisor_mb = procfs.process_pss_mb(os.getpid())
        sessions = {name: stack.supervisor.pid(name) for name in stack.supervisor.names}
        sessions |= _servers(stack.mongo, stack.redis)
        order = {"base_url": stack.base_url, "keys": options.keys}
        found = _measure(part, order, sessions, sizes, stack.env)
        restarted = [name for name in stack.supervisor.names if stack.supervisor.restarts(name)]
        if restarted:
            raise LoadError(f"these processes died under the load: {', '.join(restarted)}")
        console.print(f"Audit of the {part}")
        report["audits"][part] = audit = _audit(stack.env)
        if audit["passed"] and audit["verdict"]["transactions"] != found["completed"]:
            raise LoadError(
                f"{found['completed']} transfers completed, the audit saw others: {audit['verdict']}"
            )
    return found, supervisor_mb


def _postings(
    folder: Path, sizes: Sizes, report: dict[str, Any], options: argparse.Namespace, console: Console
) -> dict[str, Any]:
    console.print("Postings: servers of their own")
    with ExitStack() as cleanup:
        servers: Servers = cleanup.enter_context(embedded_servers(folder, free_port(), {}))
        env = child_env(
            {
                **os.environ,
                "PAYFLOW_ENV": "development",
                "MONGODB_DATABASE": "payflow",
                "MONGODB_URI": servers.mongodb_uri,
                "REDIS_URL": servers.redis_url,
                "PAYFLOW_DATA_DIR": str(folder),
            }
        )
        found = _measure("postings", {}, _servers(servers.mongo, None), sizes, env)
        console.print("Audit of the postings")
        report["audits"]["postings"] = _audit(env)
    return found


def _servers(mongo: Any, redis: Any) -> dict[str, int]:
    return {name: server.pid for name, server in (("mongo", mongo), ("redis", redis)) if server is not None}


def _measure(
    part: str, order: dict[str, Any], sessions: Mapping[str, int], sizes: Sizes, env: Mapping[str, str]
) -> dict[str, Any]:
    """Run one part in a process with the stack's environment; its progress shows on standard error."""
    order = {**order, "sessions": dict(sessions), "sizes": asdict(sizes)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.load.measure", part],
        input=json.dumps(order),
        stdout=subprocess.PIPE,
        env=dict(env),
        cwd=ROOT,
        text=True,
        check=False,
        timeout=PART_SECONDS_MAX,
    )
    if done.returncode != 0:
        raise LoadError(f"the {part} could not be measured; the reason stands above.")
    return json.loads(done.stdout)


def _audit(env: Mapping[str, str]) -> dict[str, Any]:
    """Check every invariant over everything that was written."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "audit", "--expect-settled", "--json"],
        env=dict(env),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=AUDIT_SECONDS_MAX,
    )
    passed = done.returncode == 0
    found = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    summary = f"{'passed' if passed else 'FAILED'} in {time.monotonic() - begin:.0f} s"
    output = "" if passed else (done.stdout + done.stderr).strip()[-4_000:]
    return {"passed": passed, "summary": summary, "output": output, "verdict": found}


def _others_cpus(report: Mapping[str, Any]) -> float:
    parts = [report[part] for part in PARTS if part in report]
    found = [
        f["others_cpus"]
        for part in parts
        for f in part.values()
        if isinstance(f, dict) and "others_cpus" in f
    ]
    return median(found)


if __name__ == "__main__":
    sys.exit(main())
