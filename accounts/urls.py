"""The account routes, below /auth/."""

from __future__ import annotations

from django.urls import path, re_path

from accounts.unsubscribing import unsubscribe
from accounts.views import ApiKeyViewSet, OpenSessionsViewSet, OwnAccountViewSet, SessionViewSet
from payflow.text import ID_PATTERN

urlpatterns = [
    path("register", SessionViewSet.as_view({"post": "register"}), name="register"),
    path("login", SessionViewSet.as_view({"post": "login"}), name="login"),
    path("refresh", SessionViewSet.as_view({"post": "refresh"}), name="refresh"),
    path("logout", SessionViewSet.as_view({"post": "logout"}), name="logout"),
    path("password", OwnAccountViewSet.as_view({"post": "password"}), name="password"),
    path(
        "sessions", OpenSessionsViewSet.as_view({"get": "list", "delete": "destroy_others"}), name="sessions"
    ),
    re_path(
        rf"^sessions/(?P<pk>{ID_PATTERN})\Z",
        OpenSessionsViewSet.as_view({"delete": "destroy"}),
        name="session",
    ),
    path("api-keys", ApiKeyViewSet.as_view({"get": "list", "post": "create"}), name="api-keys"),
    re_path(
        rf"^api-keys/(?P<pk>{ID_PATTERN})\Z",
        ApiKeyViewSet.as_view({"get": "retrieve", "delete": "destroy"}),
        name="api-key",
    ),
    path("me", OwnAccountViewSet.as_view({"get": "me", "patch": "change"}), name="me"),
    path("unsubscribe", unsubscribe, name="unsubscribe"),
]
