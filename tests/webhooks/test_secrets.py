"""Secrets: their form, their seal, and which of them sign."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from django.conf import LazySettings
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from webhooks import secrets
from webhooks.errors import InvalidSecret, SealBroken

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def spelled(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def test_a_new_secret_is_32_random_bytes_as_the_specification_writes_them() -> None:
    made = {secrets.new_secret() for _ in range(20)}
    assert len(made) == 20
    for secret in made:
        assert secrets.check_secret(secret) == secret
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
        Webhook(secret).sign("msg_1", NOW, "{}")


@given(st.binary(min_size=24, max_size=64))
def test_takes_24_to_64_bytes(key: bytes) -> None:
    secret = spelled(key)
    assert secrets.check_secret(secret) == secret
    assert len(secret) <= secrets.TEXT_LENGTH_MAX


GOOD = spelled(bytes(range(32)))
NO_SECRETS = [
    "", "whsec_", GOOD.removeprefix("whsec_"), f"WHSEC_{GOOD.removeprefix('whsec_')}", f" {GOOD}",
    f"{GOOD} ", f"{GOOD}\n", GOOD.rstrip("="), f"{GOOD}=", f"{GOOD}==", GOOD.replace("w", "-", 1),
    f"whsec_{GOOD}", "whsec_====", spelled(b"x" * 23), spelled(b"x" * 65), spelled(b""),
    "whsec_" + "A" * 200, "whsec_not base64 at all, is it?===",
    # 32 bytes end in four bits and two spare ones; a set spare bit is another spelling of the same key.
    spelled(bytes(32)).replace("A=", "B="), "whsec_" + base64.urlsafe_b64encode(b"\xfb\xff" * 16).decode(),
    "whsec_" + "\uff21" * 44, "whsec_\x00" + "A" * 43, "whpk_" + "A" * 44, "whsec-" + "A" * 44,
]  # fmt: skip


@pytest.mark.parametrize("text", NO_SECRETS, ids=lambda text: ascii(text)[:24])
def test_refuses_what_is_no_secret_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidSecret) as refused:
        secrets.check_secret(text)
    assert (refused.value.status, refused.value.errors[0].field) == (400, "secret")
    assert len(text) < 10 or text not in refused.value.detail


@given(st.text())
def test_whatever_is_taken_signs_as_the_library_reads_it(text: str) -> None:
    try:
        secrets.check_secret("whsec_" + text)
    except InvalidSecret:
        return
    assert spelled(base64.b64decode(text)) == "whsec_" + text


def test_the_newest_signs_first_and_the_expired_not_at_all() -> None:
    stored = [
        secrets.sealed("whsec_c", now=NOW),
        {**secrets.sealed("whsec_b", now=NOW), "expires_at": LATER},
        {**secrets.sealed("whsec_a", now=NOW), "expires_at": NOW},
    ]
    assert secrets.signing_secrets(stored, now=NOW) == ["whsec_c", "whsec_b"]
    assert secrets.signing_secrets(stored, now=LATER) == ["whsec_c"]


def test_what_is_stored_shows_nothing() -> None:
    stored = secrets.sealed(GOOD, now=NOW)
    assert set(stored) == {"sealed", "created_at"}
    assert GOOD.removeprefix("whsec_") not in str(stored)
    assert secrets.sealed(GOOD, now=NOW)["sealed"] != stored["sealed"]


def test_a_new_key_seals_and_the_old_one_still_opens(settings: LazySettings) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    settings.WEBHOOK_SECRET_KEYS = [old]
    stored = [secrets.sealed(GOOD, now=NOW), {**secrets.sealed("whsec_x", now=NOW), "expires_at": NOW}]
    settings.WEBHOOK_SECRET_KEYS = [new, old]
    assert secrets.signing_secrets(stored, now=NOW) == [GOOD]
    assert not secrets.is_sealed_by_first_key(stored[0]["sealed"])
    again = secrets.resealed(stored, now=NOW)
    assert len(again) == 1
    assert secrets.is_sealed_by_first_key(again[0]["sealed"])
    assert again[0]["created_at"] == NOW
    settings.WEBHOOK_SECRET_KEYS = [new]
    assert secrets.signing_secrets(again, now=NOW) == [GOOD]
    for attempt in (secrets.signing_secrets, secrets.resealed):
        with pytest.raises(SealBroken) as broken:
            attempt(stored, now=NOW)
        assert stored[0]["sealed"] not in str(broken.value)


@pytest.mark.parametrize("token", ["", "x", "gAAAAA", GOOD])
def test_what_is_no_seal_is_not_opened(token: str) -> None:
    with pytest.raises(SealBroken):
        secrets.signing_secrets([{"sealed": token, "created_at": NOW}], now=NOW)
