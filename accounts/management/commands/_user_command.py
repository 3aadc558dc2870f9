"""What the commands about one user share."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import selectors
from payflow.errors import Transient


class UserCommand(BaseCommand):
    """A command that takes the email of a user who exists."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("email")

    def handle(self, *args: Any, **options: Any) -> None:
        """Find the user and run the command on them; a failure is one sentence."""
        try:
            user = selectors.find_user_by_email(email=options["email"])
            if user is None:
                raise CommandError(f"There is no user {options['email']}.")
            self.handle_user(str(user.pk))
        except Transient as error:
            raise CommandError(error.detail) from error

    def handle_user(self, user_id: str) -> None:
        """Do what the command is for."""
        raise NotImplementedError
