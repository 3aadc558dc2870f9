"""Gives each request its budgets: how long it may wait for each server in all (payflow/circuits.py)."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from payflow import circuits


class BudgetMiddleware:
    """Stands outside of all that asks a server."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer within the budgets."""
        with circuits.request_budgets():
            return self._get_response(request)
