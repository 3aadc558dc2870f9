"""Writing to accounts: register, sign in and out, change a password, deactivate.

What must stay true: nobody gets tokens for an account that does not exist or is not active; a user without
a wallet, left by a crash, has one after their next use; a deactivated user's money stops first of all.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4

from bson import ObjectId
from django.conf import settings
from django.contrib.auth.hashers import make_password, verify_password
from django.db import IntegrityError

from accounts import selectors, sessions, tokens
from accounts.errors import EmailTaken, InvalidCredentials
from accounts.models import User, UserManager
from accounts.sessions import Device
from payflow import storage
from payflow.errors import NotAuthenticated, NotFound, Transient
from wallets import services as wallets

logger = logging.getLogger(__name__)
FOLLOWS_MAX = 5
REFRESH_IN_DOUBT = (
    "The session store did not answer in time, and may have used this token up all the same. Send it again;"
    " if it is refused then, sign in."
)


@dataclass(frozen=True)
class TokenPair:
    """A session's tokens, encoded."""

    access: str
    refresh: str


@dataclass(frozen=True)
class SignedIn:
    """A user and the session opened for them."""

    user: User
    tokens: TokenPair


def register_user(
    *, name: str, email: str, password: str, phone: str = "", device: Device | None = None
) -> SignedIn:
    """Create a user, their session and their wallet in the default currency. Raises EmailTaken, Transient.

    The session comes first: with Redis down nothing is written, and no user is ever made who cannot be
    answered. A session whose user was then refused is closed again; its tokens were never handed out.
    """
    if selectors.find_user_by_email(email=email):
        raise EmailTaken("Somebody has registered with this email already.", field="email")
    user = User(id=ObjectId(), name=name, email=UserManager.normalize_email(email), phone=phone)
    user.set_password(password)
    signed_in = _open_session(user, device)
    try:
        with selectors.unavailable_is_transient():
            user.save(force_insert=True)
    except (IntegrityError, Transient) as error:
        with suppress(Transient):
            sessions.close_all_families(user_id=str(user.pk))
        if isinstance(error, Transient):
            raise
        # Two registrations at once: the unique index let the other one in.
        raise EmailTaken("Somebody has registered with this email already.", field="email") from error
    ensure_default_wallet(user)
    return signed_in


def ensure_default_wallet(user: User) -> None:
    """Open the wallet that registration may have died before opening. Safe to repeat."""
    wallets.ensure_wallet(user_id=str(user.pk), currency=settings.DEFAULT_CURRENCY)


def sign_in(*, email: str, password: str, device: Device | None = None) -> SignedIn:
    """Open a session. Raises InvalidCredentials, the same for every reason, and Transient.

    The password is hashed once whether or not there is such a user, so the time says nothing either.
    """
    user = selectors.find_user_by_email(email=email)
    if not _password_matches(user, password) or user is None or not user.is_active:
        raise InvalidCredentials("The email or the password is wrong.")
    signed_in = _open_session(user, device)
    if not _is_as_before(user, password):
        # Whoever changed it has ended all sessions, perhaps before this one was opened.
        sign_out(refresh=signed_in.tokens.refresh)
        raise InvalidCredentials("The email or the password is wrong.")
    ensure_default_wallet(user)
    return signed_in


def refresh_session(*, refresh: str, device: Device | None = None) -> TokenPair:
    """Exchange a refresh token for the next pair; a second use ends the session.

    Raises TokenExpired, NotAuthenticated, and Transient; when Redis was too slow, the token may be used up.
    """
    claims = tokens.read_refresh(refresh)
    user = selectors.find_user(user_id=claims.user_id)
    if user is None or not user.is_active:
        raise NotAuthenticated("This account cannot be used.")
    encoded, following = tokens.issue_refresh(user_id=claims.user_id, family=claims.family)
    try:
        sessions.rotate_family(
            user_id=claims.user_id,
            family=claims.family,
            used_jti=claims.jti,
            next_jti=following.jti,
            expires_at=following.expires_at,
            device=device,
        )
    except Transient as error:
        raise Transient(REFRESH_IN_DOUBT) from error
    return TokenPair(access=_access(user, claims.family), refresh=encoded)


def sign_out(*, refresh: str) -> None:
    """End the session that a refresh token belongs to, used up or not. Safe to repeat.

    Raises TokenExpired, NotAuthenticated, Transient.
    """
    claims = tokens.read_refresh(refresh)
    sessions.close_family(user_id=claims.user_id, family=claims.family)


def revoke_session(*, user_id: str, family: str) -> None:
    """End one of a user's sessions. Raises NotFound when it is not open or not theirs, Transient."""
    if not sessions.close_family(user_id=user_id, family=family):
        raise NotFound("There is no such session.")


def change_password(*, user: User, family: str, current_password: str, new_password: str) -> None:
    """Set a new password and end all sessions but `family`. Raises InvalidCredentials, Transient.

    The sessions end first, so that a password never changes while a stolen session lives on; and once more
    afterwards, for who signed in with the old password in between.
    """
    if not _password_matches(user, current_password):
        raise InvalidCredentials("The current password is wrong.", field="current_password")
    sessions.close_other_families(user_id=str(user.pk), family=family)
    if not _replace_password(user, new_password):
        raise InvalidCredentials("The current password is wrong.", field="current_password")
    close_sessions_again(user_id=str(user.pk), family=family)


def close_sessions_again(*, user_id: str, family: str = "") -> None:
    """End a user's sessions but `family` after a change before which they were ended, too.

    In between somebody may have opened one. The change stands, so a silent Redis is logged, not raised.
    """
    try:
        sessions.close_other_families(user_id=user_id, family=family)
    except Transient:
        logger.warning("sessions not closed again after a change of an account", extra={"user_id": user_id})


def change_profile(
    *, user_id: str, locale: str | None = None, email_notifications: bool | None = None
) -> None:
    """Change what is given; other requests may change the rest meanwhile. Raises Transient."""
    given = {"locale": locale, "email_notifications": email_notifications}
    change = {name: value for name, value in given.items() if value is not None}
    if change:
        with selectors.unavailable_is_transient():
            User.objects.filter(pk=user_id).update(**change)


def deactivate_user(*, user_id: str) -> None:
    """Freeze a user's wallets, then their account, then end their sessions. Raises NotFound, Transient.

    In this order because a crash may fall between any two: money stops first, a repeat finishes the rest.
    """
    user = _get_user(user_id)
    # A wallet that registration never opened must exist now, or it would be opened later and not frozen.
    ensure_default_wallet(user)
    wallets.freeze_wallets(user_id=user_id)
    _set_active(user, is_active=False)
    # For a wallet opened by a request that was let in just before.
    _let_wallets_follow(user_id)
    try:
        sessions.close_all_families(user_id=user_id)
    except Transient:
        # Refreshing and writing look at the account itself; only reading goes on, for minutes.
        logger.warning("sessions of a deactivated user not closed", extra={"user_id": user_id})


def reactivate_user(*, user_id: str) -> None:
    """Undo `deactivate_user`; the user signs in again. Safe to repeat. Raises NotFound, Transient."""
    user = _get_user(user_id)
    # Their end may have failed then, or somebody was signing in.
    sessions.close_all_families(user_id=user_id)
    _set_active(user, is_active=True)
    _let_wallets_follow(user_id)


def _let_wallets_follow(user_id: str) -> None:
    """Freeze or unfreeze a user's wallets as the account is, and look whether it still is.

    Whoever decided the opposite meanwhile may have done so before this touched the wallets.
    """
    for _ in range(FOLLOWS_MAX):
        is_active = _get_user(user_id).is_active
        change_wallets = wallets.unfreeze_wallets if is_active else wallets.freeze_wallets
        change_wallets(user_id=user_id)
        if _get_user(user_id).is_active is is_active:
            return
    raise Transient("The account keeps being changed. Try again shortly.")


def ensure_staff(*, email: str, password: str) -> User:
    """Create or update a user who may do everything in the admin. Safe to repeat. Raises Transient.

    A deactivated user stays deactivated: that was somebody's decision. A new password ends all sessions, as
    in `change_password`.
    """
    with selectors.unavailable_is_transient():
        user = selectors.find_user_by_email(email=email)
        if user is None:
            return User.objects.create_superuser(email, password, name="Staff")
        changed = []
        # An equal password is left alone: a new hash of it would end the admin's sessions.
        if not user.check_password(password):
            sessions.close_all_families(user_id=str(user.pk))
            user.set_password(password)
            changed = ["password"]
        user.is_staff = user.is_superuser = True
        user.save(update_fields=[*changed, "is_staff", "is_superuser"])
    if changed:
        close_sessions_again(user_id=str(user.pk))
    return user


def _open_session(user: User, device: Device | None = None) -> SignedIn:
    family = uuid4().hex
    encoded, claims = tokens.issue_refresh(user_id=str(user.pk), family=family)
    sessions.open_family(
        user_id=claims.user_id, family=family, jti=claims.jti, expires_at=claims.expires_at, device=device
    )
    return SignedIn(user, TokenPair(access=_access(user, family), refresh=encoded))


def _access(user: User, family: str) -> str:
    return tokens.issue_access(user_id=str(user.pk), is_staff=user.is_staff, family=family)


def _password_matches(user: User | None, password: str) -> bool:
    if user is None:
        make_password(password)
        return False
    correct, outdated = verify_password(password, user.password)
    if correct and outdated and not storage.is_full():
        _replace_password(user, password)
    return correct


def _is_as_before(user: User, password: str) -> bool:
    """Say whether the account that the password has opened is still the same."""
    now = selectors.find_user(user_id=str(user.pk))
    if now is None or (now.is_active, now.is_staff) != (user.is_active, user.is_staff):
        return False
    # A new hash may be one of the same password, at today's cost.
    return now.password == user.password or _password_matches(now, password)


def _replace_password(user: User, password: str) -> bool:
    """Store a new hash unless somebody has changed the old one meanwhile; return whether it was stored."""
    encoded = make_password(password)
    with selectors.unavailable_is_transient():
        replaced = User.objects.filter(pk=user.pk, password=user.password).update(password=encoded)
    if replaced:
        user.password = encoded
    return bool(replaced)


def _get_user(user_id: str) -> User:
    user = selectors.find_user(user_id=user_id)
    if user is None:
        raise NotFound("There is no such user.")
    return user


def _set_active(user: User, *, is_active: bool) -> None:
    with selectors.unavailable_is_transient():
        User.objects.filter(pk=user.pk).update(is_active=is_active)
    user.is_active = is_active
