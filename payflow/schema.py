"""The root and the health endpoints for the OpenAPI document."""

from __future__ import annotations

from payflow.api.describing import Answer, Model, Operation, record, text
from payflow.errors import NotAuthenticated, NotFound
from payflow.health import DEPENDENCIES

TAG = "Service"
ROOT_MODEL = Model(
    "Root",
    record(
        "What this is and where to go.",
        name=text("PayFlow.", const="PayFlow"),
        version=text("The version that runs."),
        links={
            "type": "object",
            "description": "Addresses by name.",
            "additionalProperties": {"type": "string", "format": "uri"},
        },
    ),
)
_STATUS = text("`ok` when all is well.", enum=["ok", "degraded"])
_VERDICT = text("Whether it answers.", enum=["up", "down"])
LIVE_MODEL = Model("Live", record("The process answers.", status=text("ok.", const="ok")))
READY_MODEL = Model(
    "Ready",
    record(
        "Whether requests should come here.",
        status=_STATUS,
        dependencies=record("What is needed to serve.", mongodb=_VERDICT),
    ),
)
_SECONDS = {"type": "number", "minimum": 0}
_DUTIES = {
    "type": "object",
    "description": "The periodic work: how long ago each duty last ran without an error.",
    "properties": {
        "status": text(
            "`overdue`: a duty has not run for too long. `skewed`: clocks differ by more than is assumed. "
            "`unknown`: the report cannot be made now.",
            enum=["up", "overdue", "skewed", "unknown"],
        ),
        "overdue": {
            "type": "array",
            "items": {"type": "string"},
            "description": "The duties that are overdue.",
        },
        "ages_seconds": {
            "type": "object",
            "description": "By duty, how long ago it last ran, by the database's clock. "
            "One that never ran counts from when that was first seen.",
            "additionalProperties": _SECONDS,
        },
        "clock_offset_seconds": {
            **_SECONDS,
            "description": "How far the clock of a machine that runs duties is from the database's, at most.",
        },
    },
    "required": ["status"],
}
_HEALTH = record(
    "Each dependency; and, while all are up, a report of each part of the system.",
    status=_STATUS,
    dependencies=record("Every dependency.", **dict.fromkeys(sorted(DEPENDENCIES), _VERDICT)),
)
HEALTH_MODEL = Model(
    "Health",
    {
        **_HEALTH,
        "properties": {**_HEALTH["properties"], "duties": _DUTIES},
        "additionalProperties": {"type": "object", "description": "What one part says of itself."},
    },
)
_WELL = {"status": "ok", "dependencies": {"mongodb": "up"}}
_ALL_WELL = {
    "status": "ok",
    "dependencies": {"mongodb": "up", "redis": "up"},
    "duties": {
        "status": "up",
        "overdue": [],
        "ages_seconds": {"recovery": 1.2, "audit": 7.9},
        "clock_offset_seconds": 0.01,
    },
    "saga": {"status": "up", "queue_age_seconds": 0.0},
    "storage": {"status": "up", "free_mb": 74_600},
}

ROOT = {
    "get": Operation(
        id="getRoot",
        tag=TAG,
        summary="What this is and where to go",
        description="The name, the version that runs, and the addresses of the documentation and the health "
        "checks.",
        answers={
            200: Answer(
                description="Name, version, links.",
                body=ROOT_MODEL,
                examples={
                    "root": {
                        "name": "PayFlow",
                        "version": "0.1.0",
                        "links": {"docs": "https://pay.example/docs", "health": "https://pay.example/health"},
                    }
                },
            )
        },
        needs_servers=False,
    )
}
LIVE = {
    "get": Operation(
        id="getLive",
        tag=TAG,
        summary="Is the process alive?",
        description="Restart it when this does not answer.",
        answers={200: Answer(description="It is.", body=LIVE_MODEL, examples={"live": {"status": "ok"}})},
        needs_servers=False,
    )
}
READY = {
    "get": Operation(
        id="getReady",
        tag=TAG,
        summary="Should requests come here?",
        description="For load balancers: 503 while the database does not answer.",
        answers={
            200: Answer(description="They should.", body=READY_MODEL, examples={"ready": _WELL}),
            503: Answer(
                description="They should not, for now.",
                body=READY_MODEL,
                examples={"down": {"status": "degraded", "dependencies": {"mongodb": "down"}}},
                headers=["Retry-After"],
            ),
        },
        needs_servers=False,
    )
}
HEALTH = {
    "get": Operation(
        id="getHealth",
        tag=TAG,
        summary="Is everything there?",
        description="Also says how the work gets on: `degraded` with a 200 means that requests are served, "
        "and somebody should look.",
        answers={
            200: Answer(
                description="Every dependency is up.",
                body=HEALTH_MODEL,
                examples={
                    "well": _ALL_WELL,
                    "stalled": {
                        **_ALL_WELL,
                        "status": "degraded",
                        "saga": {"status": "stalled", "queue_age_seconds": 93.5},
                    },
                    "full": {
                        **_ALL_WELL,
                        "status": "degraded",
                        "storage": {"status": "full", "free_mb": 131},
                    },
                },
            ),
            503: Answer(
                description="A dependency is down.",
                body=HEALTH_MODEL,
                examples={"down": {"status": "degraded", "dependencies": {"mongodb": "up", "redis": "down"}}},
                headers=["Retry-After"],
            ),
        },
        needs_servers=False,
    )
}
METRICS = {
    "get": Operation(
        id="getMetrics",
        tag=TAG,
        summary="Metrics for Prometheus",
        description="Where a token is set for it, it is sent as a bearer token. In production there is no "
        "way in without.",
        answers={
            200: Answer(
                description="Every metric.", body=text("Prometheus' text format."), media_type="text/plain"
            )
        },
        refusals=[NotAuthenticated("The token is not valid."), NotFound("There is nothing at this address.")],
        needs_servers=False,
        security=[{}, {"metricsToken": []}],
    )
}
