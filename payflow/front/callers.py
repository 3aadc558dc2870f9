"""Whose request this is, as far as that can be said without asking anybody.

Invariant: nothing that a client can forge chooses the caller. A token counts by its verified subject, an API
key by its owner once this process knows the key for good, everything else by the client's network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from rest_framework.settings import api_settings

from payflow.api.addresses import AddressUnreadable, client_network

UNREADABLE = "address:unreadable"


def caller_of(environ: Mapping[str, Any]) -> str:
    """Return the name under which a request takes its share of what may wait."""
    authorization = environ.get("HTTP_AUTHORIZATION")
    user_id = _known_user()(authorization) if authorization else None
    if user_id:
        return f"user:{user_id}"
    try:
        return f"address:{client_network(environ)}"
    except AddressUnreadable:
        return UNREADABLE


@cache
def _known_user() -> Callable[[str], str | None]:
    # The app that knows credentials stands above the kernel; DRF's setting names its class.
    return api_settings.DEFAULT_AUTHENTICATION_CLASSES[0].find_known_user
