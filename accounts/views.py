"""The account endpoints. No answer of theirs is ever to be cached: they carry tokens or personal data."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import selectors, services
from accounts.serializers import (
    LoginInput,
    PasswordInput,
    ProfileInput,
    RefreshInput,
    RegisterInput,
    SignedInOutput,
    TokensOutput,
    UserOutput,
)
from payflow.api.viewsets import ApiViewSet
from payflow.errors import NotAuthenticated


class SessionViewSet(ApiViewSet):
    """Coming and going. The body carries the credentials, so an old token in the header does no harm."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(request=RegisterInput, responses={201: SignedInOutput})
    def register(self, request: Request) -> Response:
        """POST /auth/register: create a user with a wallet in the default currency."""
        wanted = _valid(RegisterInput(data=request.data))
        return Response(SignedInOutput(services.register_user(**wanted)).data, status=201)

    @extend_schema(request=LoginInput, responses={200: SignedInOutput})
    def login(self, request: Request) -> Response:
        """POST /auth/login: open a session."""
        return Response(SignedInOutput(services.sign_in(**_valid(LoginInput(data=request.data)))).data)

    @extend_schema(request=RefreshInput, responses={200: TokensOutput})
    def refresh(self, request: Request) -> Response:
        """POST /auth/refresh: exchange a refresh token, which works once, for the next pair."""
        pair = services.refresh_session(**_valid(RefreshInput(data=request.data)))
        return Response(TokensOutput(pair).data)

    @extend_schema(request=RefreshInput, responses={204: None})
    def logout(self, request: Request) -> Response:
        """POST /auth/logout: end the session of a refresh token."""
        services.sign_out(**_valid(RefreshInput(data=request.data)))
        return Response(status=204)


class OwnAccountViewSet(ApiViewSet):
    """The caller's own account."""

    @extend_schema(request=PasswordInput, responses={204: None})
    def password(self, request: Request) -> Response:
        """POST /auth/password: set a new password and end all other sessions."""
        user = request.user.record
        wanted = _valid(PasswordInput(data=request.data, context={"user": user}))
        services.change_password(user=user, family=request.user.family, **wanted)
        return Response(status=204)

    @extend_schema(responses={200: UserOutput})
    def me(self, request: Request) -> Response:
        """GET /auth/me: the caller."""
        user = selectors.find_user(user_id=request.user.id)
        if user is None or not user.is_active:
            raise NotAuthenticated("This account cannot be used.")
        services.ensure_default_wallet(user)
        return Response(UserOutput(user).data)

    @extend_schema(request=ProfileInput, responses={200: UserOutput})
    def change(self, request: Request) -> Response:
        """PATCH /auth/me: how and whether the caller hears of payments by e-mail."""
        selectors.require_active(user_id=request.user.id)
        services.change_profile(user_id=request.user.id, **_valid(ProfileInput(data=request.data)))
        return Response(UserOutput(selectors.require_active(user_id=request.user.id)).data)


def _valid(wanted: Any) -> dict[str, Any]:
    wanted.is_valid(raise_exception=True)
    return dict(wanted.validated_data)
