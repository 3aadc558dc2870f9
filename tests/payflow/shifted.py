"""Processes whose clock is ahead of all others, or behind: by a `sitecustomize` that shifts Python's."""

from __future__ import annotations

from pathlib import Path

# What asks for a type `datetime` must take those that C code makes, too.
SITECUSTOMIZE = """
import datetime as module, os, time

seconds = float(os.environ["CLOCK_AHEAD_SECONDS"])
real, real_time, real_time_ns = module.datetime, time.time, time.time_ns

class Kind(type):
    def __instancecheck__(cls, value):
        return isinstance(value, real)
    def __subclasscheck__(cls, kind):
        return issubclass(kind, real)

class datetime(real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + module.timedelta(seconds=seconds)
    @classmethod
    def utcnow(cls):
        return real.now(module.UTC).replace(tzinfo=None) + module.timedelta(seconds=seconds)

module.datetime = datetime
time.time = lambda: real_time() + seconds
time.time_ns = lambda: real_time_ns() + int(seconds * 1e9)
"""


def clock_ahead(folder: Path, seconds: float) -> dict[str, str]:
    """Return the environment of a Python process whose clock is so far ahead; `folder` holds what does it."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return {"PYTHONPATH": str(folder), "CLOCK_AHEAD_SECONDS": str(seconds)}
