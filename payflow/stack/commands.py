"""Runs the installers (pip, npm, apt) quietly: their words go to a log, their failures become sentences."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from payflow.stack import causes
from payflow.stack.errors import StackError

_NETWORK = re.compile(
    r"NewConnectionError|Connection refused|ECONNREFUSED|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNRESET|timed out"
    r"|Temporary failure|Could not resolve|unable to connect|Cannot initiate the connection|ProxyError"
    r"|Network is unreachable|ENETUNREACH|CERTIFICATE_VERIFY_FAILED|Failed to establish",
    re.IGNORECASE,
)
LOG_BYTES_MAX = 200_000


def make_dir(directory: Path, setting: str) -> None:
    """Creates a folder and makes sure of it that it can be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        cause = causes.cause_of(f"Errno {error.errno}", directory)
        advice = cause or f"Correct its permissions, or set {setting} to a folder of yours."
        raise StackError(f"The folder {directory} cannot be written ({error.strerror}). {advice}") from error


def pip_install(python: Path, requirements: Path) -> list[str]:
    """How pip is called: without questions, advice or endless retries; its own settings stay the user's."""
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    return [str(python), "-m", "pip", "install", *quiet, "-r", str(requirements)]


def run_logged(
    command: Sequence[str],
    *,
    log: Path,
    failure: str,
    seconds_max: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Runs a command with its output in `log`; StackError(`failure` and the reason) when it fails."""
    with log.open("wb") as file:
        try:
            status = subprocess.run(  # noqa: S603 - the command is the bootstrap's own
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=seconds_max,
                cwd=cwd,
                env=None if env is None else dict(env),
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise StackError(
                f"{failure}: it took longer than {seconds_max:.0f} s, which a slow network can cause. Run it "
                f"again. (Log: {log})"
            ) from None
        except OSError as error:
            raise StackError(f"{failure}: {command[0]} cannot be run ({error.strerror}).") from error
    if status == 0:
        return
    printed = log.read_bytes()[-LOG_BYTES_MAX:].decode(errors="replace")
    if _NETWORK.search(printed):
        raise StackError(
            f"{failure}: there is no connection to where it comes from. Check the network and its proxy, "
            f"then run it again. (Log: {log})"
        )
    raise StackError(f"{failure}. {causes.why(log, log.parent)}")
