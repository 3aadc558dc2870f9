"""What the account endpoints take and give."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError as DjangoValidationError
from django.core.validators import RegexValidator
from rest_framework import serializers

from accounts.hashers import normalised
from accounts.models import (
    API_KEY_NAME_LENGTH_MAX,
    NAME_LENGTH_MAX,
    PHONE_LENGTH_MAX,
    ApiKey,
    User,
)
from accounts.sessions import Session
from accounts.tokens import TOKEN_LENGTH_MAX
from payflow import clock, text
from payflow.api.fields import FlagField, NameField, StrictCharField, StrictSerializer, TimeField
from payflow.api.pages import CursorField, PageQuery
from payflow.api.scopes import Scope
from payflow.locales import LOCALE_LENGTH_MAX, normal_locale

PASSWORD_LENGTH_MAX = 128
HOW_TO_CHOOSE = "10 to 128 characters, spaces included, and not easy to guess."
ACCESS = "What to send as `Authorization: Bearer ...`. It is good for some minutes."
REFRESH = "What to exchange for new tokens. It works once."


class EmailField(StrictCharField):
    """An email address in ASCII without a quoted part, given back in the one spelling that is stored."""

    json_schema = {
        "type": "string",
        "pattern": f"^{text.EMAIL_PATTERN}$",
        "description": "An email address in ASCII, with a dot in its domain; given back in lower case.",
    }
    default_error_messages = {"invalid_email": "Enter an email address such as alice@example.com."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=text.EMAIL_LENGTH_MAX, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the address in lower case, without the blanks around it."""
        address = text.email_spelling(super().to_internal_value(data))
        # One that is too long has its error already.
        if len(address) <= text.EMAIL_LENGTH_MAX and not text.is_email(address):
            self.fail("invalid_email")
        return address


class PasswordField(StrictCharField):
    """A password as typed: spaces count."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=PASSWORD_LENGTH_MAX, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the form that is hashed."""
        return normalised(super().to_internal_value(data))


class PhoneField(StrictCharField):
    """A phone number in E.164 form; empty or null means none."""

    def __init__(self, **kwargs: Any) -> None:
        form = RegexValidator(
            r"\A\+[1-9][0-9]{6,14}\Z", "Enter the number as +14155550123 (E.164).", "invalid_phone"
        )
        super().__init__(
            max_length=PHONE_LENGTH_MAX, allow_blank=True, allow_null=True, validators=[form], **kwargs
        )


class LocaleField(StrictCharField):
    """A locale that is known (Unicode CLDR), such as de_DE or de-DE."""

    default_error_messages = {"invalid_locale": "Enter a locale such as en_US or de_DE."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=LOCALE_LENGTH_MAX, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return its one spelling."""
        sent, known = super().to_internal_value(data), ""
        with suppress(ValueError):
            known = normal_locale(sent)
        if not known:
            self.fail("invalid_locale")
        return known


class RefreshField(StrictCharField):
    """An encoded refresh token."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=TOKEN_LENGTH_MAX, **kwargs)


class RegisterInput(StrictSerializer):
    """POST /auth/register."""

    name = NameField(
        max_length=NAME_LENGTH_MAX,
        help_text="A person's or company's name in any script: visible text on one line.",
    )
    email = EmailField()
    password = PasswordField(help_text=HOW_TO_CHOOSE)
    phone = PhoneField(
        required=False, help_text="A phone number such as `+14155550123` (E.164); empty or null means none."
    )

    def validate(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Hold the password against the rules, which know the name and the email."""
        _check_password("password", attrs["password"], User(name=attrs["name"], email=attrs["email"]))
        return {**attrs, "phone": attrs.get("phone") or ""}


class LoginInput(StrictSerializer):
    """POST /auth/login."""

    email = EmailField()
    password = PasswordField(help_text="The user's password.")


class RefreshInput(StrictSerializer):
    """POST /auth/refresh and POST /auth/logout."""

    refresh = RefreshField(help_text="The session's newest refresh token.")


class PasswordInput(StrictSerializer):
    """POST /auth/password. `context["user"]` is the user as stored."""

    current_password = PasswordField(help_text="The password until now.")
    new_password = PasswordField(help_text=HOW_TO_CHOOSE)

    def validate(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Hold the new password against the rules."""
        _check_password("new_password", attrs["new_password"], self.context["user"])
        return dict(attrs)


class ProfileInput(StrictSerializer):
    """PATCH /auth/me."""

    locale = LocaleField(
        required=False, help_text="How e-mails write amounts and times: a locale such as `de_DE` or `en-US`."
    )
    email_notifications = FlagField(required=False, help_text="Whether to send e-mails about payments.")


def _check_password(field: str, password: str, user: User) -> None:
    try:
        validate_password(password, user)
    except DjangoValidationError as error:
        reasons = [
            serializers.ErrorDetail(reason.messages[0], reason.code or "invalid")
            for reason in error.error_list
        ]
        raise serializers.ValidationError({field: reasons}) from error


class UserOutput(serializers.Serializer):
    """A user as their owner sees them."""

    id = serializers.CharField(help_text="The user's id.")
    name = serializers.CharField(help_text="A person's or company's name.")
    email = serializers.CharField(help_text="The address to sign in with, in lower case.")
    phone = serializers.SerializerMethodField(help_text="A phone number (E.164), or null if there is none.")
    locale = serializers.CharField(help_text="How e-mails write amounts and times.")
    email_notifications = serializers.BooleanField(help_text="Whether e-mails about payments are sent.")
    created_at = TimeField(help_text="When the user registered.")

    def get_phone(self, user: User) -> str | None:
        """Return the number, or null when there is none."""
        return user.phone or None


class TokensOutput(serializers.Serializer):
    """A session's next pair of tokens."""

    access = serializers.CharField(help_text=ACCESS)
    refresh = serializers.CharField(help_text=REFRESH)


class SignedInOutput(serializers.Serializer):
    """A user and their new session."""

    user = UserOutput()
    access = serializers.CharField(source="tokens.access", help_text=ACCESS)
    refresh = serializers.CharField(source="tokens.refresh", help_text=REFRESH)


class DaysField(serializers.IntegerField):
    """A number of days that a key lives, as a JSON number."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=1, max_value=settings.API_KEY_DAYS_MAX, **kwargs)

    def to_internal_value(self, data: Any) -> int:
        """Return the number; texts and booleans are not quietly converted."""
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class ScopesField(serializers.ListField):
    """Scopes of an API key, each once."""

    default_error_messages = {"repeated_scope": "Name each scope once."}

    def __init__(self, **kwargs: Any) -> None:
        child = serializers.ChoiceField(choices=[scope.value for scope in Scope])
        super().__init__(child=child, allow_empty=False, max_length=len(Scope), **kwargs)

    def to_internal_value(self, data: Any) -> list[str]:
        """Return the scopes."""
        scopes = super().to_internal_value(data)
        if len(set(scopes)) < len(scopes):
            self.fail("repeated_scope")
        return scopes


class ApiKeyInput(StrictSerializer):
    """POST /auth/api-keys. Gives `expires_at` whether that, `expires_in_days` or neither was sent."""

    name = NameField(
        max_length=API_KEY_NAME_LENGTH_MAX, help_text="What you call the key: visible text on one line."
    )
    scopes = ScopesField(help_text="What the key may do; each scope once.")
    expires_in_days = DaysField(
        required=False, help_text="How many days the key lives. Send this or `expires_at`, not both."
    )
    expires_at = TimeField(
        required=False, help_text="When the key ends. Send this or `expires_in_days`, not both."
    )

    def validate(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Settle when the key expires: at most API_KEY_DAYS_MAX days from now."""
        now = clock.now()
        days = attrs.get("expires_in_days", settings.API_KEY_DAYS_DEFAULT)
        expires_at = attrs.get("expires_at", now + timedelta(days=days))
        latest = now + timedelta(days=settings.API_KEY_DAYS_MAX)
        if "expires_in_days" in attrs and "expires_at" in attrs:
            _refuse("expires_at", "Send expires_in_days or expires_at, not both.", "both_given")
        if not now < expires_at <= latest:
            _refuse(
                "expires_at",
                f"A key lives at most {settings.API_KEY_DAYS_MAX} days from now.",
                "out_of_range",
            )
        return {"name": attrs["name"], "scopes": attrs["scopes"], "expires_at": expires_at}


class ApiKeysQuery(PageQuery):
    """?limit=&cursor=."""

    cursor = CursorField("key_[0-9a-f]{32}")


def _refuse(field: str, reason: str, code: str) -> None:
    raise serializers.ValidationError({field: [serializers.ErrorDetail(reason, code)]})


def api_key_body(key: ApiKey) -> dict[str, Any]:
    """Return an API key as its owner sees it: everything but the secret."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "created_at": clock.rfc3339(key.created_at),
        "created_by": str(key.created_by_id),
        "expires_at": clock.rfc3339(key.expires_at),
        "last_used_at": clock.rfc3339(key.last_used_at) if key.last_used_at else None,
        "revoked_at": clock.rfc3339(key.revoked_at) if key.revoked_at else None,
    }


def session_body(session: Session, *, current: str) -> dict[str, Any]:
    """Return an open session as its owner sees it; `current` is the family that asks."""
    return {
        "id": session.family,
        "created_at": _rfc3339(session.opened_at),
        "last_used_at": _rfc3339(session.used_at),
        "expires_at": _rfc3339(session.expires_at),
        "user_agent": session.device.user_agent or None,
        "address": session.device.address or None,
        "current": session.family == current,
    }


def _rfc3339(seconds: int) -> str:
    return clock.rfc3339(datetime.fromtimestamp(seconds, UTC))
