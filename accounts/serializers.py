"""What the account endpoints take and give."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError as DjangoValidationError
from django.core.validators import EmailValidator, RegexValidator
from rest_framework import serializers

from accounts.hashers import normalised
from accounts.models import EMAIL_LENGTH_MAX, NAME_LENGTH_MAX, PHONE_LENGTH_MAX, User, UserManager
from accounts.tokens import TOKEN_LENGTH_MAX
from payflow.api.fields import FlagField, StrictCharField, StrictSerializer, TimeField
from payflow.locales import LOCALE_LENGTH_MAX, normal_locale

PASSWORD_LENGTH_MAX = 128
# They turn the text around them, so that a name could pose as another.
_DIRECTION_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Unicode general categories: controls, surrogates, private use, unassigned, line and paragraph separators.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})


class EmailField(StrictCharField):
    """An email address in ASCII without a quoted part, given back in the one spelling that is stored."""

    default_error_messages = {"invalid_email": "Enter an email address such as alice@example.com."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=EMAIL_LENGTH_MAX, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the address in lower case."""
        address = super().to_internal_value(data)
        # ASCII only: letters that look alike must not make two accounts, and `lower` must not change lengths.
        if len(address) <= EMAIL_LENGTH_MAX:
            try:
                EmailValidator()(address if address.isascii() and '"' not in address else "")
            except DjangoValidationError:
                self.fail("invalid_email")
        return UserManager.normalize_email(address)


class NameField(StrictCharField):
    """A person's or company's name in any script: visible, on one line, reading in its own direction."""

    default_error_messages = {"invalid_name": "The name must be visible text on one line."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=NAME_LENGTH_MAX, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the trimmed name in its composed form (Unicode NFC)."""
        name = unicodedata.normalize("NFC", super().to_internal_value(data))
        categories = {unicodedata.category(character) for character in name}
        visible = any(category[0] in "LNPS" for category in categories)
        if not visible or categories & _REFUSED_CATEGORIES or _DIRECTION_CONTROLS.intersection(name):
            self.fail("invalid_name")
        return name


class PasswordField(StrictCharField):
    """A password as typed: spaces count."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=PASSWORD_LENGTH_MAX, trim_whitespace=False, **kwargs)

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
        text, known = super().to_internal_value(data), ""
        with suppress(ValueError):
            known = normal_locale(text)
        if not known:
            self.fail("invalid_locale")
        return known


class RefreshField(StrictCharField):
    """An encoded refresh token."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=TOKEN_LENGTH_MAX, trim_whitespace=False, **kwargs)


class RegisterInput(StrictSerializer):
    """POST /auth/register."""

    name = NameField()
    email = EmailField()
    password = PasswordField()
    phone = PhoneField(required=False)

    def validate(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Hold the password against the rules, which know the name and the email."""
        _check_password("password", attrs["password"], User(name=attrs["name"], email=attrs["email"]))
        return {**attrs, "phone": attrs.get("phone") or ""}


class LoginInput(StrictSerializer):
    """POST /auth/login."""

    email = EmailField()
    password = PasswordField()


class RefreshInput(StrictSerializer):
    """POST /auth/refresh and POST /auth/logout."""

    refresh = RefreshField()


class PasswordInput(StrictSerializer):
    """POST /auth/password. `context["user"]` is the user as stored."""

    current_password = PasswordField()
    new_password = PasswordField()

    def validate(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Hold the new password against the rules."""
        _check_password("new_password", attrs["new_password"], self.context["user"])
        return dict(attrs)


class ProfileInput(StrictSerializer):
    """PATCH /auth/me."""

    locale = LocaleField(required=False)
    email_notifications = FlagField(required=False)


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

    id = serializers.CharField()
    name = serializers.CharField()
    email = serializers.CharField()
    phone = serializers.SerializerMethodField()
    locale = serializers.CharField()
    email_notifications = serializers.BooleanField()
    created_at = TimeField()

    def get_phone(self, user: User) -> str | None:
        """Return the number, or null when there is none."""
        return user.phone or None


class TokensOutput(serializers.Serializer):
    """A session's next pair of tokens."""

    access = serializers.CharField()
    refresh = serializers.CharField()


class SignedInOutput(serializers.Serializer):
    """A user and their new session."""

    user = UserOutput()
    access = serializers.CharField(source="tokens.access")
    refresh = serializers.CharField(source="tokens.refresh")
