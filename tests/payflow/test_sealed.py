"""Encryption at rest: what is sealed for one purpose is nothing for another, and keys may be changed."""

from __future__ import annotations

import pytest
from django.conf import LazySettings

from payflow import sealed


def test_a_value_comes_back_for_its_purpose_only() -> None:
    secret = sealed.seal(b"whsec_1", purpose="a")
    assert "whsec_1" not in secret
    assert sealed.unseal(secret, purpose="a") == b"whsec_1"
    assert sealed.unseal(secret, purpose="b") is None


@pytest.mark.parametrize("garbage", ["", "x", "gAAAA", "\u00e4", "=" * 50])
def test_garbage_is_nothing(garbage: str) -> None:
    assert sealed.unseal(garbage, purpose="a") is None


def test_a_changed_value_is_nothing() -> None:
    secret = sealed.seal(b"x", purpose="a")
    changed = secret[:-5] + ("A" if secret[-5] != "A" else "B") + secret[-4:]
    assert sealed.unseal(changed, purpose="a") is None


def test_a_former_secret_key_still_opens_what_it_sealed(settings: LazySettings) -> None:
    former = settings.SECRET_KEY
    secret = sealed.seal(b"x", purpose="a")
    settings.SECRET_KEY = "another secret key, long enough for anything"
    assert sealed.unseal(secret, purpose="a") is None
    settings.SECRET_KEY_FALLBACKS = [former]
    assert sealed.unseal(secret, purpose="a") == b"x"
    renewed = sealed.seal(b"x", purpose="a")
    settings.SECRET_KEY_FALLBACKS = []
    assert sealed.unseal(renewed, purpose="a") == b"x"
