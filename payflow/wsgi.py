"""Django's WSGI application, but no media type keeps a request from its answer. The web front runs it."""

import os
from typing import Any

import django
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.utils.http import parse_header_parameters

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "payflow.settings")


class _Request(WSGIRequest):
    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        """Read the media type, and nothing by its charset.

        Django would decode the query by it here, outside of everything that answers for errors. JSON is UTF-8
        (RFC 8259, 8.1), and so are the admin's forms.
        """
        try:
            self.content_type, self.content_params = parse_header_parameters(meta.get("CONTENT_TYPE", ""))
        except (TypeError, ValueError):  # the standard library raises both
            # Others read it again where it stands.
            meta["CONTENT_TYPE"] = self.content_type = ""
            self.content_params = {}


class _Application(WSGIHandler):
    request_class = _Request


django.setup(set_prefix=False)
application = _Application()
