"""Request bodies: one JSON object that can be read in exactly one way, or a refusal with its reason."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from django.conf import LazySettings
from hypothesis import given
from hypothesis import strategies as st

from payflow.api.parsers import MalformedBody, PayloadTooLarge, StrictJSONParser, loads


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"{}", {}),
        (b' {"a": 1} \n', {"a": 1}),
        (b'{"a": 1.50}', {"a": Decimal("1.50")}),
        (b'{"a": 1e2}', {"a": Decimal("1E+2")}),
        (b'{"a": -0}', {"a": 0}),
        (b'{"a": -0.00}', {"a": Decimal("-0.00")}),
        (b'{"a": 0.1}', {"a": Decimal("0.1")}),
        (b'{"a": {"b": [null, true, "c"]}}', {"a": {"b": [None, True, "c"]}}),
        (b'{"a": {"x": 1}, "b": {"x": 2}}', {"a": {"x": 1}, "b": {"x": 2}}),
        ('{"a": "\u00e9\u20ac\U0001f600"}'.encode(), {"a": "\u00e9\u20ac\U0001f600"}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    ],
)
def test_reads_numbers_exactly(raw: bytes, data: dict[str, Any]) -> None:
    assert loads(raw) == data


def test_no_number_becomes_a_float() -> None:
    data = loads(b'{"a": [1, 1.0, 1e1, 1E400, -1.5e-3]}')
    assert {type(number) for number in data["a"]} == {int, Decimal}


@pytest.mark.parametrize(
    "digits", ["9" * 41, "9" * 5_000, "-" + "9" * 5_000, "1e999999999999999999999", "1" * 60_000]
)
def test_a_huge_number_is_read_without_being_expanded(digits: str) -> None:
    assert isinstance(loads(f'{{"a": {digits}}}'.encode())["a"], Decimal)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not valid JSON"),
        (b" ", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 01}', "not valid JSON"),
        (b'{"a": .5}', "not valid JSON"),
        (b'{"a": +1}', "not valid JSON"),
        (b'{"a": 0x1}', "not valid JSON"),
        (b'{"a": 1} {"b": 2}', "not valid JSON"),
        (b'{"a": "\n"}', "not valid JSON"),
        (b'{"a": "\x00"}', "not valid JSON"),
        (b"// comment\n{}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'[{"a": 1}]', "must be a JSON object"),
        (b'"a"', "must be a JSON object"),
        (b"1", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"true", "must be a JSON object"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": Infinity}', "Infinity is not a JSON number"),
        (b'{"a": [-Infinity]}', "-Infinity is not a JSON number"),
        (b'{"a": 1, "a": 1}', "the same field twice"),
        (b'{"a": 1, "\\u0061": 2}', "the same field twice"),
        (b'{"a": {"b": 1, "b": 2}}', "the same field twice"),
        (b'{"a": [{"b": {"c": 1, "c": 2}}]}', "the same field twice"),
        (b'{"a": "\xff"}', "not valid UTF-8"),
        (b'{"a": "\xc3"}', "not valid UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not valid UTF-8"),
        (b'{"a": "\xc0\xaf"}', "not valid UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not valid UTF-8"),
        (b'{"a": "\\ud83d"}', "surrogate"),
        (b'{"a": "\\ude00\\ud83d"}', "surrogate"),
        (b'{"\\ud800": 1}', "surrogate"),
        (b'{"a": [{"b": ["\\udfff"]}]}', "surrogate"),
        (b"[" * 21 + b"]" * 21, "nested deeper"),
        (b'{"a": ' * 21 + b"1" + b"}" * 21, "nested deeper"),
        (b"[" * 30_000, "nested deeper"),
        (b'{"a": ' * 8_000, "nested deeper"),
    ],
    ids=lambda value: ascii(value[:24]) if isinstance(value, bytes) else None,
)
def test_refuses_what_can_be_read_in_no_way_or_in_two(raw: bytes, reason: str) -> None:
    with pytest.raises(MalformedBody, match=reason) as refusal:
        loads(raw)
    assert (refusal.value.status, refusal.value.code) == (400, "validation_error")


def test_brackets_in_a_text_are_no_nesting() -> None:
    text = "[" * 100
    assert loads(json.dumps({"a": text, "b": [text]}).encode()) == {"a": text, "b": [text]}


def test_the_body_has_a_limit(settings: LazySettings) -> None:
    settings.REQUEST_BODY_BYTES_MAX = 20
    assert StrictJSONParser().parse(io.BytesIO(b'{"a": "12345678910"}')) == {"a": "12345678910"}
    stream = io.BytesIO(b'{"a": "123456789101"}' * 1_000)
    with pytest.raises(PayloadTooLarge) as refusal:
        StrictJSONParser().parse(stream)
    assert (refusal.value.status, refusal.value.code) == (413, "payload_too_large")
    assert stream.tell() == 21


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_refusal(raw: bytes) -> None:
    with suppress(MalformedBody):
        assert isinstance(loads(raw), dict)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.booleans())
def test_any_object_is_read_as_it_was_written(data: dict[str, Any], ascii_only: bool) -> None:
    assert loads(json.dumps(data, ensure_ascii=ascii_only).encode()) == data
