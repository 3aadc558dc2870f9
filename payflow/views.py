"""The root and the health endpoints."""

from __future__ import annotations

from django.conf import settings
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from payflow import health


class Public(APIView):
    """A view that looks at nobody's credentials."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    schema = None


class Root(Public):
    """`GET /`: what this is and where to go."""

    def get(self, request: Request) -> Response:
        """Return name, version and links."""
        paths = {"docs": "/docs", "openapi": "/openapi.json", "health": "/health", "admin": "/admin/"}
        links = {name: request.build_absolute_uri(path) for name, path in paths.items()}
        return Response({"name": "PayFlow", "version": settings.VERSION, "links": links})


class Health(Public):
    """`GET /health`: each dependency; 503 if one is down."""

    def get(self, request: Request) -> Response:
        """Return the verdict on each dependency."""
        verdicts = health.check()
        healthy = set(verdicts.values()) == {"up"}
        body = {"status": "ok" if healthy else "degraded", "dependencies": verdicts}
        return Response(body, status=200 if healthy else 503, headers={} if healthy else {"Retry-After": "2"})


class Live(Public):
    """`GET /health/live`: the process answers; restart it when this does not."""

    def get(self, request: Request) -> Response:
        """Return 200."""
        return Response({"status": "ok"})


class Ready(Health):
    """`GET /health/ready`: send traffic here only while this is 200."""
