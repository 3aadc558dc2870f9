"""`manage.py ensure_staff`: make sure that a staff login exists, with this password."""

from __future__ import annotations

import os
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import services
from accounts.models import validate_email
from payflow.errors import Transient

PASSWORD_VARIABLE = "PAYFLOW_STAFF_PASSWORD"  # noqa: S105 - the variable's name


class Command(BaseCommand):
    """Creates or updates a superuser; prints nothing when it succeeds."""

    help = "Create or update a user who may do everything in the admin."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("--email", required=True)
        parser.add_argument("--password", help=f"better given in the environment as {PASSWORD_VARIABLE}")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        email = options["email"]
        password = options["password"] or os.environ.get(PASSWORD_VARIABLE)
        if not password:
            raise CommandError(f"Give a password with --password or in {PASSWORD_VARIABLE}.")
        try:
            validate_email(email)
            validate_password(password)
            services.ensure_staff(email=email, password=password)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        except Transient as error:
            raise CommandError(error.detail) from error
