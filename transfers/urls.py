"""The transaction routes, below /transactions."""

from __future__ import annotations

from django.urls import path, re_path

from payflow.text import ID_PATTERN
from transfers.views import TransactionViewSet, TransferBatchViewSet

urlpatterns = [
    path("", TransactionViewSet.as_view({"get": "list", "post": "create"}), name="transactions"),
    # Before what takes any id.
    path("/batch", TransferBatchViewSet.as_view({"post": "create"}), name="batches"),
    re_path(
        rf"^/batch/(?P<pk>{ID_PATTERN})\Z", TransferBatchViewSet.as_view({"get": "retrieve"}), name="batch"
    ),
    re_path(
        rf"^/(?P<pk>{ID_PATTERN})\Z", TransactionViewSet.as_view({"get": "retrieve"}), name="transaction"
    ),
    re_path(
        rf"^/(?P<pk>{ID_PATTERN})/receipt\Z", TransactionViewSet.as_view({"get": "receipt"}), name="receipt"
    ),
]
