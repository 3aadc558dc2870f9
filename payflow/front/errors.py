"""How a request ends that was not begun."""

from __future__ import annotations


class NotBegun(Exception):  # noqa: N818 - it reads as what happened
    """A request ends before the application has seen it; `reason` is a label of the metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
