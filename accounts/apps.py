"""The accounts app: users, their sessions and who is calling."""

from __future__ import annotations

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Users and their sessions."""

    name = "accounts"
