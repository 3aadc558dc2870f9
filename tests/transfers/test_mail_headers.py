"""What a mail says in its envelope and headers is what is stored: nothing in them is decoded."""

from __future__ import annotations

import smtplib
from email import message_from_bytes, policy
from email.header import decode_header, make_header

import pytest
from django.core.mail import EmailMessage
from django.core.mail.message import sanitize_address
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import User
from payflow import text
from payflow.smtp import subject_text
from tests.transfers import world
from tests.transfers.mail_sink import Sink, only
from transfers import postman

OVERRIDE = "=?utf-8?q?=E2=80=AEPayFlow_Security?="
NAMES = [
    OVERRIDE, "=?utf-8?b?UGF5Rmxvdw==?=", "a =?utf-8?q?b?= c", "=?utf-8?q?unfinished", "=?", "?=", "Zo\u00eb",
    "\u5c71\u7530 \u592a\u90ce", "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
    "\u2764\ufe0f\u200d\U0001f525 x",
    "x" * 120, "x " * 59 + "x", "\u00e4 " * 59 + "\u00e4", 'A "B" <c@example.com>, d', "a  b", "=3D_20",
    "1\u20ac",
]  # fmt: skip


def decoded(subject: str) -> tuple[str, str]:
    """Return the subject of a mail as two programs read it."""
    raw = EmailMessage(subject_text(subject), "body", "a@example.com", ["b@example.com"]).message().as_bytes()
    modern = message_from_bytes(raw, policy=policy.default)["Subject"]
    line = message_from_bytes(raw, policy=policy.compat32)["Subject"].replace("\n", "")
    return modern, str(make_header(decode_header(line)))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_decoding_a_subject_gives_what_was_written(name: str) -> None:
    subject = f"You received $10.50 from {name}"
    assert text.is_name(name)
    assert decoded(subject) == (subject, subject)


@given(st.text(st.sampled_from('aZ =?_-\u00e9\u4e2d\U0001f600\u200d.,;"<>()@'), min_size=1, max_size=80))
def test_decoding_any_subject_gives_what_was_written(name: str) -> None:
    subject = f"You sent 1 to {name}|"
    assert decoded(subject) == (subject, subject)


@given(st.from_regex(text.EMAIL_PATTERN, fullmatch=True).filter(text.is_email).map(text.email_spelling))
def test_no_library_changes_an_address(address: str) -> None:
    assert sanitize_address(address, "utf-8") == address
    assert smtplib.quoteaddr(address) == f"<{address}>"
    assert str(make_header(decode_header(address))) == address


def test_a_mail_goes_to_the_stored_address_and_names_the_stored_name(
    sink: Sink, alice: str, bob: str
) -> None:
    address = "o'brien!#$%&*/=^_`{|}~-@xn--bcher-kva.example"
    User.objects.filter(pk=bob).update(email=address)
    User.objects.filter(pk=alice).update(name=OVERRIDE)
    world.play(world.start(alice, bob, 1_050))
    postman.send_due()
    assert address in sink.recipients
    (mail,) = [mail for mail in sink.mails if mail["To"] == address]
    assert mail["Subject"] == f"You received $10.50 from {OVERRIDE}"
    assert "\u202e" not in mail["Subject"]


@pytest.mark.parametrize(
    "address", ["=?utf-8?q?bob?=@example.com", "bob@[127.0.0.1]", "b\u00f3b@example.com"]
)
def test_an_address_of_older_rules_gets_no_mail(
    address: str, sink: Sink, failed: str, caplog: pytest.LogCaptureFixture
) -> None:
    User.objects.filter(pk=only()["user_id"]).update(email=address)
    postman.send_due()
    assert (only()["status"], sink.mails) == ("FAILED", [])
    assert only()["attempts"][-1]["reason"] == "it cannot be written (UnusableAddress)"
