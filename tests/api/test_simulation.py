"""The failure simulation over HTTP: staff only, strict, and not there in production."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import LazySettings

from tests.api.client import Api, Party, assert_problem

PATH, RESET = "/ledger/simulation", "/ledger/simulation/reset"
OFF = {"enabled": False, "failure_rate": 0.0, "fail_transaction_ids": [], "failure_type": "ERROR"}


def test_is_off_until_somebody_turns_it_on(staff: Party) -> None:
    response = staff.api.get(PATH)
    assert (response.status_code, response.json()) == (200, OFF)


def test_changes_what_is_given_and_keeps_the_rest(staff: Party) -> None:
    response = staff.api.post_json(PATH, {"enabled": True, "failure_rate": 0.3})
    assert (response.status_code, response.json()) == (200, {**OFF, "enabled": True, "failure_rate": 0.3})
    response = staff.api.post_json(PATH, {"fail_transaction_ids": ["txn_b", "txn_a", "txn_b"]})
    known = {**OFF, "enabled": True, "failure_rate": 0.3, "fail_transaction_ids": ["txn_a", "txn_b"]}
    assert response.json() == known
    assert staff.api.post_json(PATH, {}).json() == known
    timeout = {**known, "failure_type": "TIMEOUT"}
    assert staff.api.post_json(PATH, {"failure_type": "TIMEOUT"}).json() == timeout
    assert staff.api.get(PATH).json() == timeout


def test_reset_turns_everything_off(staff: Party) -> None:
    staff.api.post_json(PATH, {"enabled": True, "failure_rate": 1, "failure_type": "TIMEOUT"})
    assert (staff.api.send("POST", RESET).status_code, staff.api.get(PATH).json()) == (200, OFF)
    assert staff.api.post_json(RESET, {}).json() == OFF


@pytest.mark.parametrize(
    ("sent", "shown"),
    [(b"0", 0.0), (b"1", 1.0), (b"0.5", 0.5), (b"1.0", 1.0), (b"1e-6", 0.000001), (b"0.3000000", 0.3)],
)
def test_takes_a_rate(staff: Party, sent: bytes, shown: float) -> None:
    response = staff.api.send("POST", PATH, b'{"failure_rate": ' + sent + b"}")
    assert response.json()["failure_rate"] == shown


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("failure_rate", -0.1, "out_of_range"),
        ("failure_rate", 1.000001, "out_of_range"),
        ("failure_rate", 2, "out_of_range"),
        ("failure_rate", 0.0000001, "too_fine"),
        ("failure_rate", "0.5", "invalid"),
        ("failure_rate", True, "invalid"),
        ("failure_rate", None, "null"),
        ("failure_rate", [0.5], "invalid"),
        ("enabled", "true", "invalid"),
        ("enabled", 1, "invalid"),
        ("enabled", None, "null"),
        ("failure_type", "error", "invalid_choice"),
        ("failure_type", ["ERROR"], "invalid_choice"),
        ("fail_transaction_ids", "txn_a", "not_a_list"),
        ("fail_transaction_ids", {"txn_a": 1}, "not_a_list"),
        ("fail_transaction_ids", ["a"] * 1_001, "max_length"),
        ("rate", 0.5, "unknown_field"),
    ],
)
def test_refuses_what_makes_no_sense_and_changes_nothing(
    staff: Party, field: str, value: Any, code: str
) -> None:
    problem = assert_problem(staff.api.post_json(PATH, {field: value}), 400, "validation_error")
    assert [(error["field"], error["code"]) for error in problem["errors"]] == [(field, code)]
    assert staff.api.get(PATH).json() == OFF


@pytest.mark.parametrize(
    ("id_", "code"), [("", "blank"), ("a b", "invalid_id"), ("a" * 65, "invalid_id"), (5, "invalid")]
)
def test_refuses_what_can_be_no_id(staff: Party, id_: Any, code: str) -> None:
    problem = assert_problem(
        staff.api.post_json(PATH, {"fail_transaction_ids": ["txn_a", id_]}), 400, "validation_error"
    )
    assert [(e["field"], e["code"]) for e in problem["errors"]] == [("fail_transaction_ids.1", code)]


@pytest.mark.parametrize(
    "raw", [b"1e999999999", b"-1e999999999", b"1e-999999999", b"1" * 5_000, b"0." + b"1" * 5_000]
)
def test_refuses_a_rate_of_any_size_quickly(staff: Party, raw: bytes) -> None:
    response = staff.api.send("POST", PATH, b'{"failure_rate": ' + raw + b"}")
    assert_problem(response, 400, "validation_error")


def test_reset_takes_no_fields(staff: Party) -> None:
    assert_problem(staff.api.post_json(RESET, {"enabled": True}), 400, "validation_error")


@pytest.mark.parametrize(("method", "path"), [("GET", PATH), ("POST", PATH), ("POST", RESET)])
def test_is_for_staff_only(anna: Party, anyone: Api, method: str, path: str) -> None:
    assert_problem(anna.api.send(method, path, b"{}"), 403, "permission_denied")
    assert_problem(anyone.send(method, path, b"{}"), 401, "not_authenticated")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", PATH), ("POST", PATH), ("DELETE", PATH), ("POST", RESET), ("GET", RESET)]
)
def test_does_not_exist_in_production(
    staff: Party, anna: Party, anyone: Api, settings: LazySettings, method: str, path: str
) -> None:
    settings.IS_PRODUCTION = True
    nowhere = anyone.get("/ledger/no-such-thing").json()["detail"]
    for api in (staff.api, anna.api, anyone):
        assert assert_problem(api.send(method, path, b"{}"), 404, "not_found")["detail"] == nowhere


def test_answers_503_when_redis_is_down(staff: Party, redis_down: None) -> None:
    for response in (
        staff.api.get(PATH),
        staff.api.post_json(PATH, {"enabled": True}),
        staff.api.send("POST", RESET),
    ):
        assert_problem(response, 503, "service_unavailable")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_takes_no_other_method(staff: Party, method: str) -> None:
    assert staff.api.send(method, PATH, b"{}").status_code == 405
