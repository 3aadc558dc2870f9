"""The ledger's routes, below /ledger/."""

from __future__ import annotations

from django.urls import path

from ledger.views import AuditViewSet, KeysView, SimulationViewSet

urlpatterns = [
    path("audit", AuditViewSet.as_view({"get": "retrieve"}), name="ledger-audit"),
    path("keys", KeysView.as_view(), name="ledger-keys"),
    path(
        "simulation",
        SimulationViewSet.as_view({"get": "retrieve", "post": "update"}),
        name="ledger-simulation",
    ),
    path("simulation/reset", SimulationViewSet.as_view({"post": "reset"}), name="ledger-simulation-reset"),
]
