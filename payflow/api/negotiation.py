"""Content negotiation: the API speaks JSON, whatever `Accept` says."""

from __future__ import annotations

from collections.abc import Sequence

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from payflow.api.problems import UnsupportedMediaType

_PLAIN = "identity"


class AlwaysJSON(BaseContentNegotiation):
    """One representation, so an odd `Accept` header is no reason to fail (RFC 9110, 12.4.1)."""

    def select_parser(self, request: Request, parsers: Sequence[BaseParser]) -> BaseParser | None:
        """Return the parser for the request's media type, or None, which becomes a 415.

        Raises UnsupportedMediaType for a body in any coding (RFC 9110, 8.4): it would be read as it is.
        """
        if request.META.get("HTTP_CONTENT_ENCODING", _PLAIN).strip().lower() != _PLAIN:
            refusal = UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
            refusal.headers = {"Accept-Encoding": _PLAIN}
            raise refusal
        media_type = (request.content_type or "").split(";")[0].strip().lower()
        return next((p for p in parsers if p.media_type == media_type), None)

    def select_renderer(
        self, request: Request, renderers: Sequence[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """Return the first renderer."""
        return renderers[0], renderers[0].media_type
