"""The bootstrap: what it skips, and what it says when something is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from payflow.stack import installation, mongo_engine
from payflow.stack.bootstrap import check_python
from payflow.stack.commands import make_dir, pip_install, run_logged
from payflow.stack.errors import StackError
from payflow.stack.paths import ROOT, read_dotenv

BOOTSTRAP = ROOT / "payflow" / "stack" / "bootstrap.py"
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens
NO_PIP_SOURCES = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": NOWHERE,
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
}


@pytest.mark.parametrize("version", [(3, 11), (3, 11, 7), (3, 14, 0)])
def test_accepts_a_new_enough_python(version: tuple[int, ...]) -> None:
    assert check_python(version) is None


def test_an_old_python_is_named_with_what_to_do() -> None:
    assert "is 3.9: install a newer one" in str(check_python((3, 9, 2)))


def test_the_installation_needs_nothing_installed() -> None:
    """-S: without site-packages; the bootstrap runs before there are any."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import payflow.stack.installation"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    folder = tmp_path / "requirements"
    folder.mkdir()
    (folder / "base.txt").write_text("django==5.2\n")
    (folder / "dev.txt").write_text("-r base.txt\n")
    return folder


@pytest.mark.parametrize(
    ("installed", "wanted", "current"),
    [("dev", "dev", True), ("load", "dev", True), ("load", "load", True), ("dev", "load", False)],
)
def test_a_wider_installation_contains_a_narrower_one(
    tmp_path: Path, requirements: Path, installed: str, wanted: str, current: bool
) -> None:
    _write_stamp(tmp_path, requirements, installed)
    assert installation.requirements_current(tmp_path, requirements, wanted) is current


def test_a_changed_requirement_is_installed_again(tmp_path: Path, requirements: Path) -> None:
    _write_stamp(tmp_path, requirements, "dev")
    (requirements / "base.txt").write_text("django==5.3\n")
    assert not installation.requirements_current(tmp_path, requirements, "dev")


@pytest.mark.parametrize("stamp", ["", "{}", "[]", '{"profile": "unknown", "hash": ""}'])
def test_a_stamp_that_says_nothing_counts_as_none(tmp_path: Path, requirements: Path, stamp: str) -> None:
    (tmp_path / "payflow-requirements.json").write_text(stamp)
    assert not installation.requirements_current(tmp_path, requirements, "dev")


def test_a_failed_installation_leaves_no_stamp(
    tmp_path: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_stamp(tmp_path, requirements, "dev")

    def fail(*_arguments: object, **_options: object) -> None:
        raise StackError("no network")

    monkeypatch.setattr(installation, "run_logged", fail)
    with pytest.raises(StackError):
        installation.install_requirements(tmp_path, requirements, "dev")
    assert not installation.requirements_current(tmp_path, requirements, "dev")


def test_without_a_network_pip_fails_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in NO_PIP_SOURCES.items():
        monkeypatch.setenv(name, value)
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("payflow-package-that-is-not-installed==1.0\n")
    command = pip_install(Path(sys.executable), wanted)
    with pytest.raises(StackError) as caught:
        run_logged(
            command, log=tmp_path / "log", failure="The requirements cannot be installed", seconds_max=60
        )
    assert "there is no connection" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failure_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(StackError, match=r"It broke\. Its log .* ends with:\n    the reason"):
        run_logged(["/bin/sh", "-c", "echo the reason; exit 3"], log=log, failure="It broke", seconds_max=10)


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"took longer than 0 s"):
        run_logged(["sleep", "30"], log=tmp_path / "log", failure="It hung", seconds_max=0.1)


def test_without_npm_and_without_a_network_the_sentence_says_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(_command: list[str], *, failure: str, **_options: object) -> None:
        raise StackError(f"{failure}: there is no connection")

    monkeypatch.setattr(mongo_engine.shutil, "which", lambda _name: None)
    monkeypatch.setattr(mongo_engine, "_wheel_home", lambda _python: None)
    monkeypatch.setattr(mongo_engine, "run_logged", no_network)
    with pytest.raises(StackError, match=r"no Node\.js 20 with npm, and one cannot be installed from PyPI"):
        mongo_engine.install(tmp_path / "engine", Path(sys.executable))


def test_a_data_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StackError, match=r"cannot be written .* set PAYFLOW_DATA_DIR to a folder of yours"):
        make_dir(tmp_path / "file" / "data", "PAYFLOW_DATA_DIR")


def test_the_bootstrap_itself_fails_with_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = subprocess.run(
        [sys.executable, str(BOOTSTRAP)],
        env={**os.environ, "PAYFLOW_DATA_DIR": str(tmp_path / "file" / "data")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.strip().startswith(f"The folder {tmp_path}/file/data cannot be written")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("system", "machine", "libc", "sentence"),
    [
        ("Windows", "AMD64", "", "does not exist for Windows on AMD64"),
        ("Linux", "riscv64", "glibc 2.41", "does not exist for Linux on riscv64"),
        ("Darwin", "x86_64", "", "does not exist for Darwin on x86_64"),
        ("Linux", "x86_64", "", r"another C library \(musl\?\)"),
    ],
)
def test_an_unsupported_machine_is_told_to_bring_a_server(
    system: str, machine: str, libc: str, sentence: str
) -> None:
    with pytest.raises(StackError, match=f"{sentence}.*MONGODB_URI"):
        mongo_engine.check_platform(system, machine, libc)


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [("Linux", "x86_64", "glibc 2.36"), ("Linux", "aarch64", "glibc 2.41"), ("Darwin", "arm64", "")],
)
def test_supported_machines_pass(system: str, machine: str, libc: str) -> None:
    mongo_engine.check_platform(system, machine, libc)


@pytest.mark.parametrize(("printed", "major"), [("v20.20.2\n", 20), ("v8.1.0", 8), ("", 0), ("node", 0)])
def test_reads_nodes_version(printed: str, major: int) -> None:
    assert mongo_engine.node_version(printed) == major


def test_an_engine_is_current_until_something_of_it_is_gone(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()
    launch = {"command": [shutil.which("sh"), "--library-path"], "wanted": mongo_engine._wanted()}
    (tmp_path / "launch.json").write_text(json.dumps(launch))
    assert mongo_engine.is_current(tmp_path)
    (tmp_path / "launch.json").write_text(json.dumps({**launch, "command": ["/nowhere/node"]}))
    assert not mongo_engine.is_current(tmp_path)
    (tmp_path / "launch.json").write_text(json.dumps({**launch, "wanted": "another version"}))
    assert not mongo_engine.is_current(tmp_path)


def test_the_engines_lock_file_names_no_host() -> None:
    assert '"resolved"' not in (ROOT / "payflow/stack/engine/package-lock.json").read_text()


def test_dotenv_fills_what_the_environment_does_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"A": "from the environment"})
    file = tmp_path / ".env"
    file.write_text("# comment\nA=from the file\nexport B='quoted'\nC=\n\nnot a setting\n")
    read_dotenv(file)
    assert os.environ == {"A": "from the environment", "B": "quoted", "C": ""}


def _write_stamp(venv: Path, requirements: Path, profile: str) -> None:
    stamp = {"profile": profile, "hash": installation.requirements_hash(requirements)}
    (venv / "payflow-requirements.json").write_text(json.dumps(stamp))
