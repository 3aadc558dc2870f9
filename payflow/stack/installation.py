"""What the bootstrap installs, in order: the virtual environment, the requirements, the MongoDB engine."""

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from payflow.stack import mongo_engine
from payflow.stack.causes import os_error_sentence
from payflow.stack.commands import make_dir, pip_install, run_logged
from payflow.stack.errors import StackError
from payflow.stack.paths import ROOT, data_dir, engine_dir, read_dotenv
from payflow.stack.progress import complain, say, step

VENV_SECONDS_MAX = 120.0
PIP_SECONDS_MAX = 1_800.0
OTHER_SETUP_SECONDS_MAX = 1_800.0
POLL_SECONDS = 0.2
PROFILES = ("dev", "load")  # each contains the one before it


def main(arguments: list[str]) -> int:
    """Prepares this machine, one process at a time; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bootstrap.py", description="Prepares this machine for PayFlow.")
    parser.add_argument("--load", action="store_true", help="also install the load generator of `make bench`")
    profile = "load" if parser.parse_args(arguments).load else "dev"
    try:
        read_dotenv()
        with _alone():
            if install(profile):
                say()
    except StackError as error:
        complain(f"\n{error}")
        return 1
    except OSError as error:
        complain(f"\n{os_error_sentence(error, data_dir())}")
        return 1
    except KeyboardInterrupt:
        complain("\nStopped. Run it again to go on.")
        return 130
    return 0


def install(profile: str) -> bool:
    """Brings everything up to date; False when there was nothing to do."""
    make_dir(data_dir(), "PAYFLOW_DATA_DIR")
    venv, requirements = ROOT / ".venv", ROOT / "requirements"
    python = venv / "bin" / "python"
    changed = False
    if not _works(python):
        with step("Create the virtual environment .venv"):
            create_venv(venv, data_dir() / "setup-venv.log")
        changed = True
    if not requirements_current(venv, requirements, profile):
        with step(f"Install the pinned requirements (requirements/{profile}.txt)"):
            install_requirements(venv, requirements, profile)
        changed = True
    if not os.environ.get("MONGODB_URI") and not mongo_engine.is_current(engine_dir()):
        mongo_engine.install(engine_dir(), python)
        changed = True
    return changed


@contextmanager
def _alone() -> Iterator[None]:
    """Lets one bootstrap work at a time; the other then finds the work done."""
    deadline = time.monotonic() + OTHER_SETUP_SECONDS_MAX
    folder = os.open(ROOT, os.O_RDONLY)
    told = False
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StackError("Another setup of PayFlow has not ended for long: stop it.") from None
                if not told:
                    say("  Waiting for another setup of PayFlow to end ...")
                    told = True
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(folder)


def _works(python: Path) -> bool:
    """Whether the environment is there and made for a Python that still exists."""
    return python.exists() and (python.parent / "pip").exists()


def create_venv(venv: Path, log: Path) -> None:
    """Makes the virtual environment, anew when a broken one is there."""
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        raise StackError(
            "This Python has no venv module: install it (on Debian and Ubuntu: `apt-get install "
            "python3-venv`), then run it again."
        )
    run_logged(
        [sys.executable, "-m", "venv", "--clear", str(venv)],
        log=log,
        failure=f"The virtual environment {venv} cannot be created",
        seconds_max=VENV_SECONDS_MAX,
    )


def requirements_hash(requirements: Path) -> str:
    """Changes whenever any requirement file does, or the Python that they are installed for."""
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for file in sorted(requirements.glob("*.txt")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def requirements_current(venv: Path, requirements: Path, profile: str) -> bool:
    """Whether this profile, or one that contains it, was installed from these very files."""
    try:
        stamp = json.loads(_stamp(venv).read_text())
        contains = PROFILES.index(stamp["profile"]) >= PROFILES.index(profile)
        return bool(contains and stamp["hash"] == requirements_hash(requirements))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def install_requirements(venv: Path, requirements: Path, profile: str) -> None:
    """Installs a profile; the stamp is written last, so an interrupted installation is repeated."""
    stamp = _stamp(venv)
    before = _profile_installed(stamp)
    stamp.unlink(missing_ok=True)
    profile = max(profile, before, key=PROFILES.index)
    run_logged(
        pip_install(venv / "bin" / "python", requirements / f"{profile}.txt"),
        log=venv / "install.log",
        failure="The requirements cannot be installed",
        seconds_max=PIP_SECONDS_MAX,
    )
    for site_packages in venv.glob("lib/python*/site-packages"):
        # PayFlow itself, so that pytest, celery and granian find it from wherever they are started.
        (site_packages / "payflow.pth").write_text(os.path.relpath(venv.parent, site_packages) + "\n")
    stamp.write_text(json.dumps({"profile": profile, "hash": requirements_hash(requirements)}))


def _profile_installed(stamp: Path) -> str:
    """The widest profile installed before: an update of the requirements must not narrow it."""
    try:
        profile = json.loads(stamp.read_text())["profile"]
    except (OSError, ValueError, KeyError, TypeError):
        return PROFILES[0]
    return profile if profile in PROFILES else PROFILES[0]


def _stamp(venv: Path) -> Path:
    return venv / "payflow-requirements.json"
