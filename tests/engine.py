"""The mark of tests that start the embedded MongoDB: skipped where it is not installed, but not in CI."""

from __future__ import annotations

import os

import pytest

from payflow.stack.paths import engine_dir

needs_engine = pytest.mark.skipif(
    not (engine_dir() / "launch.json").exists() and os.environ.get("CI") != "true",
    reason="the embedded engine is not installed (make setup)",
)
