"""How long the clients of a drill waited for their answers, and what was refused, fault by fault. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# A fault is felt for a moment after it has ended.
FELT_SECONDS = 1.0
CALM = "no fault"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it was sent, how long its client waited, and what came of it.

    `refusal` is a status with its code, or the kind of error; empty where the answer was no 5xx.
    """

    began: float
    seconds: float
    refusal: str = ""

    @property
    def is_answered(self) -> bool:
        """Whether there was an answer at all."""
        return not self.refusal or self.refusal[0].isdigit()


@dataclass(frozen=True, slots=True)
class Window:
    """When a fault began and ended."""

    kind: str
    began: float
    ended: float

    def concerns(self, asked: Asked) -> bool:
        """Return whether a request was under way while the fault was felt."""
        return asked.began < self.ended + FELT_SECONDS and asked.began + asked.seconds > self.began


@dataclass(frozen=True, slots=True)
class Times:
    """What the requests during one kind of fault met with. Seconds are those of answers."""

    requests: int
    p50_seconds: float
    p95_seconds: float
    max_seconds: float
    refusals: dict[str, int] = field(default_factory=dict)


def by_fault(requests: Iterable[Asked], windows: Sequence[Window]) -> dict[str, Times]:
    """Return the times for each kind of fault, and for requests that met none. One may count for several."""
    met: dict[str, list[Asked]] = defaultdict(list)
    for asked in requests:
        for kind in {window.kind for window in windows if window.concerns(asked)} or {CALM}:
            met[kind].append(asked)
    return {kind: _times(found) for kind, found in met.items()}


def _times(found: Sequence[Asked]) -> Times:
    seconds = sorted(asked.seconds for asked in found if asked.is_answered) or [0.0]
    p50, p95 = (seconds[min(len(seconds) - 1, int(len(seconds) * share))] for share in (0.5, 0.95))
    refusals = Counter(asked.refusal for asked in found if asked.refusal)
    return Times(len(found), p50, p95, seconds[-1], dict(refusals.most_common()))
