"""The transaction routes, below /transactions."""

from __future__ import annotations

from django.urls import path, re_path

from payflow.api.fields import ID_PATTERN
from transfers.views import TransactionViewSet

urlpatterns = [
    path("", TransactionViewSet.as_view({"get": "list", "post": "create"}), name="transactions"),
    re_path(
        rf"^/(?P<pk>{ID_PATTERN})\Z", TransactionViewSet.as_view({"get": "retrieve"}), name="transaction"
    ),
    re_path(
        rf"^/(?P<pk>{ID_PATTERN})/receipt\Z", TransactionViewSet.as_view({"get": "receipt"}), name="receipt"
    ),
]
