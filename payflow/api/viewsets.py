"""What every app's endpoints have in common. A viewset says in tables what holds for each of its actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from payflow.api.idempotent import IdempotentViewSet


class ApiViewSet(IdempotentViewSet):
    """Answers that no cache may keep (RFC 9111, 5.2.2.5): they are about somebody's account or money."""

    scopes: ClassVar[Mapping[str, str]] = {}
    """The scope that an API key needs, by action; an action without one is closed to every key."""

    limits: ClassVar[Mapping[str, str]] = {}
    """The group of rate limits that an action counts in, by action; each counts in `global`, too."""

    @property
    def default_response_headers(self) -> dict[str, str]:
        """Return the headers that every answer carries."""
        return {**super().default_response_headers, "Cache-Control": "no-store"}
