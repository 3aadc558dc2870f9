"""Leases on idempotency keys: a claim in Redis lasts for seconds, and is renewed while its request runs.

What must stay true: a process that dies renews nothing, so what it held is free again when the lease ends.
One thread per process renews; it starts with the first lease and sleeps while there is none. A forked child
holds nothing: what its parent held, the parent renews.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from django.conf import settings

from payflow import redisdb
from payflow.errors import Transient

logger = logging.getLogger(__name__)
# A renewal that failed is tried again after so many seconds: the lease is running out.
RETRY_SECONDS = 0.2
# No request takes so long (`Prefer: wait` ends after 30 seconds): what is held longer hangs.
HELD_SECONDS_MAX = 120.0
_RENEWALS_PER_LEASE = 3

_RENEW = """
for i = 1, #KEYS do
  if redis.pcall('HGET', KEYS[i], 'owner') == ARGV[i + 1] then redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
end
"""

_lock = threading.Lock()
_is_needed = threading.Event()
_keeper: threading.Thread | None = None
# By token: the Redis key it stands in, and until when it is renewed.
_held: dict[str, tuple[str, float]] = {}


def _begin_anew() -> None:
    """Forget what the parent held. Its thread is not here, and may have been holding the lock."""
    global _lock, _is_needed, _keeper
    _lock, _is_needed, _keeper = threading.Lock(), threading.Event(), None
    _held.clear()


os.register_at_fork(after_in_child=_begin_anew)


def hold(key: str, token: str) -> None:
    """Renew the lease that `token` has on a Redis key from now on."""
    global _keeper
    with _lock:
        _held[token] = key, time.monotonic() + HELD_SECONDS_MAX
        _is_needed.set()
        if _keeper is None or not _keeper.is_alive():
            _keeper = threading.Thread(target=_keep, name="idempotency-leases", daemon=True)
            _keeper.start()


def let_go(token: str) -> None:
    """Renew it no longer."""
    with _lock:
        _held.pop(token, None)


def _keep() -> None:
    is_renewed = True
    while True:
        _is_needed.wait()
        time.sleep(_pause_seconds(is_renewed=is_renewed))
        with _lock:
            now = time.monotonic()
            wanted = {token: key for token, (key, until) in _held.items() if until > now}
            if not _held:
                _is_needed.clear()
        is_renewed = _renew(wanted) if wanted else True


def _pause_seconds(*, is_renewed: bool) -> float:
    pause_seconds = settings.IDEMPOTENCY_LEASE_SECONDS / _RENEWALS_PER_LEASE
    return pause_seconds if is_renewed else min(RETRY_SECONDS, pause_seconds)


def _renew(wanted: dict[str, str]) -> bool:
    milliseconds = round(settings.IDEMPOTENCY_LEASE_SECONDS * 1000)
    try:
        with redisdb.unavailable_is_transient():
            script = redisdb.client().register_script(_RENEW)
            script(keys=list(wanted.values()), args=[milliseconds, *wanted])
    except Transient:
        logger.warning("idempotency leases not renewed; trying again")
        return False
    return True
