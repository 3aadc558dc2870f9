"""`manage.py deactivate_user EMAIL`: safe to repeat."""

from __future__ import annotations

from accounts import services
from accounts.management.commands._user_command import UserCommand


class Command(UserCommand):
    """Deactivates one user."""

    help = "Freeze a user's wallets, then their account, then end their sessions."

    def handle_user(self, user_id: str) -> None:
        """Run the service."""
        services.deactivate_user(user_id=user_id)
