"""The ledger's endpoints: for staff, but for the public keys."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from ledger import monitor, schema, simulation
from ledger.serializers import AuditOutput, SimulationInput, SimulationOutput
from payflow.api.describing import described
from payflow.api.fields import NoInput
from payflow.api.queries import ReadsQuery
from payflow.api.viewsets import METHODS, ApiViewSet
from payflow.errors import NotFound

# Publish a new key this long before it signs, and nobody meets a key that a cache does not know.
KEYS_MAX_AGE_SECONDS = 300


@described(schema.KEYS_OPERATIONS)
class KeysView(ReadsQuery):
    """The public keys of receipts, for everyone."""

    http_method_names = METHODS
    authentication_classes = ()
    permission_classes = (AllowAny,)

    def get(self, request: Request) -> Response:
        """GET /ledger/keys: a JWK set (RFC 7517)."""
        headers = {"Cache-Control": f"public, max-age={KEYS_MAX_AGE_SECONDS}"}
        return Response(settings.RECEIPT_SIGNING_KEYS.as_jwks(), headers=headers, content_type=schema.JWK_SET)


@described(schema.AUDIT)
class AuditViewSet(ApiViewSet):
    """The continuous audit's verdict, for staff."""

    permissions = {"retrieve": "ledger.view_audit"}

    def retrieve(self, request: Request) -> Response:
        """GET /ledger/audit: the latest verdict on the invariants."""
        return Response(AuditOutput.of(monitor.latest()).data)


@described(schema.SIMULATION)
class SimulationViewSet(ApiViewSet):
    """The failure simulation. In production there is no such thing, whoever asks."""

    permissions = dict.fromkeys(("retrieve", "update", "reset"), "ledger.change_simulation")

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse in production before anything is looked at, credentials included."""
        if settings.IS_PRODUCTION:
            raise NotFound("There is nothing at this address.")
        super().initial(request, *args, **kwargs)

    def retrieve(self, request: Request) -> Response:
        """GET /ledger/simulation: what is simulated."""
        return Response(SimulationOutput(simulation.read()).data)

    def update(self, request: Request) -> Response:
        """POST /ledger/simulation: change what is given, keep the rest."""
        wanted = SimulationInput(data=request.data)
        wanted.is_valid(raise_exception=True)
        state = simulation.change(by=request.user.id, **wanted.validated_data)
        return Response(SimulationOutput(state).data)

    def reset(self, request: Request) -> Response:
        """POST /ledger/simulation/reset: simulate nothing."""
        NoInput(data=request.data).is_valid(raise_exception=True)
        return Response(SimulationOutput(simulation.reset(by=request.user.id)).data)
