"""Watches a stack from outside during a drill, and times how long each fault is felt.

A fault is over when everything that was under way at its moment has ended and been told, and `/health`
answers 200 again. Other faults may have come in between: then the time is that of all of them.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import median

import pymongo
import requests
from pymongo.errors import PyMongoError

LOOK_SECONDS = 0.25
ANSWER_SECONDS_MAX = 5.0
OPEN_MAX = 5_000


@dataclass(slots=True)
class Wound:
    """A fault that is still felt: what was under way when it came."""

    kind: str
    at: float
    open_ids: set[str]
    is_fresh: bool = True


class Watch:
    """Looks every moment at what is under way (in MongoDB) and at health (over HTTP)."""

    def __init__(self, base_url: str, mongodb_uri: str, database: str):
        self._health_url = f"{base_url}/health"
        milliseconds = int(ANSWER_SECONDS_MAX * 1000)
        self._mongo: pymongo.MongoClient[dict] = pymongo.MongoClient(
            mongodb_uri, serverSelectionTimeoutMS=1_000, socketTimeoutMS=milliseconds
        )
        self._unfinished = [self._mongo[database][name] for name in ("transactions", "transfer_batches")]
        self._session = requests.Session()
        self._session.trust_env = False
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._wounds: list[Wound] = []
        self._open_ids: set[str] = set()
        self._calm_since: float | None = None
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()
        self._mongo.close()

    def note(self, kind: str) -> None:
        """A fault happens now."""
        with self._lock:
            self._calm_since = None
            self._wounds.append(Wound(kind, time.monotonic(), set(self._open_ids)))

    def await_calm(self, seconds_max: float, quiet_seconds: float) -> bool:
        """Wait until nothing has been under way and health was good for a while; False when it never is."""
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            since = self._calm_since
            if since is not None and time.monotonic() - since >= quiet_seconds:
                return True
            time.sleep(LOOK_SECONDS)
        return False

    @property
    def open_count(self) -> int:
        """How many transactions were under way at the last look."""
        return len(self._open_ids)

    def recoveries(self) -> dict[str, dict[str, float]]:
        """Return how many faults of each kind are over and how long they were felt, in seconds."""
        with self._lock:
            return {
                kind: {"count": len(seconds), "p50_seconds": median(seconds), "max_seconds": max(seconds)}
                for kind, seconds in sorted(self._seconds.items())
            }

    def _look_on(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            began = time.monotonic()
            open_ids = self._read_open_ids()
            is_healthy = open_ids is not None and self._is_healthy()
            with self._lock:
                if open_ids is not None:
                    self._take_in(began, open_ids, is_healthy=is_healthy)
                if not is_healthy or open_ids:
                    self._calm_since = None
                elif self._calm_since is None:
                    self._calm_since = time.monotonic()

    def _take_in(self, began: float, open_ids: set[str], *, is_healthy: bool) -> None:
        self._open_ids = open_ids
        for wound in list(self._wounds):
            if wound.at > began:
                continue
            if wound.is_fresh:
                # What was begun between the last look and the fault.
                wound.open_ids |= open_ids
                wound.is_fresh = False
            wound.open_ids &= open_ids
            if is_healthy and not wound.open_ids:
                self._seconds[wound.kind].append(time.monotonic() - wound.at)
                self._wounds.remove(wound)

    def _read_open_ids(self) -> set[str] | None:
        """What has not ended, or has not been written or told in full: recovery's own lists."""
        query = {"due_at": {"$exists": True}}
        try:
            found = [rows.find(query, ["_id"]).limit(OPEN_MAX) for rows in self._unfinished]
            return {row["_id"] for rows in found for row in rows}
        except PyMongoError:
            return None

    def _is_healthy(self) -> bool:
        try:
            return self._session.get(self._health_url, timeout=ANSWER_SECONDS_MAX).status_code == 200
        except requests.RequestException:
            return False
