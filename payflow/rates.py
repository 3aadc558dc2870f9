"""Rates: how many requests in how much time. Pure; a setting that says nothing is refused by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured

OFF = frozenset({"", "off"})
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_RATE = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,2})?([smhd])", re.ASCII)


class Rate(NamedTuple):
    """At most `limit` requests in any one window of `seconds`."""

    limit: int
    seconds: int

    @property
    def per_day(self) -> float:
        """Return how many requests fit into a day."""
        return self.limit * 86_400 / self.seconds


def read_rates(texts: Mapping[str, tuple[str, str]]) -> dict[str, Rate | None]:
    """Return each group's rate, None where it is off, from the group's variable and what that says.

    `300/m` is 300 a minute, `20/10m` is 20 in ten minutes; the units are s, m, h and d. Raises
    ImproperlyConfigured with every variable that says something else.
    """
    rates: dict[str, Rate | None] = {}
    unreadable = []
    for group, (variable, text) in texts.items():
        match = _RATE.fullmatch(text.strip())
        if match:
            limit, times, unit = match.groups()
            rates[group] = Rate(int(limit), int(times or 1) * _UNIT_SECONDS[unit])
        elif text.strip().lower() in OFF:
            rates[group] = None
        else:
            unreadable.append(variable)
    if unreadable:
        raise ImproperlyConfigured(
            f"PayFlow refuses to start: {', '.join(unreadable)} must be a rate such as 300/m or 20/10m"
            " (s, m, h or d), or off."
        )
    return rates
