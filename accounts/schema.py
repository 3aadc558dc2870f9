"""The account endpoints for the OpenAPI document."""

from __future__ import annotations

from accounts.errors import EmailTaken, InvalidCredentials
from accounts.serializers import (
    LoginInput,
    PasswordInput,
    RefreshInput,
    RegisterInput,
    SignedInOutput,
    TokensOutput,
    UserOutput,
)
from payflow.api.describing import Answer, Operation
from payflow.errors import NotAuthenticated

TAG = "Authentication"
USER = {
    "id": "6b03cb73d89c58b3ee4eee4b",
    "name": "Alice",
    "email": "alice@example.com",
    "phone": "+14155550123",
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
        "case-insensitively. A password has 10 to 128 characters and is none that everybody uses.",
        takes=RegisterInput,
        sends={"alice": {"name": "Alice", **CREDENTIALS, "phone": "+14155550123"}},
        answers={
            201: Answer(description="The user and their session.", body=SignedInOutput, examples=SIGNED_IN)
        },
        refusals=[EmailTaken],
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
        refusals=[InvalidCredentials],
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
        refusals=[NotAuthenticated],
    ),
    "logout": Operation(
        id="logout",
        tag=TAG,
        summary="Sign out",
        description="Ends the session that the refresh token belongs to. Safe to repeat.",
        takes=RefreshInput,
        sends={"refresh": {"refresh": TOKENS["refresh"]}},
        answers={204: Answer(description="The session is over.")},
        refusals=[NotAuthenticated],
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
        refusals=[InvalidCredentials],
    ),
    "me": Operation(
        id="getOwnUser",
        tag=TAG,
        summary="Get one's own account",
        answers={200: Answer(description="The caller.", body=UserOutput, examples={"alice": USER})},
    ),
}
