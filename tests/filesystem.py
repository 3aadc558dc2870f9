"""Small file systems of a test's own, and what fills them. Skipped by name where none may be mounted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, size_mb: int) -> Iterator[Path]:
    """Mount a file system of this size on a new folder."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "none", str(folder)]
    try:
        is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        is_mounted = False
    if not is_mounted:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(folder: Path, size_mb: int) -> None:
    """Make a mounted file system larger or smaller."""
    subprocess.run(["mount", "-o", f"remount,size={size_mb}m", str(folder)], check=True)


@contextmanager
def filled(folder: Path, left_mb: int = 0) -> Iterator[None]:
    """Take all but so much of what is free."""
    status = os.statvfs(folder)
    size = status.f_bavail * status.f_frsize - left_mb * 2**20
    file = folder / "filler"
    with file.open("wb") as opened:
        if size > 0:
            os.posix_fallocate(opened.fileno(), 0, size)
    try:
        yield
    finally:
        file.unlink()
