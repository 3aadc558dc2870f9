"""What every app's endpoints have in common. A viewset says in tables what holds for each of its actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rest_framework.request import Request

from payflow.api import limits
from payflow.api.idempotent import IdempotentViewSet
from payflow.api.scopes import Needed, needed_scopes
from payflow.errors import PermissionRefused

# `OPTIONS` would tell what stands in docstrings; a browser's preflight is answered by a middleware.
METHODS = ["get", "head", "post", "put", "patch", "delete"]


class ApiViewSet(IdempotentViewSet):
    """One resource's endpoints: credentials, scopes, limits, idempotency keys."""

    http_method_names = METHODS

    scopes: ClassVar[Mapping[str, Needed]] = {}
    """What an API key needs, by action; an action without a scope is closed to every key."""

    permissions: ClassVar[Mapping[str, str]] = {}
    """The permission (`app.codename`) that staff need, for each action; without a table: any user."""

    limits: ClassVar[Mapping[str, str]] = {}
    """The group of rate limits that an action counts in, by action; each counts in `global`, too."""

    naming_emails: ClassVar[frozenset[str]] = frozenset()
    """Actions whose body names an account by its `email`: they count for that email, too."""

    def perform_authentication(self, request: Request) -> None:
        """Read the credentials; from then on the request counts for its user, whatever refuses it."""
        super().perform_authentication(request)
        request._request.counted_as = limits.who_of(request)

    def check_permissions(self, request: Request) -> None:
        """Refuse a user without the action's permission and a key without its scopes (RFC 6750, 3.1)."""
        super().check_permissions(request)
        # A method that the route does not take is answered for those alone who may use the others.
        permission = self.permissions.get(self.action or "", next(iter(self.permissions.values()), None))
        if permission and not request.user.may(permission):
            raise PermissionRefused(f"This needs a member of staff with the permission {permission}.")
        granted = request.user.scopes if request.user else None
        if granted is None or self.action is None:
            return
        needed = needed_scopes(self.scopes, self.action)
        if not needed:
            raise PermissionRefused("API keys may not do this: sign in instead.")
        if not granted.issuperset(needed):
            names = " and ".join(needed)
            raise PermissionRefused(f"This needs an API key with the scope{'s' * (len(needed) > 1)} {names}.")
