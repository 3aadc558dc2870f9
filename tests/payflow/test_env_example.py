""".env.example documents every setting, and nothing that is none; what it sets is safe to copy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from payflow.stack.paths import ROOT, read_dotenv

EXAMPLE = ROOT / ".env.example"
APPS = ("payflow", "ledger", "wallets", "accounts", "transfers", "webhooks")
READ = re.compile(r'(?:\benv\.\w+|\bos\.environ(?:\.get)?|\bsettings\.get)\s*[(\[]\s*"([A-Z][A-Z0-9_]+)"')
NAMED = re.compile(r'"(PAYFLOW_[A-Z_]+)"')
# The operating system's and other programs' own.
NO_SETTINGS = {"PATH", "PYTHONPATH"}


def settings_read() -> set[str]:
    """Return every variable that the code takes from the environment."""
    files = [file for app in APPS for file in (ROOT / app).rglob("*.py")]
    text = "\n".join(file.read_text() for file in files)
    return {*READ.findall(text), *NAMED.findall(text)} - NO_SETTINGS


def settings_documented() -> list[str]:
    """Return every variable of the example, commented out or not."""
    return re.findall(r"^#?([A-Z][A-Z0-9_]+)=", EXAMPLE.read_text(), re.MULTILINE)


def test_documents_every_setting_once() -> None:
    documented = settings_documented()
    assert len(settings_read()) > 40
    assert sorted(documented) == sorted(settings_read())


def test_a_copy_of_it_is_for_production(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr("payflow.stack.paths.os.environ", environment)
    read_dotenv(EXAMPLE)
    assert "PAYFLOW_ENV" not in environment
    assert environment["PAYFLOW_DEBUG"] == "false"
    assert all(environment.values())
