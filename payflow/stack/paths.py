"""Where the stack keeps its files, and what follows from it alone.

Standard library only: the bootstrap runs before anything is installed.
"""

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

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


def mongo_socket(data_dir: Path) -> Path:
    """A short path in a private place: a socket's path may have 107 bytes, a data folder's more."""
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:8]
    return Path(f"/tmp/payflow-{os.getuid()}-{digest}/mongodb.sock")  # noqa: S108 - owner and mode are checked


def mongo_uri(data_dir: Path) -> str:
    """The address of this data folder's embedded MongoDB, whether it runs or not.

    `journal=true`: what was acknowledged survives a kill -9 of the engine, which otherwise holds back
    up to 100 ms of its journal (a whole acknowledged batch was seen to be lost).
    """
    return f"mongodb://{quote(str(mongo_socket(data_dir)), safe='')}/?directConnection=true&journal=true"


def read_dotenv(file: Path = ROOT / ".env") -> None:
    """Takes the settings of `.env` into the environment, which wins where both name one.

    The settings module reads the same file by itself; the stack must agree with it about addresses and ports.
    """
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name.strip().isidentifier():
            os.environ.setdefault(name.strip(), value.strip().strip("'\""))
