"""What every app's endpoints have in common. A viewset says in tables what holds for each of its actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rest_framework.request import Request

from payflow.api import limits
from payflow.api.idempotent import IdempotentViewSet
from payflow.errors import PermissionRefused

# `OPTIONS` would tell what stands in docstrings; a browser's preflight is answered by a middleware.
METHODS = ["get", "head", "post", "put", "patch", "delete"]


class ApiViewSet(IdempotentViewSet):
    """One resource's endpoints: credentials, scopes, limits, idempotency keys."""

    http_method_names = METHODS

    scopes: ClassVar[Mapping[str, str]] = {}
    """The scope that an API key needs, by action; an action without one is closed to every key."""

    limits: ClassVar[Mapping[str, str]] = {}
    """The group of rate limits that an action counts in, by action; each counts in `global`, too."""

    naming_emails: ClassVar[frozenset[str]] = frozenset()
    """Actions whose body names an account by its `email`: they count for that email, too."""

    def perform_authentication(self, request: Request) -> None:
        """Read the credentials; from then on the request counts for its user, whatever refuses it."""
        super().perform_authentication(request)
        request._request.counted_as = limits.who_of(request)

    def check_permissions(self, request: Request) -> None:
        """Refuse who may not do this, and an API key without the action's scope (RFC 6750, 3.1)."""
        super().check_permissions(request)
        granted = request.user.scopes if request.user else None
        if granted is None or self.action is None:
            return
        needed = self.scopes.get(self.action)
        if needed is None:
            raise PermissionRefused("API keys may not do this: sign in instead.")
        if needed not in granted:
            raise PermissionRefused(f"This needs an API key with the scope {needed}.")
