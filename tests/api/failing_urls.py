"""Addresses that fail as a test wants: one of a plain Django view, one of DRF's."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.urls import path
from rest_framework.request import Request

from payflow.views import Public

behaviour: list[Callable[[], HttpResponse]] = []


def plain(request: HttpRequest) -> HttpResponse:
    """Do what the test wants."""
    return behaviour[-1]()


class Framework(Public):
    """The same below DRF."""

    def get(self, request: Request) -> HttpResponse:
        """Do what the test wants."""
        return behaviour[-1]()


urlpatterns = [path("plain", plain), path("framework", Framework.as_view())]
PATHS = ("/plain", "/framework")
