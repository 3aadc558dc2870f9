"""The stack as one thing: what its commands are told, and how."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from payflow.stack.stack import Stack


def test_a_staff_password_is_never_on_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append((command, env))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    Stack(tmp_path, 1, 2, 3).ensure_staff("staff@example.com", "secret-password")
    [(command, env)] = seen
    assert command[-3:] == ["ensure_staff", "--email", "staff@example.com"]
    assert env["PAYFLOW_STAFF_PASSWORD"] == "secret-password"


def test_flower_stays_on_this_machine_wherever_the_web_server_listens(tmp_path: Path) -> None:
    stack = Stack(tmp_path, 8000, 5555, 3, {"PAYFLOW_HOST": "192.0.2.1"})
    assert (stack.base_url, stack.flower_url) == ("http://192.0.2.1:8000", "http://127.0.0.1:5555")
