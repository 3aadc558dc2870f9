"""What notices say, as text and as HTML. Pure but for reading its templates.

What must stay true: what people have written (names, descriptions, addresses) stays on its own line and in
its own element: it makes no header, no mark-up and no sentence of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.conf import settings
from django.template.loader import render_to_string

from payflow import text
from payflow.locales import amount_text, number_text, time_text
from transfers.digests import Line
from transfers.documents import Kind

TEXT_LENGTH_MAX = 255
# By webhooks' own words for it.
_WHY_DISABLED = {
    "GONE": "It answered 410: it is gone for good.",
    "FAILING": "It has failed too often, for too long.",
}


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail's subject and its two bodies."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class _Content:
    headline: str
    sentences: list[str]
    facts: list[tuple[str, str]] = field(default_factory=list)


def transfer_letter(
    kind: Kind, row: Mapping[str, Any], *, other_name: str, locale: str, unsubscribe_url: str
) -> Letter:
    """Return the mail about an ended transaction; `other_name` is the other party's."""
    amount = amount_text(row["amount_minor"], row["currency"], locale)
    other = _line(other_name) or "somebody"
    at = time_text(row["completed_at"], locale)
    facts = [
        ("Amount", amount),
        ("From" if kind is Kind.RECEIVED else "To", other),
        ("Description", _line(row.get("description") or "")),
        ("Time", at),
        ("Transaction", row["_id"]),
    ]
    if kind is Kind.SENT:
        headline, sentences = f"You sent {amount} to {other}", ["The money has arrived."]
    elif kind is Kind.RECEIVED:
        headline, sentences = f"You received {amount} from {other}", ["The money is in your wallet."]
    else:
        headline = f"Your payment of {amount} to {other} failed"
        failure = row["failure"]
        money = "All of the money is back in your wallet." if failure["refunded"] else "Nothing was taken."
        sentences = [_line(failure["detail"]), money]
    return _letter(_Content(headline, sentences, [(k, v) for k, v in facts if v]), unsubscribe_url)


def disabled_letter(facts: Mapping[str, Any], *, locale: str, unsubscribe_url: str) -> Letter:
    """Return the mail about an endpoint to which nothing is sent any more."""
    content = _Content(
        "Your webhook endpoint was disabled",
        [
            _WHY_DISABLED.get(facts["reason"], "It could not be reached."),
            "Nothing is sent to it until you enable it again; what it has missed can be fetched then.",
        ],
        _about_webhook(facts, locale),
    )
    return _letter(content, unsubscribe_url)


def _line(stored: str) -> str:
    return text.one_line(stored, TEXT_LENGTH_MAX)


def held_letter(facts: Mapping[str, Any], *, locale: str, unsubscribe_url: str) -> Letter:
    """Return the mail about an endpoint whose events wait, because too much is undelivered."""
    content = _Content(
        "Your webhook endpoint is behind",
        [
            "More events wait for your webhook endpoints than PayFlow queues for one account.",
            "Nothing is lost: further events wait in order, and are sent as your endpoint takes the others.",
            "GET /webhooks/{id}/events returns them at any time.",
        ],
        _about_webhook(facts, locale),
    )
    return _letter(content, unsubscribe_url)


def digest_letter(
    facts: Mapping[str, Any], lines: Sequence[Line], *, locale: str, unsubscribe_url: str
) -> Letter:
    """Return the mail about an hour's transfers that got none of their own."""
    total = sum(line.count for line in lines)
    content = _Content(
        f"{_transfers(total, locale)} in one hour",
        [
            "There were too many for an e-mail about each, so this one is about all that got none.",
            "Your list of transactions shows each of them.",
        ],
        [
            *((title, _sums(kind, lines, locale)) for kind, title in _DIGEST_TITLES.items()),
            ("From", time_text(facts["since"], locale)),
            ("Until", time_text(facts["until"], locale)),
            ("All of them", f"GET {settings.PUBLIC_URL}/transactions"),
        ],
    )
    return _letter(replace(content, facts=[(k, v) for k, v in content.facts if v]), unsubscribe_url)


_DIGEST_TITLES = {Kind.RECEIVED: "Received", Kind.SENT: "Sent", Kind.FAILED: "Failed"}


def _sums(kind: Kind, lines: Sequence[Line], locale: str) -> str:
    of_kind = [line for line in lines if line.kind is kind]
    amounts = (amount_text(line.amount_minor, line.currency, locale) for line in of_kind)
    count = sum(line.count for line in of_kind)
    return f"{_transfers(count, locale)}: {', '.join(amounts)}" if count else ""


def _transfers(count: int, locale: str) -> str:
    return f"{number_text(count, locale)} transfer{'' if count == 1 else 's'}"


def _about_webhook(facts: Mapping[str, Any], locale: str) -> list[tuple[str, str]]:
    return [
        ("Address", _line(facts["url"])),
        ("Webhook", _line(facts["subscription_id"])),
        ("Since", time_text(facts["since"], locale)),
    ]


def _letter(content: _Content, unsubscribe_url: str) -> Letter:
    context = {"content": content, "unsubscribe_url": unsubscribe_url}
    return Letter(
        content.headline,
        render_to_string("notices/notice.txt", context),
        render_to_string("notices/notice.html", context),
    )
