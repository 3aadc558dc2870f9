"""One line per step: what is being done, then a tick and how long it took. Standard library only.

On a terminal a step in progress turns a spinner; elsewhere (a pipe, a CI log) only finished lines appear,
without control codes.
"""

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SPIN_SECONDS = 0.1
_CLEAR = "\r\x1b[2K"


def say(text: str = "") -> None:
    """Writes one line at once, whatever the terminal can encode of it."""
    encoding = sys.stdout.encoding or "ascii"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Writes the sentence that ends a run to standard error."""
    encoding = sys.stderr.encoding or "ascii"
    sys.stderr.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stderr.flush()


@contextmanager
def step(title: str) -> Iterator[None]:
    """Shows one step of work, its end and its seconds."""
    started = time.monotonic()
    done = threading.Event()
    spinner = threading.Thread(target=_spin, args=(title, started, done), daemon=True)
    if sys.stdout.isatty():
        spinner.start()
    tick, cross = ("✓", "✗") if _can_encode("✓✗⠋") else ("ok", "failed:")
    mark = cross
    try:
        yield
        mark = tick
    finally:
        done.set()
        if spinner.ident is not None:
            spinner.join()
            sys.stdout.write(_CLEAR)
        say(f"  {mark} {title} ({time.monotonic() - started:.1f} s)")


def _spin(title: str, started: float, done: threading.Event) -> None:
    frames = itertools.cycle("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if _can_encode("⠋") else "|/-\\")
    while not done.wait(SPIN_SECONDS):
        sys.stdout.write(f"{_CLEAR}  {next(frames)} {title} ... {time.monotonic() - started:.0f} s")
        sys.stdout.flush()


def _can_encode(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
