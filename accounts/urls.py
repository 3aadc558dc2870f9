"""The account routes, below /auth/."""

from __future__ import annotations

from django.urls import path

from accounts.unsubscribing import UnsubscribeView
from accounts.views import OwnAccountViewSet, SessionViewSet

urlpatterns = [
    path("register", SessionViewSet.as_view({"post": "register"}), name="register"),
    path("login", SessionViewSet.as_view({"post": "login"}), name="login"),
    path("refresh", SessionViewSet.as_view({"post": "refresh"}), name="refresh"),
    path("logout", SessionViewSet.as_view({"post": "logout"}), name="logout"),
    path("password", OwnAccountViewSet.as_view({"post": "password"}), name="password"),
    path("me", OwnAccountViewSet.as_view({"get": "me", "patch": "change"}), name="me"),
    path("unsubscribe", UnsubscribeView.as_view(), name="unsubscribe"),
]
