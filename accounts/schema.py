"""The account endpoints for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from accounts.errors import (
    ApiKeyNotFound,
    DepositsNotGranted,
    EmailTaken,
    InvalidCredentials,
    TokenExpired,
    TooManyApiKeys,
)
from accounts.serializers import (
    ApiKeyInput,
    ApiKeysQuery,
    LoginInput,
    PasswordInput,
    ProfileInput,
    RefreshInput,
    RegisterInput,
    SignedInOutput,
    TokensOutput,
    UserOutput,
)
from payflow.api.describing import TIME, Answer, Model, Operation, nullable, page_of, record, text
from payflow.api.scopes import Scope
from payflow.errors import NotAuthenticated, NotFound

TAG = "Authentication"
API_KEY_TAG = "API keys"
USER = {
    "id": "6b03cb73d89c58b3ee4eee4b",
    "name": "Alice",
    "email": "alice@example.com",
    "phone": "+14155550123",
    "locale": "en_US",
    "email_notifications": True,
    "created_at": "2026-11-23T05:13:20.104Z",
}
TOKENS = {
    "access": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ0b2tlbl90eXBlIjoiYWNjZXNzIn0.Ax0V…",
    "refresh": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.nW3q…",
}
SIGNED_IN = {"alice": {"user": USER, **TOKENS}}
CREDENTIALS = {"email": "alice@example.com", "password": "violet-kettle-42"}

SESSION = {
    "register": Operation(
        id="register",
        tag=TAG,
        summary="Register",
        description="Creates a user with a wallet in the default currency, and signs them in. Emails compare "
        "case-insensitively. A password has 10 to 128 characters and is none that many people use.",
        takes=RegisterInput,
        sends={"alice": {"name": "Alice", **CREDENTIALS, "phone": "+14155550123"}},
        answers={
            201: Answer(description="The user and their session.", body=SignedInOutput, examples=SIGNED_IN)
        },
        refusals=[EmailTaken("Somebody has registered with this email already.", field="email")],
    ),
    "login": Operation(
        id="login",
        tag=TAG,
        summary="Sign in",
        description="An unknown email and a wrong password are answered alike, in like time.",
        takes=LoginInput,
        sends={"alice": CREDENTIALS},
        answers={
            200: Answer(description="The user and their session.", body=SignedInOutput, examples=SIGNED_IN)
        },
        refusals=[InvalidCredentials("The email or the password is wrong.")],
    ),
    "refresh": Operation(
        id="refreshTokens",
        tag=TAG,
        summary="Exchange a refresh token",
        description="A refresh token works once. When it is used twice, two parties hold it, and the "
        "session ends.",
        takes=RefreshInput,
        sends={"refresh": {"refresh": TOKENS["refresh"]}},
        answers={200: Answer(description="The next tokens.", body=TokensOutput, examples={"tokens": TOKENS})},
        refusals=[NotAuthenticated("The token is not valid."), TokenExpired()],
    ),
    "logout": Operation(
        id="logout",
        tag=TAG,
        summary="Sign out",
        description="Ends the session that the refresh token belongs to. Safe to repeat.",
        takes=RefreshInput,
        sends={"refresh": {"refresh": TOKENS["refresh"]}},
        answers={204: Answer(description="The session is over.")},
        refusals=[NotAuthenticated("The token is not valid."), TokenExpired()],
    ),
}

SESSION_MODEL = Model(
    "Session",
    record(
        "Somewhere that one is signed in.",
        id=text("The session's id."),
        created_at={**TIME, "description": "When it was opened."},
        last_used_at={**TIME, "description": "When its tokens were last exchanged."},
        expires_at={**TIME, "description": "When it ends unless it is used."},
        user_agent=nullable(text("What the client called itself.")),
        address=nullable(text("The network address it came from.")),
        current={"type": "boolean", "description": "Whether it is the session that asks."},
    ),
)
SESSIONS = Model(
    "SessionList",
    record(
        "One's open sessions.",
        results={"type": "array", "items": SESSION_MODEL, "description": "The last used first."},
    ),
)
OPEN_SESSIONS = {
    "list": Operation(
        id="listSessions",
        tag="Sessions",
        summary="List one's sessions",
        description="The last used first.",
        answers={
            200: Answer(
                description="Every open session.",
                body=SESSIONS,
                examples={
                    "one": {
                        "results": [
                            {
                                "id": "0b9c6a4a5d8e4f0f9a31c2d4e5f60718",
                                "created_at": "2026-11-23T05:13:20.000Z",
                                "last_used_at": "2026-11-23T05:27:41.000Z",
                                "expires_at": "2026-11-30T05:27:41.000Z",
                                "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0",
                                "address": "203.0.113.9",
                                "current": True,
                            }
                        ]
                    }
                },
            )
        },
    ),
    "destroy_others": Operation(
        id="endOtherSessions",
        tag="Sessions",
        summary="End all other sessions",
        description="All but the one that asks.",
        answers={204: Answer(description="They are over.")},
    ),
    "destroy": Operation(
        id="endSession",
        tag="Sessions",
        summary="End a session",
        description="Its access tokens end, too.",
        path={"id": "The session's id."},
        answers={204: Answer(description="It is over.")},
        refusals=[NotFound("There is no such session.")],
    ),
}

API_KEY_EXAMPLE = {
    "id": "key_01a20bc2e5f03c9a7d1b4e6f80a2b3c4",
    "name": "Nightly payouts",
    "prefix": "pk_01a20bc2e5f03c9a7d1b4e6f80a2b3c4",
    "scopes": [Scope.TRANSACTIONS_READ.value, Scope.TRANSACTIONS_WRITE.value],
    "created_at": "2026-11-23T05:13:20.104Z",
    "created_by": USER["id"],
    "expires_at": "2027-02-21T05:13:20.104Z",
    "last_used_at": None,
    "revoked_at": None,
}
_API_KEY_FIELDS: dict[str, Any] = {
    "id": text("The API key's id."),
    "name": text("What its owner calls it."),
    "prefix": text("How the key begins: what tells keys apart and opens nothing."),
    "scopes": {
        "type": "array",
        "items": {"type": "string", "enum": [scope.value for scope in Scope]},
        "minItems": 1,
        "uniqueItems": True,
        "description": "What it may do.",
    },
    "created_at": TIME,
    "created_by": text("The user who made it: its owner, or staff."),
    "expires_at": {**TIME, "description": "When it ends."},
    "last_used_at": nullable({**TIME, "description": "When it was last used, to about a minute."}),
    "revoked_at": nullable({**TIME, "description": "When it was revoked, if it was."}),
}
API_KEY = Model("ApiKey", record("A key of a machine.", **_API_KEY_FIELDS))
MINTED_API_KEY = Model(
    "MintedApiKey",
    record(
        "A new API key.",
        **_API_KEY_FIELDS,
        key=text("What to send as `Authorization: Bearer pk_...`. It is shown in this answer only."),
    ),
)
API_KEYS = {
    "create": Operation(
        id="createApiKey",
        tag=API_KEY_TAG,
        summary="Make an API key",
        description="For a machine that acts for you within `scopes`. It expires after `expires_in_days` or "
        "at `expires_at`, else after 90 days unless this installation says otherwise. Where deposits are not "
        "open, only staff grant `deposits:write`.",
        takes=ApiKeyInput,
        sends={
            "payouts": {
                "name": API_KEY_EXAMPLE["name"],
                "scopes": API_KEY_EXAMPLE["scopes"],
                "expires_in_days": 90,
            }
        },
        answers={
            201: Answer(
                description="The key. Keep it: nobody can show it again.",
                body=MINTED_API_KEY,
                examples={
                    "payouts": {**API_KEY_EXAMPLE, "key": f"{API_KEY_EXAMPLE['prefix']}_{'x' * 40}\u2026"}
                },
                headers=["Location"],
            )
        },
        refusals=[
            TooManyApiKeys("There are 20 living API keys already; 20 are allowed."),
            DepositsNotGranted(
                "Granting deposits:write needs the permission wallets.deposit.", field="scopes"
            ),
        ],
    ),
    "list": Operation(
        id="listApiKeys",
        tag=API_KEY_TAG,
        summary="List one's API keys",
        description="Newest first, revoked and expired ones included.",
        query=ApiKeysQuery,
        answers={
            200: Answer(
                description="A page of keys.",
                body=page_of(API_KEY, "API keys, newest first."),
                examples={"one": {"results": [API_KEY_EXAMPLE], "next": None}},
            )
        },
    ),
    "retrieve": Operation(
        id="getApiKey",
        tag=API_KEY_TAG,
        summary="Get an API key",
        description="Everything but the key itself, which nobody can show again.",
        path={"id": "The API key's id."},
        answers={200: Answer(description="The key.", body=API_KEY, examples={"payouts": API_KEY_EXAMPLE})},
        refusals=[ApiKeyNotFound("There is no such API key.")],
    ),
    "destroy": Operation(
        id="revokeApiKey",
        tag=API_KEY_TAG,
        summary="Revoke an API key",
        description="The next request with it is refused. Safe to repeat.",
        path={"id": "The API key's id."},
        answers={204: Answer(description="It is revoked.")},
        refusals=[ApiKeyNotFound("There is no such API key.")],
    ),
}

OWN_ACCOUNT = {
    "password": Operation(
        id="changePassword",
        tag=TAG,
        summary="Change one's password",
        description="Ends all of the user's other sessions.",
        takes=PasswordInput,
        sends={
            "change": {"current_password": "violet-kettle-42", "new_password": "an even longer kettle"},
        },
        answers={204: Answer(description="The password is changed.")},
        refusals=[InvalidCredentials("The current password is wrong.", field="current_password")],
    ),
    "me": Operation(
        id="getOwnUser",
        tag=TAG,
        summary="Get one's own account",
        description="The user that the access token belongs to.",
        answers={200: Answer(description="The caller.", body=UserOutput, examples={"alice": USER})},
    ),
    "change": Operation(
        id="changeOwnUser",
        tag=TAG,
        summary="Change how one is told of payments",
        description="`locale` is how e-mails write amounts and times; `email_notifications` whether any are "
        "sent. What is left out stays.",
        takes=ProfileInput,
        sends={"german": {"locale": "de_DE"}, "no e-mails": {"email_notifications": False}},
        answers={
            200: Answer(
                description="The caller.",
                body=UserOutput,
                examples={
                    "german": {**USER, "locale": "de_DE"},
                    "quiet": {**USER, "email_notifications": False},
                },
            )
        },
    ),
}
