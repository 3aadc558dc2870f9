"""Canonical JSON: two spellings of one value are one text, and two values never are."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payflow.api.parsers import loads
from payflow.canonical import canonical_json

NUMBERS = st.integers(-(10**30), 10**30) | st.decimals(
    min_value=-(10**30), max_value=10**30, allow_nan=False, allow_infinity=False
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def spelt(draw: st.DrawFn, value: Any) -> str:
    """JSON text that stands for `value`: any order of fields, any blanks, numbers in any spelling."""

    def write(inner: Any) -> str:
        blank = draw(st.sampled_from(["", " ", "\n\t"]))
        if isinstance(inner, dict):
            names = draw(st.permutations(list(inner)))
            return "{" + ",".join(f"{blank}{json.dumps(n)}{blank}:{write(inner[n])}" for n in names) + "}"
        if isinstance(inner, list):
            return f"[{blank}" + ",".join(map(write, inner)) + f"{blank}]"
        if isinstance(inner, int | Decimal) and not isinstance(inner, bool):
            return blank + write_number(inner)
        return blank + json.dumps(inner, ensure_ascii=draw(st.booleans()))

    def write_number(number: int | Decimal) -> str:
        sign, digits, exponent = Decimal(number).as_tuple()
        assert isinstance(exponent, int)
        zeros = draw(st.integers(0, 5))
        text = "".join(map(str, digits)) + "0" * zeros
        return f"{'-' * sign}{text.lstrip('0') or '0'}{draw(st.sampled_from('eE'))}{exponent - zeros}"

    return write(value)


def meaning(value: Any) -> Any:
    """What is equal when two values are the same JSON value; worked out in another way."""
    if isinstance(value, dict):
        return {name: meaning(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [meaning(inner) for inner in value]
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return ("number", Fraction(value))
    return (type(value).__name__, value)


@given(st.data())
def test_order_blanks_and_the_spelling_of_numbers_do_not_matter(data: st.DataObject) -> None:
    value = {"v": data.draw(VALUES)}
    one, other = (loads(data.draw(spelt(value)).encode()) for _ in range(2))
    assert canonical_json(one) == canonical_json(other) == canonical_json(value)


@given(VALUES, VALUES)
def test_only_what_is_the_same_is_written_alike(one: Any, other: Any) -> None:
    assert (canonical_json(one) == canonical_json(other)) is (meaning(one) == meaning(other))


@pytest.mark.parametrize(
    "numbers",
    [["1", "1.0", "1.00", "1e0", "10e-1", "0.1E1"], ["0", "-0", "0.00", "0e9"], ["1e40", "1" + "0" * 40]],
)
def test_a_number_is_a_number_however_it_is_spelt(numbers: list[str]) -> None:
    assert len({canonical_json(loads(f'{{"v": {number}}}'.encode())) for number in numbers}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"1.0"', '"1.00"'),
        ("1", '"1"'),
        ("1", "true"),
        ("0", "false"),
        ("0", "null"),
        ("[]", "{}"),
        ("[1,2]", "[2,1]"),
        ("[[1],2]", "[1,[2]]"),
        ('"e"', '"\\u00e9"'),
        ("1" * 39, "1" * 38 + "2"),
        ("0." + "1" * 60, "0." + "1" * 59 + "2"),
    ],
)
def test_what_differs_is_written_differently(one: str, other: str) -> None:
    texts = {canonical_json(loads(f'{{"v": {value}}}'.encode())) for value in (one, other)}
    assert len(texts) == 2
