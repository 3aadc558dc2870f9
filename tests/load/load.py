"""Offers load over HTTP with whichever generator costs this machine the least: wrk, else generator.py."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from payflow.stack.paths import ROOT

AMOUNT = "0.01"
# How long a generator may take past its own time, for the last answers to come in.
GRACE_SECONDS = 60.0
_SCRIPT = Path(__file__).with_name("transfers.lua")


class LoadError(Exception):
    """Something was not answered as it must be, so there is nothing to report."""


@dataclass(frozen=True)
class Offered:
    """What a generator did: transfers accepted, the CPU it took, and each of them where it keeps them."""

    accepted: int
    cpu_seconds: float
    # When it was due to be sent, in seconds since 1970; seconds until the answer; the transaction's id.
    answers: Sequence[tuple[float, float, str]] = ()


def closed_loop(
    base_url: str,
    users: Sequence[tuple[str, str]],
    *,
    connections: int,
    seconds: float,
    keys: bool,
    batch: int = 0,
) -> Offered:
    """Every connection sends its next request when its last one was answered. Raises LoadError."""
    wrk = shutil.which("wrk")
    if wrk and not batch:
        return _run_wrk(wrk, base_url, users, connections, seconds, keys)
    plan = {"base_url": base_url, "users": users, "connections": connections, "seconds": seconds}
    return _run_generator(**plan, keys=keys, rate=None, batch=batch)


def open_loop(
    base_url: str, users: Sequence[tuple[str, str]], *, rate: float, seconds: float, keys: bool
) -> Offered:
    """A transfer every 1/rate seconds, whether or not the last one was answered. Raises LoadError."""
    plan = {"base_url": base_url, "users": users, "connections": 0, "seconds": seconds}
    return _run_generator(**plan, keys=keys, rate=rate, batch=0)


def generator_name() -> str:
    """Which generator the closed loop uses here."""
    return "wrk" if shutil.which("wrk") else "geventhttpclient"


def _run_generator(**plan: Any) -> Offered:
    command = [sys.executable, "-m", "tests.load.generator"]
    text, _ = _run(command, plan["seconds"], json.dumps({**plan, "amount": AMOUNT}), os.environ)
    record = json.loads(text)
    if record["errors"]:
        raise LoadError(f"{len(record['errors'])} transfers were not accepted: {record['errors'][0]}")
    return Offered(
        len(record["answers"]), record["cpu_seconds"], [tuple(answer) for answer in record["answers"]]
    )


def _run_wrk(
    wrk: str, base_url: str, users: Sequence[tuple[str, str]], connections: int, seconds: float, keys: bool
) -> Offered:
    with tempfile.NamedTemporaryFile("w", prefix="payflow-bench-", suffix=".users") as file:
        file.writelines(f"{user_id} {token}\n" for user_id, token in users)
        file.flush()
        env = {
            **os.environ,
            "PAYFLOW_BENCH_USERS": file.name,
            "PAYFLOW_BENCH_KEYS": "1" if keys else "0",
            "PAYFLOW_BENCH_AMOUNT": AMOUNT,
        }
        command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
        text, cpu_seconds = _run([*command, "-s", str(_SCRIPT), base_url], seconds, "", env)
    record = json.loads(text.splitlines()[-1])
    if record["refused"] or record["lost"]:
        raise LoadError(
            f"{record['refused']} transfers were refused and {record['lost']} lost: {record['example']}"
        )
    return Offered(record["answered"], cpu_seconds)


def _run(command: list[str], seconds: float, stdin: str, env: Mapping[str, str]) -> tuple[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            command,
            input=stdin,
            env=dict(env),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + GRACE_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"The load generator did not end within {error.timeout:.0f} s.") from None
    if done.returncode != 0:
        raise LoadError(f"The load generator failed: {(done.stderr or done.stdout).strip()[-800:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
