"""Users and their API keys: what PayFlow keeps through Django's ORM, so that the admin works on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.core.exceptions import ValidationError
from django.db import models
from django_mongodb_backend.fields import ArrayField, ObjectIdAutoField

from payflow import clock, ids, text
from payflow.locales import DEFAULT_LOCALE, LOCALE_LENGTH_MAX, normal_locale

NAME_LENGTH_MAX = 120
PHONE_LENGTH_MAX = 16
API_KEY_PREFIX = "key_"
# Permissions besides add, change, delete and view. The first is declared in wallets/models.py.
MAY_DEPOSIT = "wallets.deposit"
MAY_SET_PASSWORDS = "accounts.set_password"
API_KEY_NAME_LENGTH_MAX = 60


def validate_locale(given: str) -> None:
    """Refuse what is not the one spelling of a known locale."""
    try:
        known = normal_locale(given)
    except ValueError:
        known = ""
    if known != given:
        raise ValidationError("Enter a locale such as en_US or de_DE.", code="invalid_locale")


def validate_email(given: str) -> None:
    """Refuse what is no email address."""
    if not text.is_email(text.email_spelling(given)):
        raise ValidationError("Enter a valid email address such as alice@example.com.", code="invalid_email")


def validate_name(given: str) -> None:
    """Refuse what is no name."""
    if not text.is_name(given):
        raise ValidationError("The name must be visible text on one line.", code="invalid_name")


class UserManager(BaseUserManager["User"]):
    """Makes and finds users; an email has one spelling here."""

    @classmethod
    def normalize_email(cls, email: str | None) -> str:
        """Return the spelling that is stored. Equality on it never needs a regular expression."""
        return text.email_spelling(email or "")

    def get_by_natural_key(self, username: str | None) -> User:
        """Return the user that signs in as `username`, in any case. Raises User.DoesNotExist."""
        return self.get(email=self.normalize_email(username))

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """Insert a user. Raises ValidationError, and django.db.IntegrityError when the email is taken."""
        validate_email(email)
        validate_name(fields.get("name", ""))
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(force_insert=True)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        """Insert a user who may do everything in the admin."""
        return self.create_user(email, password, **fields, is_staff=True, is_superuser=True)


class User(AbstractBaseUser, PermissionsMixin):
    """A person or service that signs in with an email."""

    id = ObjectIdAutoField(primary_key=True)
    email = models.EmailField(max_length=text.EMAIL_LENGTH_MAX, unique=True)
    name = models.CharField(max_length=NAME_LENGTH_MAX)
    phone = models.CharField(max_length=PHONE_LENGTH_MAX, blank=True, default="")
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    # How amounts and times are written in mails to this user, and whether there are any.
    locale = models.CharField(
        max_length=LOCALE_LENGTH_MAX, default=DEFAULT_LOCALE, validators=[validate_locale]
    )
    email_notifications = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=clock.now, editable=False)

    objects = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS = ["name"]

    class Meta:
        db_table = "users"
        permissions = [("set_password", "Can set the password of a customer")]
        # `unique=True` becomes a partial index, which equality does not use: this one serves the lookups.
        indexes = [models.Index(fields=["email"], name="users_email_equality")]

    def __str__(self) -> str:
        return self.email

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        """Validate the fields, by the API's definitions of an email and a name, too."""
        super().clean_fields(exclude)
        _validate({"email": validate_email, "name": validate_name}, self, exclude)

    def clean(self) -> None:
        """Bring the email into its one spelling, for forms too."""
        self.email = UserManager.normalize_email(self.email)


def _validate(
    validators: Mapping[str, Callable[[str], None]], row: models.Model, exclude: Collection[str] | None
) -> None:
    """Run validators that no migration has to know. Raises ValidationError with each field's error."""
    errors = {}
    for field, validate in validators.items():
        if field not in (exclude or ()):
            try:
                validate(getattr(row, field))
            except ValidationError as error:
                errors[field] = error
    if errors:
        raise ValidationError(errors)


def new_api_key_id() -> str:
    """Return the id of a new API key."""
    return ids.new_id(API_KEY_PREFIX.rstrip("_"))


class ApiKey(models.Model):
    """A machine's key to its owner's account; accounts/api_keys.py makes and reads them."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=40, editable=False)
    owner = models.ForeignKey(User, models.PROTECT, related_name="api_keys", db_index=False)
    name = models.CharField(max_length=API_KEY_NAME_LENGTH_MAX)
    hash = models.CharField(max_length=64, editable=False)
    scopes = ArrayField(models.CharField(max_length=40))
    created_at = models.DateTimeField(editable=False)
    created_by = models.ForeignKey(User, models.PROTECT, related_name="+", db_index=False, editable=False)
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)
    # `<owner>:<n>` while it may live: at most so many keys of one owner do.
    slot = models.CharField(max_length=40, null=True, unique=True, editable=False)

    class Meta:
        db_table = "api_keys"
        verbose_name = "API key"
        # One owner's keys, newest first; ids are ordered by time.
        indexes = [models.Index(fields=["owner", "id"], name="api_keys_of_owner")]

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        """Validate the fields, by the API's definition of a name, too."""
        super().clean_fields(exclude)
        _validate({"name": validate_name}, self, exclude)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}\u2026)"

    @property
    def prefix(self) -> str:
        """Return the beginning of the key as its holder has it: what tells keys apart and opens nothing."""
        return f"pk_{self.id.removeprefix(API_KEY_PREFIX)}"
