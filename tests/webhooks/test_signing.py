"""Signatures: what the Standard Webhooks library's own verifier takes, and what it refuses."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from payflow import clock
from webhooks import secrets, signing

PAYLOAD = json.dumps(
    {"id": "txn_1:DEBIT_SUCCESS", "data": {"description": "Grüße, 100 €"}}, ensure_ascii=False
)
MESSAGE_ID = "txn_1:DEBIT_SUCCESS"


def headers(*signers: str, at: datetime | None = None) -> dict[str, str]:
    return signing.signature_headers(
        message_id=MESSAGE_ID, attempted_at=at or clock.now(), payload=PAYLOAD, secrets=signers
    )


def test_the_librarys_verifier_takes_it() -> None:
    secret = secrets.new_secret()
    assert Webhook(secret).verify(PAYLOAD.encode(), headers(secret)) == json.loads(PAYLOAD)


def test_while_secrets_overlap_each_of_them_verifies() -> None:
    new, old, foreign = (secrets.new_secret() for _ in range(3))
    found = headers(new, old)
    assert len(found["webhook-signature"].split(" ")) == 2
    for secret in (new, old):
        assert Webhook(secret).verify(PAYLOAD, found) == json.loads(PAYLOAD)
    with pytest.raises(WebhookVerificationError):
        Webhook(foreign).verify(PAYLOAD, found)


@pytest.mark.parametrize("position", range(0, len(PAYLOAD.encode()), 7))
def test_one_changed_byte_of_the_body_is_refused(position: int) -> None:
    secret = secrets.new_secret()
    body = bytearray(PAYLOAD.encode())
    body[position] = body[position] ^ 1 if body[position] < 0x80 else ord("?")
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.decode(errors="replace"), headers(secret), json_parse=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("webhook-id", "txn_2:DEBIT_SUCCESS"), ("webhook-timestamp", "1"), ("webhook-signature", "v1,AA==")],
)
def test_a_changed_header_is_refused(name: str, value: str) -> None:
    secret = secrets.new_secret()
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(PAYLOAD, {**headers(secret), name: value})


def test_a_timestamp_that_is_changed_within_the_tolerance_is_refused() -> None:
    secret = secrets.new_secret()
    found = headers(secret)
    later = str(int(found["webhook-timestamp"]) + 60)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(PAYLOAD, {**found, "webhook-timestamp": later})


@pytest.mark.parametrize("minutes", [-6, 6])
def test_an_old_or_a_future_timestamp_is_refused(minutes: int) -> None:
    secret = secrets.new_secret()
    at = clock.now() + timedelta(minutes=minutes)
    with pytest.raises(WebhookVerificationError, match="too"):
        Webhook(secret).verify(PAYLOAD, headers(secret, at=at))
