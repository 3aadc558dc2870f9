"""docker/compose.yml runs what the Procfile runs, and gives it settings that production accepts."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import yaml

from payflow.stack.paths import ROOT
from payflow.stack.supervisor import read_procfile
from tests import dotenv

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROCESSES = read_procfile(ROOT / "Procfile")
# Inside a container one listens on all of its addresses; `ports` says who reaches them.
ALL = "0.0.0.0"  # noqa: S104
HOSTS = {"web": {"${PAYFLOW_HOST:-127.0.0.1}": ALL}, "flower": {"127.0.0.1": ALL}}
SECRETS = {
    "DJANGO_SECRET_KEY": "of-these-tests-only-and-long-enough-a",
    "JWT_SIGNING_KEY": "of-these-tests-only-and-long-enough-b",
    "RECEIPT_SIGNING_KEYS": "receipts-1:wDdODzL8yqv_JMSJV6ir3oG113ea0qxoaRE2RAu-rRs",
    "LEDGER_KEYS": "ledger-1:s3cr3tOfTheLedgerZg5vX2k9Lr0QmTqW7eYbH3JuNE",
    "WEBHOOK_SECRET_KEYS": "s3cr3tOfHooksZg5vX2k9Lr0QmTqW7eYbH3JuNcD4aE=",
}


PASSWORDS = {"MONGO_PASSWORD": "of-these-tests-only-c", "REDIS_PASSWORD": "of-these-tests-only-d"}
PASSWORDS_OF = {"MONGO_PASSWORD": "MONGODB_URI", "REDIS_PASSWORD": "REDIS_URL"}


def split_environment(command: str) -> tuple[dict[str, str], list[str]]:
    """Take `env NAME=value ...` apart from the program and its flags."""
    words = shlex.split(command)
    if words[0] != "env":
        return {}, words
    first = next(n for n, word in enumerate(words[1:], 1) if "=" not in word)
    return dict(word.split("=", 1) for word in words[1:first]), words[first:]


def by_default(text: str) -> str:
    """Return what a shell and Compose make of a text where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def image_command() -> list[str]:
    """Return the Dockerfile's CMD, which runs where a service names no command."""
    text = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    command: list[str] = json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[-1])
    return command


def test_the_image_runs_the_web_processes_by_itself() -> None:
    assert image_command() == [by_default(word) for word in SERVICES["web"]["command"]]


@pytest.mark.parametrize("name", PROCESSES)
def test_a_service_runs_what_the_procfile_runs(name: str) -> None:
    command = PROCESSES[name]
    for here, there in HOSTS.get(name, {}).items():
        command = command.replace(here, there)
    environment, words = split_environment(by_default(command))
    service = SERVICES[name]
    assert [by_default(word) for word in service.get("command", image_command())] == words
    assert {key: str(service["environment"].get(key)) for key in environment} == environment


def test_only_this_machine_reaches_a_port() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_process_reads_the_documented_settings() -> None:
    for name in ("prepare", *PROCESSES):
        assert SERVICES[name]["env_file"] == [{"path": "../.env", "required": False}]


@pytest.mark.parametrize("missing", [None, *SECRETS, *PASSWORDS])
def test_production_accepts_what_compose_names_and_nothing_less(missing: str | None) -> None:
    given = {name: value for name, value in {**SECRETS, **PASSWORDS}.items() if name != missing}
    environment = {"PATH": os.environ["PATH"]}
    for name, value in SERVICES["web"]["environment"].items():
        filled = fill_in(str(value), given)
        if filled is not None:
            environment[name] = filled
    assert (missing is None) == (environment.keys() >= {*SECRETS, "MONGODB_URI", "REDIS_URL"})
    done = subprocess.run(
        [sys.executable, "-c", f"{dotenv.WITHOUT}import payflow.settings"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == (missing is None), done.stderr
    if missing:
        assert f"{PASSWORDS_OF.get(missing, missing)} is not set" in done.stderr


def fill_in(value: str, given: dict[str, str]) -> str | None:
    """Do as Compose does with `${NAME:-default}` and `${NAME:?reason}`; None where Compose would refuse."""
    for text, name, kind, rest in re.findall(r"(\$\{(\w+):([-?])(.*?)\})", value):
        filled = given.get(name) or (rest if kind == "-" else None)
        if filled is None:
            return None
        value = value.replace(text, filled)
    return value
