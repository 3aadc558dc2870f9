"""Whether there is room where MongoDB's data lie. Without it writes are refused and duties pause.

A disk that fills up takes acknowledged writes with it: the engine confirms a write that its journal cannot
hold. So PayFlow stops writing while less than STORAGE_FREE_MIN_MB is free, and goes on by itself.

Invariants:
- The embedded engine's folder is looked at whenever somebody asks: that costs two microseconds.
- Another server is asked for its own figures (`dbStats`) by a thread, never by a request.
- A pause ends only with RESUME_FACTOR times the margin: it does not begin and end again and again.
- Nothing is lost by a pause: a message that is dropped was an accelerator, and recovery finds the rest.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mongoengine
from django.conf import settings
from pymongo.errors import PyMongoError

from payflow import metrics, redisdb
from payflow.errors import StorageFull, Transient

logger = logging.getLogger(__name__)
MB = 2**20
LOOK_SECONDS = 10.0
"""So often another server is asked for its figures."""
RESUME_FACTOR = 1.1
SHOWN_EVERY_SECONDS = 1.0
# Of all processes that notice the same thing one says so in the log.
_SAID_KEY = "payflow:storage:said:"
SAID_SECONDS = 60


@dataclass(slots=True)
class _Seen:
    """What this process knows."""

    is_full: bool = False
    free_bytes: int | None = None
    shown_at: float = float("-inf")
    thread: threading.Thread | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_seen = _Seen()


def forget() -> None:
    """Forget what is known, as a forked child must: its parent's thread is not here."""
    global _seen
    _seen = _Seen()


os.register_at_fork(after_in_child=forget)


def is_full() -> bool:
    """Say whether too little is free to write. A process that cannot know yet says no."""
    free = free_bytes()
    if free is None:
        return _seen.is_full
    margin = settings.STORAGE_FREE_MIN_MB * MB
    full = free < (margin * RESUME_FACTOR if _seen.is_full else margin)
    _show(free, full=full)
    return full


def ensure_room() -> None:
    """Raise StorageFull where too little is free to write."""
    if is_full():
        raise StorageFull


def free_bytes() -> int | None:
    """Return how much is free where the data lie; None where that is not known."""
    if settings.STORAGE_FOLDERS:
        return _free_in(settings.STORAGE_FOLDERS)
    _keep_looking()
    return _seen.free_bytes


def _free_in(folders: tuple[Path, ...]) -> int | None:
    """Return the least that is free in any of these folders, for another user than root."""
    found = []
    for folder in folders:
        # Redis' folder need not exist.
        with suppress(OSError):
            status = os.statvfs(folder)
            found.append(status.f_bavail * status.f_frsize)
    return min(found, default=None)


def _show(free: int, *, full: bool) -> None:
    now = time.monotonic()
    if full is _seen.is_full and now - _seen.shown_at < SHOWN_EVERY_SECONDS:
        return
    with _seen.lock:
        is_news, _seen.is_full, _seen.shown_at = full is not _seen.is_full, full, now
    metrics.STORAGE_FREE.set(free)
    metrics.STORAGE_FULL.set(full)
    if is_news and _is_first_to_say("full" if full else "ok", "ok" if full else "full"):
        what = "storage is nearly full: writes are refused" if full else "storage has room again"
        logger.warning(what, extra={"free_mb": free // MB, "margin_mb": settings.STORAGE_FREE_MIN_MB})


def _is_first_to_say(state: str, former: str) -> bool:
    """Say whether no other process has said so. Without Redis everybody does."""
    try:
        with redisdb.unavailable_is_transient():
            redisdb.client().delete(_SAID_KEY + former)
            return bool(redisdb.client().set(_SAID_KEY + state, 1, nx=True, ex=SAID_SECONDS))
    except Transient:
        return True


# --- Servers of others --------------------------------------------------------------------------------------


def _keep_looking() -> None:
    """Start this process's thread unless it runs."""
    if _seen.thread is not None:
        return
    with _seen.lock:
        if _seen.thread is None:
            _seen.thread = threading.Thread(target=_look_on, args=(_seen,), name="storage", daemon=True)
            _seen.thread.start()


def _look_on(seen: _Seen) -> None:
    while seen is _seen:
        # What was known stays where the server does not answer.
        # Figures of a form that is not known say nothing either.
        with suppress(PyMongoError, KeyError, TypeError, ValueError, AttributeError):
            found = read_figures(mongoengine.get_db().command("dbStats", freeStorage=0))
            seen.free_bytes = seen.free_bytes if found is None else found
        time.sleep(LOOK_SECONDS)


def read_figures(stats: dict[str, Any]) -> int | None:
    """Return how many bytes `dbStats` says are free; of a sharded cluster, on the shard that has least. Pure.

    None where it does not say: a database without collections has no figures.
    """
    shards = stats.get("raw")
    every = shards.values() if isinstance(shards, dict) and shards else [stats]
    free = [int(one["fsTotalSize"] - one["fsUsedSize"]) for one in every if one.get("fsTotalSize")]
    return min(free, default=None)
