"""The wallet routes, below /wallets."""

from __future__ import annotations

from django.urls import path, re_path

from payflow.text import ID_PATTERN
from wallets.views import WalletViewSet

urlpatterns = [
    path("", WalletViewSet.as_view({"get": "list", "post": "create"}), name="wallets"),
    path("/me", WalletViewSet.as_view({"get": "me"}), name="wallet-me"),
    path("/me/deposit", WalletViewSet.as_view({"post": "deposit"}), name="wallet-deposit"),
    path("/me/withdraw", WalletViewSet.as_view({"post": "withdraw"}), name="wallet-withdraw"),
    path("/me/history", WalletViewSet.as_view({"get": "history"}), name="wallet-history"),
    re_path(
        rf"^/(?P<pk>{ID_PATTERN})/balance\Z", WalletViewSet.as_view({"get": "balance"}), name="wallet-balance"
    ),
]
