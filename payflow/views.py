"""The root, the health endpoints and the API's own description."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.utils.cache import get_conditional_response
from django.utils.crypto import constant_time_compare
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import TemplateView
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from payflow import duties, health, metrics, openapi, schema
from payflow.api.describing import described
from payflow.api.headers import redoc_policy, swagger_policy
from payflow.api.viewsets import METHODS
from payflow.errors import NotAuthenticated, NotFound


class Public(APIView):
    """A view that looks at nobody's credentials."""

    http_method_names = METHODS
    authentication_classes = ()
    permission_classes = (AllowAny,)


@described(schema.ROOT)
class Root(Public):
    """`GET /`: what this is and where to go."""

    def get(self, request: Request) -> Response:
        """Return name, version and links."""
        paths = {"docs": "/docs", "openapi": "/openapi.json", "health": "/health", "admin": "/admin/"}
        links = {name: request.build_absolute_uri(path) for name, path in paths.items()}
        return Response({"name": "PayFlow", "version": settings.VERSION, "links": links})


@described(schema.READY)
class Ready(Public):
    """`GET /health/ready`: send requests here only while this is 200."""

    dependencies: Collection[str] = health.NEEDED_TO_SERVE

    def get(self, request: Request) -> Response:
        """Return the verdict on each dependency."""
        verdicts = health.check(self.dependencies)
        healthy = set(verdicts.values()) == {"up"}
        body = {"status": "ok" if healthy else "degraded", "dependencies": verdicts, **self.more(healthy)}
        return Response(body, status=200 if healthy else 503, headers={} if healthy else {"Retry-After": "2"})

    def more(self, healthy: bool) -> dict[str, Any]:
        """Return what else to say."""
        return {}


@described(schema.HEALTH)
class Health(Ready):
    """`GET /health`: each dependency, 503 if one is down; and how the work gets on."""

    dependencies = tuple(health.DEPENDENCIES)

    def more(self, healthy: bool) -> dict[str, Any]:
        """Add the reports; one that is not well makes the status "degraded"."""
        made = health.reports() if healthy else {}
        well = healthy and all(report.is_well for report in made.values())
        return {"status": "ok" if well else "degraded", **{name: r.facts for name, r in made.items()}}


@described(schema.LIVE)
class Live(Public):
    """`GET /health/live`: the process answers; restart it when this does not."""

    def get(self, request: Request) -> Response:
        """Return 200."""
        return Response({"status": "ok"})


@described(schema.METRICS)
class Metrics(Public):
    """`GET /metrics`: for Prometheus, which sends METRICS_TOKEN; in production there is no way in without."""

    def get(self, request: Request) -> HttpResponse:
        """Return every metric of every process."""
        token = settings.METRICS_TOKEN
        if not token and settings.IS_PRODUCTION:
            raise NotFound("There is nothing at this address.")
        if token and not constant_time_compare(request.headers.get("Authorization", ""), f"Bearer {token}"):
            raise NotAuthenticated("The token is missing or wrong.")
        duties.export_ages()
        return HttpResponse(metrics.render(settings.VERSION), content_type=metrics.CONTENT_TYPE)


class OpenApi(Public):
    """`GET /openapi.json`: what every endpoint takes and answers."""

    schema = None

    def get(self, request: Request) -> HttpResponse:
        """Return the document, or 304 to who has it (RFC 9110, 13.1.2)."""
        document = openapi.document()
        headers = {
            "ETag": document.etag,
            "Cache-Control": f"public, max-age={openapi.MAX_AGE_SECONDS}",
        }
        response = HttpResponse(document.body, content_type="application/json", headers=headers)
        return get_conditional_response(request._request, etag=document.etag, response=response) or response


# For people to read and to try out. Everything that they name comes from here. Redoc's bundle also asks for a
# logo at cdn.redoc.ly, and no option keeps it from that: the policy does, and Redoc does without. They take
# nothing that could be forged, and are to say so.
docs = csrf_exempt(swagger_policy(TemplateView.as_view(template_name="payflow/docs.html")))
redoc = csrf_exempt(redoc_policy(TemplateView.as_view(template_name="payflow/redoc.html")))
