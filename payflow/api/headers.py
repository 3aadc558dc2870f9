"""What every answer carries to keep browsers from harm, whoever made it: a view, a middleware, an error.

The API's own policy lets a page that is made of an answer do nothing at all. The admin may use what comes
from here; the pages of the API's documentation have decorators of their own below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from csp.constants import HEADER, NONE, SELF, UNSAFE_INLINE
from csp.decorators import csp_replace
from csp.middleware import CSPMiddleware, PolicyParts
from csp.utils import build_policy
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.security import SecurityMiddleware

from payflow.api import problems
from payflow.api.middleware import HTML_PREFIX
from payflow.errors import Refused

# Nothing here asks for a browser's powers.
_POWERS = ("accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "magnetometer",
           "microphone", "midi", "payment", "publickey-credentials-get", "usb")  # fmt: skip
ALWAYS = {
    "Permissions-Policy": ", ".join(f"{power}=()" for power in _POWERS),
    "Cross-Origin-Resource-Policy": "same-origin",
    # The server would name itself, and so the faults to look for.
    "Server": "PayFlow",
}
NO_STORE = "no-store"

_OWN_FILES = {
    "default-src": [NONE],
    "script-src": [SELF],
    "style-src": [SELF],
    "font-src": [SELF],
    "img-src": [SELF, "data:"],
    "connect-src": [SELF],
}
ADMIN_POLICY = {**_OWN_FILES, "form-action": [SELF]}

swagger_policy = csp_replace(_OWN_FILES)
"""For the view of Swagger UI."""

# Redoc writes its styles into the page, and searches in a worker that it makes of a blob.
redoc_policy = csp_replace({**_OWN_FILES, "style-src": [SELF, UNSAFE_INLINE], "worker-src": ["blob:"]})
"""For the view of Redoc."""

form_policy = csp_replace({"style-src": [SELF], "form-action": [SELF]})
"""For the view of a page that asks something; it runs no scripts."""


class HostUnknown(Refused):
    """The request names a host that is none of this service's (`ALLOWED_HOSTS`)."""


class HeadersMiddleware(SecurityMiddleware):
    """Django's SecurityMiddleware with what it lacks."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        """Refuse a host that is not ours, and send who comes without TLS to the same address with it.

        Neither where machines of ours ask by address, from inside the network.
        """
        path = request.path.lstrip("/")
        try:
            if not any(pattern.search(path) for pattern in self.redirect_exempt):
                request.get_host()
            return super().process_request(request)
        except DisallowedHost:
            return problems.answer(HostUnknown("This service does not answer under this host name."))

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Add the headers. What does not say that it may be kept is not to be kept, and no error is."""
        super().process_response(request, response)
        for name, value in ALWAYS.items():
            response.headers[name] = value
        if response.status_code >= 400 or not response.has_header("Cache-Control"):
            response.headers["Cache-Control"] = NO_STORE
        return response


class PolicyMiddleware(CSPMiddleware):
    """django-csp's middleware, with the admin's policy for all of the admin's pages."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        super().__init__(get_response)
        self._for_json = build_policy()

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Add the policy. JSON has always the same, so that is not built anew each time."""
        if "json" in response.get("Content-Type", ""):
            response.headers[HEADER] = self._for_json
            return response
        return super().process_response(request, response)

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        """Return what the policy is made of."""
        parts: Any = super().get_policy_parts(request, response, report_only)
        if request.path.startswith(HTML_PREFIX) and not report_only:
            parts.replace = ADMIN_POLICY
        return parts
