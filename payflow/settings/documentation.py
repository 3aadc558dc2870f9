"""The OpenAPI document's frame. What each endpoint is stands in its app's `schema.py`."""

from __future__ import annotations

from payflow.settings.base import VERSION

_DESCRIPTION = """\
PayFlow moves money between users' wallets. A transfer is debited from the sender, credited to the receiver
and completed; when the credit cannot happen, the sender is refunded. Each step is an entry in a ledger that
anyone can check.

**Amounts** are decimal strings in the currency's own precision (`"25.50"` USD, `"7"` JPY). Requests may use
JSON numbers instead. An amount that its currency cannot express is refused, never rounded. **Times** are
RFC 3339 in UTC with milliseconds; requests may use any offset. **Ids** are opaque strings. Fields and query
parameters that are not described are refused in requests, and so are those that are sent twice; clients
should ignore fields that they do not know in answers. Only the root, the health checks, `/metrics` and the
documents ignore their query. An encoded slash or backslash in a path is a 404.

**Repeating is safe.** Send an `Idempotency-Key` with every POST, PUT and PATCH of somebody who is signed in.
When the answer got lost, send the same again with the same key: it is answered like the first, with
`Idempotent-Replayed: true`, and nothing happens twice. Answers of 400, 401, 403, 429 and 5xx settle nothing
and are not kept: a repeat is carried out. Registering, signing in, exchanging a refresh token and signing
out take no key; a DELETE needs none.

**Waiting.** A transfer goes on by itself once it is written down. `Prefer: wait=5` holds the answer until it
has ended, for up to so many seconds (30 at most).

**Pages.** Lists that grow come newest first, `limit` rows at a time (20 unless you say so, 100 at most), as
`{"results", "next"}`. For the page after, ask with the `next` as `cursor` and with the same filters; on the
last page `next` is null. Pages stay as they are while rows are added. A webhook's events come oldest first
instead, and never end: ask with their `next` as `after`, whenever you want to know what came since.

**Errors** are problem documents (RFC 9457, `application/problem+json`). Decide by `code`; `detail` is for
people. A 503 carries `Retry-After`: send the request again then, with its key. What belongs to somebody
else is a 404.

**Limits** count per user, or per address without one. Answers say where you stand (`RateLimit-*`); a 429
says when to come back (`Retry-After`).

**Tracing.** Every answer carries `X-Correlation-Id`: the one you sent (`X-Request-Id` is read, too), or a new
one. Name it when you ask for help.
"""

_TAGS = {
    "Authentication": "Registering, signing in and out, and one's own account.",
    "Sessions": "Where one is signed in, and ending it.",
    "API keys": "Keys for machines, with scopes of what they may do.",
    "Wallets": "Balances, deposits, withdrawals and the entries behind them.",
    "Transactions": "Transfers to other users, and receipts of them.",
    "Batches": "Up to a thousand transfers in one request.",
    "Webhooks": "Being told what happens, by signed requests to an address of one's own.",
    "Ledger": "The continuous audit, the keys that sign receipts, and simulated failures.",
    "Service": "What this is and how it gets on.",
}

SPECTACULAR_SETTINGS = {
    "OAS_VERSION": "3.1.1",
    "TITLE": "PayFlow",
    "VERSION": VERSION,
    "DESCRIPTION": _DESCRIPTION,
    "TAGS": [{"name": name, "description": description} for name, description in _TAGS.items()],
    "SERVERS": [{"url": "/", "description": "The server that this document comes from."}],
    "APPEND_COMPONENTS": {
        "securitySchemes": {
            "accessToken": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "A user's access token, from `POST /auth/login` or `POST /auth/refresh`.",
            },
            "apiKey": {
                "type": "http",
                "scheme": "bearer",
                "description": "A machine's API key (`pk_…`), from `POST /auth/api-keys`. It does what its "
                "scopes say; each operation names the scope it needs, and one that names none takes no "
                "keys.",
            },
            "metricsToken": {
                "type": "http",
                "scheme": "bearer",
                "description": "The token for Prometheus, where the operator has set one (`METRICS_TOKEN`).",
            },
        }
    },
    "PREPROCESSING_HOOKS": ["payflow.api.schema.in_order"],
    "POSTPROCESSING_HOOKS": ["payflow.api.schema.finish", "webhooks.event_schema.add_webhooks"],
    # What is sent and what is answered are different things, with different rules.
    "COMPONENT_SPLIT_REQUEST": True,
    # In the order of the addresses.
    "SORT_OPERATIONS": False,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
}
