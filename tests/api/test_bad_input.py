"""Everything that can be wrong with a request: each gets its 4xx with the right code and changes nothing.

The tables hold raw JSON, so that what no JSON library would send can be sent.
"""

from __future__ import annotations

import gzip
import json

import bson
import pytest
from rest_framework.exceptions import ValidationError

from payflow.api import problems
from payflow.mongodb import collection
from tests.api.client import Party, assert_problem, join, nothing_changes
from transfers.documents import TransferBatch
from wallets import services as wallets

DEPOSIT, WITHDRAW, PAY, OPEN = "/wallets/me/deposit", "/wallets/me/withdraw", "/transactions", "/wallets"
MOVES = (DEPOSIT, WITHDRAW, PAY)
POSTS = (*MOVES, OPEN)
MISSING = object()
HUGE = "9" * 5_000


@pytest.fixture(autouse=True)
def bob() -> Party:
    """The receiver of every payment."""
    return join("Bob")


def refused(
    anna: Party, path: str, raw: str | bytes, status: int = 400, code: str = "validation_error"
) -> dict:
    with nothing_changes():
        response = anna.api.send("POST", path, raw.encode() if isinstance(raw, str) else raw)
        return assert_problem(response, status, code)


def body_of(path: str, **changed: object) -> str:
    """Return a good body for `path` with some fields replaced by raw JSON, or left out."""
    good: dict[str, object] = {"currency": '"USD"'}
    if path != OPEN:
        good["amount"] = '"1.00"'
    if path == PAY and "receiver_id" not in changed:
        good["receiver_email"] = '"bob@example.com"'
    fields = {name: raw for name, raw in {**good, **changed}.items() if raw is not MISSING}
    return "{" + ", ".join(f'"{name}": {raw}' for name, raw in fields.items()) + "}"


def quoted(*values: str) -> list[str]:
    return [json.dumps(value) for value in values]


# --- Amounts ----------------------------------------------------------------------------------------------

NO_AMOUNTS = [
    *quoted("", " ", "abc", "1,50", "1.000,50", "+1", "-1", "-0", "-0.00", "0", "0.00", "$1", "1 USD"),
    *quoted("NaN", "Infinity", "-Infinity", "1e3", "1E3", "0x10", "1_000", " 1", "1 ", "1\n", ".5", "5."),
    *quoted("1.2.3", "\uff11\uff10\uff10", "\u0661\u0660\u0660", "\u0967", "1\u0000", "\u00bd", "null"),
    *quoted("1" + "0" * 30, HUGE, "0." + HUGE, "1.001", "0.001", "10000000000000.01"),
    "0", "-0", "0.0", "-0.0", "-1", "-0.01", "true", "false", "[]", "{}", '["1"]', '{"amount": "1"}',
    "1.001", "0.1e-2", "1e30", "1" + "0" * 30, "10000000000000.01", "1e400", "1e-400", HUGE, "0." + HUGE,
    "1e999999999999999999999", "1e-999999999999999999999", "-1e999999999999999999999",
]  # fmt: skip


@pytest.mark.parametrize("path", MOVES)
@pytest.mark.parametrize("raw", NO_AMOUNTS, ids=lambda raw: raw[:24])
def test_refuses_what_is_no_amount(anna: Party, path: str, raw: str) -> None:
    problem = refused(anna, path, body_of(path, amount=raw), code="invalid_amount")
    assert [error["field"] for error in problem["errors"]] == ["amount"]


@pytest.mark.parametrize("path", MOVES)
@pytest.mark.parametrize("raw", [MISSING, "null"], ids=["missing", "null"])
def test_refuses_a_missing_amount(anna: Party, path: str, raw: object) -> None:
    problem = refused(anna, path, body_of(path, amount=raw))
    assert [error["field"] for error in problem["errors"]] == ["amount"]


@pytest.mark.parametrize("path", MOVES)
@pytest.mark.parametrize(
    ("currency", "amount"),
    [("JPY", '"1.5"'), ("JPY", "0.5"), ("JPY", '"100.01"'), ("KWD", '"1.2345"'), ("KWD", "1.2345"),
     ("JPY", '"1000000000000001"'), ("KWD", '"1000000000000.001"')],
)  # fmt: skip
def test_refuses_an_amount_that_its_currency_cannot_express(
    anna: Party, bob: Party, path: str, currency: str, amount: str
) -> None:
    for party in (anna, bob):
        wallets.open_wallet(user_id=party.id, currency=currency)
    refused(anna, path, body_of(path, currency=f'"{currency}"', amount=amount), code="invalid_amount")


# --- Currencies, receivers, descriptions ------------------------------------------------------------------

NO_CURRENCIES = [
    "null", "1", "1.5", "true", "[]", "{}", '["USD"]', '{"$ne": ""}',
    *quoted("", " ", "usd", "Usd", "US", "USDX", "XXX", "BTC", "\uff35\uff33\uff24", "U\u0000D", "US$"),
    *quoted("x" * 5_000, "USD ", " USD", "USD\t", "USD\u00a0", "USD\n"),
]  # fmt: skip


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("raw", NO_CURRENCIES, ids=lambda raw: raw[:24])
def test_refuses_what_is_no_currency(anna: Party, path: str, raw: str) -> None:
    problem = refused(anna, path, body_of(path, currency=raw))
    assert {error["field"] for error in problem["errors"]} == {"currency"}


def test_opening_a_wallet_needs_a_currency(anna: Party) -> None:
    assert refused(anna, OPEN, "{}")["errors"][0] == {
        "field": "currency", "code": "required", "detail": "This field is required.",
    }  # fmt: skip


@pytest.mark.parametrize("field", ["receiver_id", "receiver_email"])
@pytest.mark.parametrize(
    "raw",
    ["null", "1", "true", "[]", "{}", '["bob@example.com"]', '{"$ne": ""}', '{"$gt": ""}',
     *quoted("", " ", "x" * 255, "bob@example.com\u0000")],
    ids=lambda raw: raw[:24],
)  # fmt: skip
def test_refuses_what_cannot_name_a_receiver(anna: Party, field: str, raw: str) -> None:
    problem = refused(
        anna, PAY, body_of(PAY, **{"receiver_email": MISSING, "receiver_id": MISSING, field: raw})
    )
    assert {error["field"] for error in problem["errors"]} == {field}


def test_refuses_no_receiver_and_two(anna: Party, bob: Party) -> None:
    refused(anna, PAY, '{"amount": "1.00"}')
    refused(anna, PAY, body_of(PAY, receiver_id=f'"{bob.id}"', receiver_email='"bob@example.com"'))


@pytest.mark.parametrize(
    ("field", "value"),
    [("receiver_id", "0" * 24), ("receiver_id", "nobody"), ("receiver_id", "1"), ("receiver_id", "../users"),
     ("receiver_id", "\uff10" * 24), ("receiver_id", "wal_1"), ("receiver_email", "nobody@example.com"),
     ("receiver_email", "bob"), ("receiver_email", ".*"), ("receiver_email", "bob@example.co"),
     ("receiver_email", "bob@example.com,anna@example.com"), ("receiver_email", "b\u00f3b@example.com"),
     ("receiver_email", "bob@example.com\u00a0"), ("receiver_email", "=?utf-8?q?bob?=@example.com")],
)  # fmt: skip
def test_refuses_a_receiver_nobody_knows(anna: Party, field: str, value: str) -> None:
    raw = json.dumps({field: value, "amount": "1.00"})
    assert refused(anna, PAY, raw, 404, "receiver_not_found")["errors"][0]["field"] == field


def test_an_id_is_known_in_its_own_spelling_and_kind_only(anna: Party, bob: Party) -> None:
    for value in (bob.id.upper(), f"{bob.id}0", bob.wallet.id):
        refused(anna, PAY, body_of(PAY, receiver_id=f'"{value}"'), 404, "receiver_not_found")


def test_letters_that_unicode_lowers_into_ascii_name_nobody(anna: Party) -> None:
    join("Mike")
    raw = json.dumps({"receiver_email": "mi\u212ae@example.com", "amount": "1.00"})
    refused(anna, PAY, raw, 404, "receiver_not_found")


@pytest.mark.parametrize("padded", [" {}", "{} ", "{}\t", "{}\u00a0"])
def test_refuses_an_id_with_blanks_around_it(anna: Party, bob: Party, padded: str) -> None:
    problem = refused(anna, PAY, json.dumps({"receiver_id": padded.format(bob.id), "amount": "1.00"}))
    assert [(error["field"], error["code"]) for error in problem["errors"]] == [("receiver_id", "invalid_id")]


@pytest.mark.parametrize("value", ["anna@example.com", "ANNA@Example.COM", " anna@example.com "])
def test_refuses_a_payment_to_oneself_by_email(anna: Party, value: str) -> None:
    refused(anna, PAY, body_of(PAY, receiver_email=f'"{value}"'), 400, "self_transfer")


def test_refuses_a_payment_to_oneself_by_id(anna: Party) -> None:
    refused(anna, PAY, body_of(PAY, receiver_id=f'"{anna.id}"'), 400, "self_transfer")


@pytest.mark.parametrize(
    "raw",
    ["null", "1", "true", "[]", "{}", *quoted("x" * 141, "\U0001f600" * 141, "nul \u0000", "two\nlines"),
     *quoted("tab\t", "\u001b[31mred", "\u007f", "next\u0085line", "line\u2028line", "turned \u202egpj.exe"),
     *quoted("\u2066isolated\u2069", "\ufffe", "\ufdd0", "\U0001ffff", "\ue000", "\u3164", "\u2800", " "),
     *quoted("hidden \U000e0041\U000e0042", "\u200d\u200b", "deprecated \u206e")],
    ids=lambda raw: raw[:24],
)  # fmt: skip
def test_refuses_a_description_that_is_no_line_of_text(anna: Party, raw: str) -> None:
    problem = refused(anna, PAY, body_of(PAY, description=raw))
    assert {error["field"] for error in problem["errors"]} == {"description"}


# --- Bodies -----------------------------------------------------------------------------------------------

NO_BODIES = {
    "empty": b"", "space": b" ", "array": b"[]", "array of bodies": b'[{"amount": "1"}]', "string": b'"x"',
    "number": b"1", "null": b"null", "true": b"true", "cut off": b'{"amount": "1.00"', "two": b"{}{}",
    "trailing comma": b'{"amount": "1.00",}', "single quotes": b"{'amount': '1.00'}", "comment": b"{} // x",
    "duplicate": b'{"currency": "USD", "amount": "1.00", "amount": "2.00"}',
    "duplicate by escape": b'{"currency": "USD", "currenc\\u0079": "EUR"}',
    "NaN": b'{"amount": NaN}', "Infinity": b'{"amount": Infinity}', "-Infinity": b'{"amount": -Infinity}',
    "invalid UTF-8": b'{"currency": "US\xff"}', "overlong UTF-8": b'{"currency": "US\xc1\x84"}',
    "UTF-16": '{"currency": "EUR"}'.encode("utf-16"), "BOM": b'\xef\xbb\xbf{"currency": "EUR"}',
    "UTF-8 surrogate": b'{"currency": "\xed\xa0\x80"}', "lone surrogate": b'{"currency": "\\ud800"}',
    "lone surrogate name": b'{"\\udc00": 1}', "raw control": b'{"currency": "E\nR"}',
    "leading zero": b'{"amount": 01}',
    "deep objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "deep arrays": b'{"a": ' + b"[" * 30_000,
    "deep behind a quote": b'{"a": "\\' + b"[" * 30_000, "quotes": b'{"a": ' + b'"\\"' * 15_000,
}  # fmt: skip


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("raw", NO_BODIES.values(), ids=NO_BODIES)
def test_refuses_what_is_no_json_object_readable_in_one_way(anna: Party, path: str, raw: bytes) -> None:
    refused(anna, path, raw)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("name", "shown"),
    [("amout", "amout"), ("Amount", "Amount"), ("sender_id", "sender_id"), ("x" * 5_000, "x" * 64),
     ("$where", "$where"), ("", "body"), ("__proto__", "__proto__")],
)  # fmt: skip
def test_refuses_a_field_that_does_not_exist(anna: Party, path: str, name: str, shown: str) -> None:
    problem = refused(anna, path, body_of(path, **{name: '"1.00"'}))
    assert [(error["field"], error["code"]) for error in problem["errors"]] == [(shown, "unknown_field")]


@pytest.mark.parametrize("path", POSTS)
def test_of_many_unknown_fields_ten_are_named(anna: Party, path: str) -> None:
    problem = refused(anna, path, body_of(path, **{f"f{n:03}": "1" for n in range(160)}))
    assert [error["field"] for error in problem["errors"]] == [f"f{n:03}" for n in range(11)]
    assert problem["errors"][-1]["detail"] == "There is no such field, and 149 more are unknown."


def test_a_batch_keeps_little_of_what_is_wrong_with_it(anna: Party) -> None:
    wrong = {f"f{n}": 1 for n in range(120)}
    raw = json.dumps({"transfers": [wrong] * 1_000}, separators=(",", ":")).encode()
    response = anna.api.send("POST", "/transactions/batch", raw, Idempotency_Key="k")
    assert response.json()["refused"] == 1_000
    stored = collection(TransferBatch).find_one()
    assert len(bson.encode(stored)) < 2 * 2**20
    assert len(response.content) < 2 * 2**20


def test_a_problem_names_so_many_fields_and_no_more() -> None:
    invalid = ValidationError({f"f{n}": "Wrong." for n in range(1_000)})
    problem = problems.as_part(invalid)
    assert len(problem["errors"]) == problems.ERRORS_MAX
    assert problem["detail"] == "1000 fields are not valid; see errors."


def test_unknown_fields_called_like_the_parts_of_an_error_are_fields_too(anna: Party) -> None:
    problem = refused(anna, DEPOSIT, '{"message": 1, "code": 2}')
    assert {error["field"] for error in problem["errors"]} == {"message", "code"}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "media_type",
    ["text/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "json",
     "application/merge-patch+json", "application/jsonp", "application/octet-stream", "*/*"],
)  # fmt: skip
def test_refuses_any_other_media_type(anna: Party, path: str, media_type: str) -> None:
    with nothing_changes():
        response = anna.api.send("POST", path, body_of(path).encode(), media_type)
        assert_problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "deflate", "identity, gzip", "x", ""])
def test_refuses_a_body_in_any_coding(anna: Party, path: str, coding: str) -> None:
    plain = body_of(path, currency='"EUR"').encode()
    with nothing_changes():
        for raw in (plain, gzip.compress(plain)):
            response = anna.api.send("POST", path, raw, Content_Encoding=coding, Idempotency_Key="k")
            assert_problem(response, 415, "unsupported_media_type")
            assert response["Accept-Encoding"] == "identity"
    assert anna.api.send("POST", OPEN, b'{"currency": "EUR"}', Content_Encoding="Identity").status_code == 201


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("bytes_max", [65_537, 2 * 1024 * 1024])
def test_refuses_a_body_that_is_too_long(anna: Party, path: str, bytes_max: int) -> None:
    refused(anna, path, body_of(path).ljust(bytes_max), 413, "payload_too_large")


def test_the_longest_body_is_read(anna: Party) -> None:
    raw = body_of(DEPOSIT).ljust(65_536).encode()
    assert anna.api.send("POST", DEPOSIT, raw, "application/JSON; charset=utf-8").status_code == 201


def test_brackets_in_a_text_are_no_nesting(anna: Party) -> None:
    body = body_of(PAY, description=json.dumps('[{"' * 40))
    assert anna.api.send("POST", PAY, body.encode()).json()["description"] == '[{"' * 40


# --- Queries, paths, headers ------------------------------------------------------------------------------

NO_LIMITS = ["", "0", "-1", "101", "abc", "1.5", "10.0", "1e1", "1_0", "\uff11\uff10", " 1", "+1", "NaN",
             "true", "1" + "0" * 30, "null", "1\u0000", "1 ", "01", "1\n"]  # fmt: skip
NO_CURSORS = ["", "MQ== ", " MQ==", "!!!!", "abc", "MA==", "LTE=", "MQ", "M Q==", "MQ==MQ==", "x" * 401,
              "\u0000", "null",
              "MTAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw", "dHhuXzE=", "\u00e4", "8J+YgA=="]  # fmt: skip
NO_TIMES = ["", "yesterday", "2026-01-31", "2026-01-31T09:30:00", "2026-13-01T00:00:00Z", "1767225600",
            "2026-02-30T00:00:00Z", "2026-01-31T25:00:00Z", "2026-01-31T09:30:00 00:00", "NaN", "\u0000",
            "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "10000-01-01T00:00:00Z",
            "\uff12\uff10\uff12\uff16-01-31T09:30:00Z", "2026-01-31T09:30:00+99:99",
            "2026-W05-6T09:30:00Z", "2026-031T09:30:00Z", "20260131T093000Z", "2026-01-31T09:30:00,5Z",
            "2026-01-31T09:30Z", "2026-01-31T09Z", "2026-01-31T0930Z", "2026-01-31 09:30:00Z",
            "2026-01-31T09:30:00+0000", "2026-01-31T09:30:00+00", "2026-01-31T24:00:00Z",
            "2026-01-31T09:30:60Z", "0000-01-01T00:00:00Z", " 2026-01-31T09:30:00Z"]  # fmt: skip
NO_QUERIES = [
    *[(path, "limit", value) for path in ("/wallets/me/history", "/transactions") for value in NO_LIMITS],
    *[(path, "cursor", value) for path in ("/wallets/me/history", "/transactions") for value in NO_CURSORS],
    *[("/wallets/{wallet}/balance", "at", value) for value in NO_TIMES],
    *[
        (path, "currency", value)
        for path in ("/wallets/me/history", "/wallets/me")
        for value in ("", "usd", "XXX", "USDX", "\u0000", "\uff35\uff33\uff24")
    ],
    *[("/wallets/me/history", "kind", value) for value in ("", "deposit", "NOPE", "DEPOSIT,DEBIT", "\u0000")],
    *[("/transactions", "status", value) for value in ("", "initiated", "DONE", "FAILED,COMPLETED")],
    *[("/transactions", "direction", value) for value in ("", "SENT", "both", "$ne", "sent ")],
    *[("/transactions", "batch", value) for value in ("", "bat_1", f"bat_{'0' * 32} ", f" bat_{'0' * 32}")],
]


@pytest.mark.parametrize(("path", "name", "value"), NO_QUERIES)
def test_refuses_a_query_that_says_nothing_it_knows(anna: Party, path: str, name: str, value: str) -> None:
    with nothing_changes():
        response = anna.api.get(path.format(wallet=anna.wallet.id), {name: value})
        problem = assert_problem(response, 400, "validation_error")
    assert {error["field"] for error in problem["errors"]} == {name}


def test_a_cursor_of_one_list_is_none_of_another(anna: Party) -> None:
    anna.receive(1)
    cursor = anna.api.get("/wallets/me/history?limit=1").json()["next"]
    assert_problem(anna.api.get("/transactions", {"cursor": cursor}), 400, "validation_error")


def test_refuses_a_query_with_too_many_parts(anna: Party) -> None:
    assert_problem(
        anna.api.get("/transactions?" + "&".join("a=1" for _ in range(2_000))), 400, "validation_error"
    )


@pytest.mark.parametrize(
    "path",
    ["/transactions/", "/wallets/", "/wallets/me/", "/Wallets", "/walletsme", "/wallets/x",
     "/transactions/%00", "/transactions/%0A", "/transactions/txn_1%0A", "/transactions/%ff",
     "/transactions/%20", "/transactions/a/b", "/transactions/%F0%9F%98%80",
     "/transactions/$ne", f"/transactions/{'x' * 161}", "/wallets/%ff/balance", "/wallets/a%2Fb/balance",
     "/wallets/me/balance", "/wallets/x/balance%0A", f"/wallets/{'x' * 161}/balance", "/wp-login.php",
     "/.env", "/documents", "/administrator", "/docs/x", "/redocs", "/static/x"],
)  # fmt: skip
def test_there_is_nothing_at_an_odd_address(anna: Party, path: str) -> None:
    with nothing_changes():
        assert_problem(anna.api.get(path), 404, "not_found")


def test_an_id_with_a_line_end_behind_it_is_another_id(anna: Party) -> None:
    assert_problem(anna.api.get(f"/wallets/{anna.wallet.id}%0A/balance"), 404, "not_found")
    assert_problem(anna.api.get(f"/wallets/{anna.wallet.id}/balance%0A"), 404, "not_found")


@pytest.mark.parametrize("path", MOVES)
@pytest.mark.parametrize("header", ["Idempotency_Key", "X_Idempotency_Key"])
@pytest.mark.parametrize(
    "key",
    ["", " ", "x" * 65, "a b", "a.b", "a/b", "a,b", "\u00e4", "\u0661", "'; --", '"quoted"', "a\tb", "key\n"],
)
def test_refuses_a_malformed_idempotency_key(anna: Party, path: str, header: str, key: str) -> None:
    with nothing_changes():
        response = anna.api.send("POST", path, body_of(path).encode(), **{header: key})
        assert_problem(response, 400, "validation_error")


@pytest.mark.parametrize("path", MOVES)
def test_refuses_two_different_idempotency_keys(anna: Party, path: str) -> None:
    with nothing_changes():
        keys = {"Idempotency_Key": "one", "X_Idempotency_Key": "other"}
        assert_problem(anna.api.send("POST", path, body_of(path).encode(), **keys), 400, "validation_error")
