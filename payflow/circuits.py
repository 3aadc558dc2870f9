"""How long one request may wait for each server in all, and which servers count as away.

Invariants:
- a request waits for a server no longer than its budget, however many errands it has there;
- a server that did not answer, and then did not answer a ping, counts as away: every request of this process
  does without it at once, until the server has answered a ping quickly. One thread pings, so no request has
  to find out;
- outside of requests (workers, commands) nothing has a budget and nothing is refused: they wait and retry.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from payflow import metrics
from payflow.errors import Transient

logger = logging.getLogger(__name__)
# A request has several errands at a server. If one ping takes more than this part of the budget, or more than
# the maximum, requests would only wait in vain.
PING_SHARE = 5
PING_SECONDS_MAX = 0.5
PAUSE_SECONDS_MIN = 0.05


@dataclass(slots=True)
class Account:
    """What one request has spent on one server. Errands may nest; the outermost one is counted."""

    budget_seconds: float
    spent_seconds: float = 0.0
    errands: int = 0
    began_at: float | None = None

    def left_seconds(self) -> float:
        running = 0.0 if self.began_at is None else time.monotonic() - self.began_at
        return self.budget_seconds - self.spent_seconds - running


_accounts: ContextVar[dict[str, Account] | None] = ContextVar("payflow_server_accounts", default=None)
_insists: ContextVar[bool] = ContextVar("payflow_insists", default=False)


@contextmanager
def request_budgets() -> Iterator[dict[str, Account]]:
    """Give what runs in here a fresh budget for each server; yield what it spends, by server."""
    accounts: dict[str, Account] = {}
    token = _accounts.set(accounts)
    try:
        yield accounts
    finally:
        _accounts.reset(token)
        for name, account in accounts.items():
            metrics.SERVER_SECONDS.labels(name).observe(account.spent_seconds)


@contextmanager
def insisting() -> Iterator[None]:
    """Let errands in here go also to a server that counts as away, within the budget."""
    token = _insists.set(True)
    try:
        yield
    finally:
        _insists.reset(token)


class ServerAway(Exception):  # noqa: N818 - it reads as what happened
    """A request is refused an errand: the server counts as away, or the request's budget is spent.

    Each client library's subclass is also the error that the library raises for a server that is silent.
    """


@dataclass(frozen=True, slots=True)
class _Outage:
    """The time from a failure to an answered ping."""

    is_confirmed: threading.Event = field(default_factory=threading.Event)
    """The first ping is over."""
    is_over: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class Server:
    """One server that requests depend on."""

    name: str
    ping: Callable[[float], None]
    """Raises Transient unless the server answers within so many seconds."""
    budget_seconds: Callable[[], float]
    pause_seconds: Callable[[], float]
    """How long to wait from one ping to the next."""
    refusal: Callable[[], Exception]
    failures: tuple[type[Exception], ...]
    """What an errand raises when the server did not answer."""
    _outage: _Outage | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        os.register_at_fork(after_in_child=self._begin_again)

    @property
    def is_away(self) -> bool:
        """Whether the server counts as away in this process."""
        return self._outage is not None

    @contextmanager
    def errand(self, *, is_begun: bool = False) -> Iterator[float | None]:
        """Yield how many seconds this request may still wait; None outside of a request.

        Raises `refusal` where the server counts as away or the budget is spent. `is_begun`: the question has
        been sent, so that only the budget counts.
        """
        account = self._account()
        if account is None or account.began_at is not None:
            with self._noting_failures():
                yield None if account is None else max(0.001, account.left_seconds())
            return
        is_asked = is_begun or _insists.get() or self._is_there(account)
        if not is_asked or account.left_seconds() <= 0:
            metrics.SERVER_REFUSED.labels(self.name).inc()
            raise self.refusal()
        account.began_at = time.monotonic()
        account.errands += not is_begun
        try:
            with self._noting_failures():
                yield account.left_seconds()
        finally:
            account.spent_seconds += time.monotonic() - account.began_at
            account.began_at = None

    def failed(self) -> None:
        """Count the server as away from now on, and begin to ping it."""
        with self._lock:
            if self._outage is not None:
                return
            outage = _Outage()
            threading.Thread(
                target=self._await_answer, args=(outage,), name=f"ping-{self.name}", daemon=True
            ).start()
            # Last: without a thread that pings it would count as away for ever.
            self._outage = outage

    def answers(self) -> None:
        """Count the server as there again."""
        with self._lock:
            outage, self._outage = self._outage, None
        if outage is not None:
            outage.is_confirmed.set()
            outage.is_over.set()
        metrics.SERVER_AWAY.labels(self.name).set(0)

    def _is_there(self, account: Account) -> bool:
        """Say whether a request may ask. While the first ping is under way it waits for that."""
        outage = self._outage
        if outage is not None and not outage.is_confirmed.is_set():
            began = time.monotonic()
            outage.is_confirmed.wait(max(0.0, account.left_seconds()))
            account.spent_seconds += time.monotonic() - began
        return self._outage is None

    def _account(self) -> Account | None:
        accounts = _accounts.get()
        if accounts is None:
            return None
        if self.name not in accounts:
            accounts[self.name] = Account(self.budget_seconds())
        return accounts[self.name]

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        try:
            yield
        except ServerAway:
            raise
        except self.failures:
            self.failed()
            raise

    def _await_answer(self, outage: _Outage) -> None:
        """Ping until there is an answer. The first ping is at once: often only one connection was broken."""
        since = time.monotonic()
        if self._ping_is_answered():
            return self._end(outage)
        metrics.SERVER_AWAY.labels(self.name).set(1)
        logger.warning("a server counts as away", extra={"server": self.name})
        outage.is_confirmed.set()
        while not outage.is_over.wait(max(PAUSE_SECONDS_MIN, self.pause_seconds())):
            if self._ping_is_answered():
                seconds = round(time.monotonic() - since, 1)
                logger.warning("a server answers again", extra={"server": self.name, "away_seconds": seconds})
                return self._end(outage)
        return None

    def _ping_is_answered(self) -> bool:
        try:
            self.ping(min(PING_SECONDS_MAX, self.budget_seconds() / PING_SHARE))
        except Transient:
            return False
        except Exception:
            # Nothing may end this thread while the server counts as away.
            logger.exception("a server cannot be pinged", extra={"server": self.name})
            return False
        return True

    def _end(self, outage: _Outage) -> None:
        if not outage.is_over.is_set():
            self.answers()

    def _begin_again(self) -> None:
        """A forked child has no thread that pings, and its parent's thread may have held the lock."""
        self._lock, self._outage = threading.Lock(), None
