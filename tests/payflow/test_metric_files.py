"""The folder of the metrics: dead processes' files go, living ones' stay, whatever removes them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.conf import settings

from payflow.metric_files import remove_dead

# Counts once for each line that it reads, and answers with the page that /metrics would give.
PROCESS = """
import sys, django
django.setup()
from payflow import metric_files, metrics
metric_files.LOOK_SECONDS = 0
for line in sys.stdin:
    if line.strip() == "count":
        metrics.RATE_LIMITED.labels("of the test").inc()
    page = metrics.render("0.1.0").decode()
    print([each for each in page.splitlines() if "of the test" in each or each.startswith("payflow_build{")])
    sys.stdout.flush()
"""


@contextmanager
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    env = {
        **os.environ,
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "DJANGO_SETTINGS_MODULE": "payflow.settings",
    }
    command = [sys.executable, "-c", PROCESS]
    running = subprocess.Popen(
        command, env=env, cwd=settings.BASE_DIR, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def say(running: subprocess.Popen[str], word: str) -> str:
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write(f"{word}\n")
    running.stdin.flush()
    return running.stdout.readline()


def counted(page: str) -> float:
    found = re.search(r'payflow_rate_limited_total{group="of the test"} ([0-9.]+)', page)
    return float(found.group(1)) if found else 0.0


def test_only_dead_processes_files_are_removed(tmp_path: Path) -> None:
    with process(tmp_path) as living:
        with process(tmp_path) as dying:
            assert counted(say(dying, "count")) == 1
            assert counted(say(living, "count")) == 2
            assert remove_dead(tmp_path) == 0
            assert counted(say(living, "show")) == 2
        assert remove_dead(tmp_path) > 0
        assert counted(say(living, "show")) == 1
        assert counted(say(living, "count")) == 2
    assert remove_dead(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_dead_process_has_its_files_removed_though_its_child_lives(tmp_path: Path) -> None:
    """A parent's lock must not be kept alive by what it has forked, once the child counts for itself."""
    script = (
        "import os, time\nfrom pathlib import Path\nfrom payflow.metric_files import Owner\n"
        f"owner = Owner(Path({str(tmp_path)!r}))\nprint(owner.name(), flush=True)\n"
        "if os.fork() == 0:\n    print(owner.name(), flush=True)\n    time.sleep(600)\n"
        "else:\n    time.sleep(1)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, cwd=settings.BASE_DIR, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        names = [parent.stdout.readline().strip() for _ in range(2)]
        assert len(set(names)) == 2
        parent.wait()
        for name in names:
            (tmp_path / f"counter_{name}.db").touch()
        try:
            assert remove_dead(tmp_path) == 1
            assert {path.name for path in tmp_path.glob("*.db")} == {f"counter_{names[1]}.db"}
        finally:
            os.killpg(parent.pid, 9)


@pytest.mark.parametrize("vanish", ["its files", "the folder"])
def test_a_process_whose_files_vanish_counts_on(vanish: str, tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    with process(folder) as running:
        assert counted(say(running, "count")) == 1
        if vanish == "the folder":
            shutil.rmtree(folder)
        else:
            for path in folder.iterdir():
                path.unlink()
        page = say(running, "count")
        assert counted(page) == 1
        assert 'payflow_build{version="0.1.0"} 1.0' in page


def test_a_page_without_numbers_is_no_good_page(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    with process(folder) as running:
        say(running, "count")
        shutil.rmtree(folder)
        folder.write_text("no folder any more")
        # The process ends with the error that becomes a 500 in a view.
        assert say(running, "show") == ""
        assert running.wait() == 1


def test_compose_removes_nothing_but_what_dead_processes_left() -> None:
    text = (settings.BASE_DIR / "docker" / "compose.yml").read_text()
    assert "remove_dead_metrics" in text
    assert "-delete" not in text
    assert "rm -" not in text
