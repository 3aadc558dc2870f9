"""The account endpoints. No answer of theirs is ever to be cached: they carry tokens or personal data."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import api_keys, schema, selectors, services, sessions
from accounts.errors import ApiKeyNotFound
from accounts.serializers import (
    ApiKeyInput,
    LoginInput,
    PasswordInput,
    ProfileInput,
    RefreshInput,
    RegisterInput,
    SignedInOutput,
    TokensOutput,
    UserOutput,
    api_key_body,
    session_body,
)
from payflow.api.addresses import client_network
from payflow.api.describing import described
from payflow.api.pages import page
from payflow.api.viewsets import ApiViewSet
from payflow.errors import NotAuthenticated


@described(schema.SESSION)
class SessionViewSet(ApiViewSet):
    """Coming and going. The body carries the credentials, so an old token in the header does no harm."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    limits = dict.fromkeys(("register", "login", "refresh", "logout"), "auth")
    naming_emails = frozenset({"register", "login"})

    def register(self, request: Request) -> Response:
        """POST /auth/register: create a user with a wallet in the default currency."""
        wanted = _valid(RegisterInput(data=request.data))
        signed_in = services.register_user(**wanted, device=_device(request))
        return Response(SignedInOutput(signed_in).data, status=201)

    def login(self, request: Request) -> Response:
        """POST /auth/login: open a session."""
        wanted = _valid(LoginInput(data=request.data))
        return Response(SignedInOutput(services.sign_in(**wanted, device=_device(request))).data)

    def refresh(self, request: Request) -> Response:
        """POST /auth/refresh: exchange a refresh token, which works once, for the next pair."""
        wanted = _valid(RefreshInput(data=request.data))
        pair = services.refresh_session(**wanted, device=_device(request))
        return Response(TokensOutput(pair).data)

    def logout(self, request: Request) -> Response:
        """POST /auth/logout: end the session of a refresh token."""
        services.sign_out(**_valid(RefreshInput(data=request.data)))
        return Response(status=204)


@described(schema.OPEN_SESSIONS)
class OpenSessionsViewSet(ApiViewSet):
    """The caller's open sessions. Ending one ends its access tokens, too."""

    def list(self, request: Request) -> Response:
        """GET /auth/sessions: the last used first; at most SESSIONS_PER_USER_MAX."""
        found = sessions.list_families(user_id=request.user.id)
        return Response({"results": [session_body(s, current=request.user.family) for s in found]})

    def destroy(self, request: Request, pk: str) -> Response:
        """DELETE /auth/sessions/{id}: end one."""
        services.revoke_session(user_id=request.user.id, family=pk)
        return Response(status=204)

    def destroy_others(self, request: Request) -> Response:
        """DELETE /auth/sessions: end all but the one that asks."""
        sessions.close_other_families(user_id=request.user.id, family=request.user.family)
        return Response(status=204)


@described(schema.OWN_ACCOUNT)
class OwnAccountViewSet(ApiViewSet):
    """The caller's own account."""

    limits = {"password": "auth"}

    def password(self, request: Request) -> Response:
        """POST /auth/password: set a new password and end all other sessions."""
        user = request.user.record
        wanted = _valid(PasswordInput(data=request.data, context={"user": user}))
        services.change_password(user=user, family=request.user.family, **wanted)
        return Response(status=204)

    def me(self, request: Request) -> Response:
        """GET /auth/me: the caller."""
        user = selectors.find_user(user_id=request.user.id)
        if user is None or not user.is_active:
            raise NotAuthenticated("This account cannot be used.")
        services.ensure_default_wallet(user)
        return Response(UserOutput(user).data)

    def change(self, request: Request) -> Response:
        """PATCH /auth/me: how and whether the caller hears of payments by e-mail."""
        selectors.require_active(user_id=request.user.id)
        services.change_profile(user_id=request.user.id, **_valid(ProfileInput(data=request.data)))
        return Response(UserOutput(selectors.require_active(user_id=request.user.id)).data)


@described(schema.API_KEYS)
class ApiKeyViewSet(ApiViewSet):
    """The caller's API keys. No scope opens this: who holds a key makes none, and sees none."""

    limits = {"create": "auth"}

    def create(self, request: Request) -> Response:
        """POST /auth/api-keys: the answer is the one place where the key is shown."""
        wanted, owner = _valid(ApiKeyInput(data=request.data)), request.user.record
        minted = api_keys.mint_key(owner=owner, created_by=owner, **wanted)
        headers = {"Location": f"/auth/api-keys/{minted.key.id}"}
        return Response({**api_key_body(minted.key), "key": minted.encoded}, status=201, headers=headers)

    def list(self, request: Request) -> Response:
        """GET /auth/api-keys: newest first, revoked and expired ones included."""
        asked = self.query
        found = selectors.list_api_keys(
            user_id=request.user.id, limit=asked["limit"] + 1, before_id=asked.get("cursor")
        )
        return Response(page(found, asked["limit"], key=lambda key: key.id, render=api_key_body))

    def retrieve(self, request: Request, pk: str) -> Response:
        """GET /auth/api-keys/{id}."""
        key = selectors.find_api_key(user_id=request.user.id, key_id=pk)
        if key is None:
            raise ApiKeyNotFound("There is no such API key.")
        return Response(api_key_body(key))

    def destroy(self, request: Request, pk: str) -> Response:
        """DELETE /auth/api-keys/{id}: its next request is refused."""
        api_keys.revoke_key(user_id=request.user.id, key_id=pk)
        return Response(status=204)


def _device(request: Request) -> sessions.Device:
    return sessions.Device(
        address=client_network(request.META), user_agent=request.META.get("HTTP_USER_AGENT", "")
    )


def _valid(wanted: Any) -> dict[str, Any]:
    wanted.is_valid(raise_exception=True)
    return dict(wanted.validated_data)
