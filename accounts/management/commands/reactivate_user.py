"""`manage.py reactivate_user EMAIL`: safe to repeat."""

from __future__ import annotations

from accounts import services
from accounts.management.commands._user_command import UserCommand


class Command(UserCommand):
    """Reactivates one user."""

    help = "Undo deactivate_user: the account and its wallets work again."

    def handle_user(self, user_id: str) -> None:
        """Run the service."""
        services.reactivate_user(user_id=user_id)
