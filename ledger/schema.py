"""The ledger's endpoints for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from ledger.serializers import AuditOutput, SimulationInput, SimulationOutput
from payflow.api.describing import EXAMPLE_KEYS, Answer, Model, Operation, record, text
from payflow.api.fields import NoInput
from payflow.errors import NotFound

TAG = "Ledger"
JWK_SET = "application/jwk-set+json"
KEYS = Model(
    "KeySet",
    record(
        "A JWK set (RFC 7517).",
        keys={
            "type": "array",
            "description": "Every key that receipts in use were signed with; the first one signs now.",
            "minItems": 1,
            "items": record(
                "A public key (RFC 8037).",
                kty=text("Key type.", const="OKP"),
                crv=text("Curve.", const="Ed25519"),
                x=text("The public key, in base64url.", pattern="^[A-Za-z0-9_-]{43}$"),
                kid=text("Its name; signatures carry it."),
                alg=text("Algorithm.", const="EdDSA"),
                use=text("Purpose.", const="sig"),
            ),
        },
    ),
)
_AUDIT: dict[str, Any] = {
    "status": "CLEAN",
    "unverified": None,
    "beginning": {
        "at": "2026-11-23T05:10:02.118Z",
        "by": "PayFlow",
        "reason": "the ledger was empty",
        "instead_of": "",
    },
    "checked_at": "2026-11-23T05:13:30.004Z",
    "invariants": {f"L{number}": {"holds": True, "violations": 0} for number in range(1, 9)},
    "wallets_checked": 10,
    "entries_verified": 30,
    "lag": {"entries": 0, "seconds": 4.2},
    "history": {"began_at": "2026-11-23T05:13:20.000Z", "visited": 30, "last_ended_at": None},
    "transactions": {
        "began_at": "2026-11-23T05:13:30.004Z",
        "visited": 0,
        "last_ended_at": "2026-11-23T05:13:30.004Z",
    },
    "broken_wallets": [],
    "violations": [],
}
_SIMULATION = {"enabled": True, "failure_rate": 0.2, "fail_transaction_ids": [], "failure_type": "ERROR"}
_SIMULATED = {
    200: Answer(description="What is simulated now.", body=SimulationOutput, examples={"now": _SIMULATION})
}
_NOT_IN_PRODUCTION = (
    "Credits that are refused on purpose, to see money refunded. For staff with `ledger.change_simulation`;"
    " not in production."
)

_NOTHING_HERE = NotFound("There is nothing at this address.")

KEYS_OPERATIONS = {
    "get": Operation(
        id="getReceiptKeys",
        tag=TAG,
        summary="Get the keys that sign receipts",
        description="For anyone who wants to verify a receipt, without an account.",
        answers={
            200: Answer(
                description="The public keys. Caches may keep them for five minutes.",
                body=KEYS,
                media_type=JWK_SET,
                examples={"one": EXAMPLE_KEYS.as_jwks()},
            )
        },
        needs_servers=False,
    )
}
AUDIT = {
    "retrieve": Operation(
        id="getAudit",
        tag=TAG,
        summary="Get the audit's verdict",
        description="What the continuous audit says of the invariants L1 to L8. For staff with "
        "`ledger.view_audit`.",
        answers={200: Answer(description="The verdict.", body=AuditOutput, examples={"clean": _AUDIT})},
    )
}
SIMULATION = {
    "retrieve": Operation(
        id="getSimulation",
        tag=TAG,
        summary="Get what is simulated",
        description=_NOT_IN_PRODUCTION,
        answers=_SIMULATED,
        refusals=[_NOTHING_HERE],
    ),
    "update": Operation(
        id="changeSimulation",
        tag=TAG,
        summary="Simulate failures",
        description=f"{_NOT_IN_PRODUCTION} What is left out stays as it is.",
        takes=SimulationInput,
        sends={"a fifth": {"enabled": True, "failure_rate": 0.2}},
        answers=_SIMULATED,
        refusals=[_NOTHING_HERE],
    ),
    "reset": Operation(
        id="resetSimulation",
        tag=TAG,
        summary="Simulate nothing any more",
        description=_NOT_IN_PRODUCTION,
        takes=NoInput,
        sends={"nothing": {}},
        answers={
            200: Answer(
                description="Nothing is simulated.",
                body=SimulationOutput,
                examples={"off": {**_SIMULATION, "enabled": False, "failure_rate": 0.0}},
            )
        },
        refusals=[_NOTHING_HERE],
    ),
}
