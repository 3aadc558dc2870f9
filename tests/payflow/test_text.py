"""What is visible text, a name, an email address and a number."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payflow import text

ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
NAMES = [
    "Alice", "O'Brien & S\u00f8n <b>", "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627", "\u845b\U000e0100\u57ce",
    "\u0d05\u0d35\u0d28\u0d4d\u200d", "\u0915\u094d\u200d\u0937", "\U0001f468\u200d\U0001f469", ENGLAND,
    "\u2764\ufe0f\u200d\U0001f525", "\U0001fae8", "a b", "\u5c71\u7530\u3000\u592a\u90ce", "7", "!",
]  # fmt: skip
# Visible, but a name in which something is invisible could pose as another.
ONLY_VISIBLE = [
    "\ufeffzero\u200bwidth",
    "Alice\u200b",
    "Alice\u200f",
    "soft\u00adhyphen",
    "x\ufe0f\ufe0f",
    " a\u2060",
]
NOT_VISIBLE = [
    "", " ", "\u00a0\u3000", "\u3164", "\u115f", "\u1160", "\uffa0", "\u2800", "\u17b4", "\u200b",
    "\u200d\u200d",
    "\u0301", "\ufe0f", "a\u3164", "a\nb", "a\tb", "a\x00", "a\x7f", "a\x85", "a\u2028", "a\u2029",
    "a\u202eb",
    "a\u2066b", "a\u206ab", "a\ufff9b", "a\ue000", "a\ud800", "a\ufdd0", "a\ufffe", "a\uffff", "a\U0001fffe",
    "a\U0010ffff", "a\u0378", "a\U000e0041", "\U0001f3f4\U000e0067\U000e007f", "a\U000e0001",
]  # fmt: skip


@pytest.mark.parametrize("given_", NAMES, ids=ascii)
def test_a_name_is_visible_text(given_: str) -> None:
    assert text.is_name(given_)
    assert text.is_visible(given_)


@pytest.mark.parametrize("given_", ONLY_VISIBLE, ids=ascii)
def test_what_holds_something_invisible_is_no_name(given_: str) -> None:
    assert text.is_visible(given_)
    assert not text.is_name(given_)


@pytest.mark.parametrize("given_", NOT_VISIBLE, ids=ascii)
def test_what_hides_or_steers_or_shows_nothing_is_neither(given_: str) -> None:
    assert not text.is_visible(given_)
    assert not text.is_name(given_)


@given(st.text(max_size=20))
def test_visible_text_is_one_line_without_controls(given_: str) -> None:
    if text.is_visible(given_):
        assert len(given_.splitlines()) == 1
        assert not {"Cc", "Cs", "Co"} & {unicodedata.category(character) for character in given_}
        assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069") & set(given_)


@given(st.text(max_size=40))
def test_one_line_of_any_text_is_empty_or_visible_or_unassigned(given_: str) -> None:
    line = text.one_line(given_, 20)
    assert len(line) <= 20
    assert len(line.splitlines()) <= 1
    # Visible text keeps the joiners and marks that it may have.
    refused = {"Cc", "Cs", "Co", *(() if text.is_visible(given_) else ("Cf",))}
    assert not refused & {unicodedata.category(character) for character in line}


EMAILS = [
    "alice@example.com", "a.b+c@sub.example.co", "o'brien!#$%&*/=^_`{|}~-@example.com", "1@2.example",
    "x@a-b.xn--p1ai",
    "x" * 64 + "@example.com", "b=c@example.com",
]  # fmt: skip
NO_EMAILS = [
    "", "alice", "@example.com", "alice@", "alice@example", "alice@localhost", "alice@[127.0.0.1]",
    "alice@127.0.0.1",
    "alice@10.0.0.10", "alice@[IPv6:::1]", "=?utf-8?q?bob?=@example.com", "a?b@example.com",
    '"a b"@example.com',
    "a b@example.com", " alice@example.com", "alice@example.com\n", ".a@example.com", "a.@example.com",
    "a..b@example.com", "a@-x.com", "a@x-.com", "a@x..com", "a@example.com.", "a@example.c", "a@example.c0m",
    "a@ex_ample.com", "a@b@example.com", "a@example.com,b@example.com", "mi\u212ae@example.com",
    "a@ex\u00e4mple.com",
    "\uff41@example.com", "a@example\u3002com", "x" * 65 + "@example.com", f"a@{'x' * 64}.com",
    "a@" + "x." * 125 + "com", "a@example.com\x00", "(c)a@example.com", "<a@example.com>",
    "Alice <a@example.com>",
]  # fmt: skip


@pytest.mark.parametrize("address", EMAILS)
def test_takes_an_email_address(address: str) -> None:
    assert text.is_email(address)
    assert text.is_email(address.upper().replace("XN--P1AI", "xn--p1ai"))


@pytest.mark.parametrize("address", NO_EMAILS, ids=ascii)
def test_takes_nothing_else_for_one(address: str) -> None:
    assert not text.is_email(address)


@given(st.text(max_size=10))
def test_the_spelling_of_an_email_changes_ascii_only(given_: str) -> None:
    spelling = text.email_spelling(given_)
    assert [c for c in spelling if not c.isascii()] == [c for c in given_ if not c.isascii()]
    assert spelling.isascii() is given_.isascii()
    assert text.email_spelling(spelling) == spelling


@pytest.mark.parametrize(
    "number",
    [
        "\uff11\uff12",
        "1_000",
        " 5",
        "5 ",
        "+5",
        "-5",
        "05",
        "",
        "5\n",
        "\u0665",
        "\u00b2",
        "5.0",
        "9" * 5_000,
        "11",
    ],
)
def test_a_number_is_plain_digits_within_bounds(number: str) -> None:
    assert text.read_number(number, minimum=0, maximum=10) is None


@pytest.mark.parametrize(("number", "read"), [("0", 0), ("7", 7), ("10", 10)])
def test_reads_a_number(number: str, read: int) -> None:
    assert text.read_number(number, minimum=0, maximum=10) == read
    assert text.read_number(number, minimum=11, maximum=20) is None
