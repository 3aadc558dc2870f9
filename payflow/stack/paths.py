"""Where the stack keeps its files. Standard library only: the bootstrap runs before anything is installed."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ENGINE_SOURCE = Path(__file__).resolve().parent / "engine"


def data_dir() -> Path:
    """The folder of everything that must outlive a run (setting PAYFLOW_DATA_DIR)."""
    return Path(os.environ.get("PAYFLOW_DATA_DIR") or ROOT / ".payflow").resolve()


def engine_dir() -> Path:
    """The folder of the installed MongoDB engine (setting PAYFLOW_ENGINE_DIR).

    It is not derived from the data folder, so that tests with a data folder each share one installation.
    """
    return Path(os.environ.get("PAYFLOW_ENGINE_DIR") or ROOT / ".payflow" / "engine").resolve()
