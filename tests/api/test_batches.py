"""Batches over HTTP: a worked example, each refusal, sizes, keys, and what comes of the transfers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import LazySettings

from accounts import services as accounts
from payflow import redisdb
from payflow.mongodb import collection
from tests.api.client import Api, Party, assert_problem, facts, join, nothing_changes
from tests.api.test_transactions import drive
from transfers import batches, recovery, schema, tasks
from transfers.documents import TransferBatch
from wallets import services as wallets

REPLAYED = "Idempotent-Replayed"
STATUSES = ("INITIATED", "DEBITED", "CREDITED", "COMPLETED", "REFUNDING", "FAILED")


def to(receiver: Party, amount: Any = "1.00", **more: Any) -> dict[str, Any]:
    return {"receiver_id": receiver.id, "amount": amount, **more}


def send(sender: Party, *transfers: Any, **headers: str) -> Any:
    return sender.api.post_json("/transactions/batch", {"transfers": list(transfers)}, **headers)


def codes(response: Any) -> list[str | None]:
    """Return what became of each transfer: None where it was accepted, else its problem's code."""
    assert response.status_code == 201, response.content[:500]
    body = response.json()
    found = [result["problem"]["code"] if "problem" in result else None for result in body["results"]]
    assert (body["created"], body["refused"]) == (found.count(None), len(found) - found.count(None))
    assert all(set(result) in ({"problem"}, {"transaction"}) for result in body["results"])
    return found


def ids(response: Any) -> list[str]:
    return [r["transaction"]["id"] for r in response.json()["results"] if "transaction" in r]


def summary(party: Party, batch_id: str) -> dict[str, Any]:
    response = party.api.get(f"/transactions/batch/{batch_id}")
    assert response.status_code == 200, response.content
    return response.json()


def outcomes(**counts: int) -> dict[str, int]:
    return dict.fromkeys(STATUSES, 0) | counts


# --- An example -------------------------------------------------------------------------------------------


def test_a_payroll_from_the_request_to_its_end(anna: Party, bob: Party, stranger: Party) -> None:
    response = send(
        anna,
        to(bob, "60.5", description="March", reference="payroll-3/bob"),
        {"receiver_email": "stranger@example.com", "amount": "30"},
        {"receiver_email": "nobody@example.com", "amount": "1.00"},
        to(bob, "9.51"),
    )
    assert codes(response) == [None, None, "receiver_not_found", None]
    body = response.json()
    first, second, refused, last = body["results"]
    assert body["id"].startswith("bat_")
    assert response["Location"] == f"/transactions/batch/{body['id']}"
    assert REPLAYED not in response
    assert first["transaction"] == anna.api.get(f"/transactions/{first['transaction']['id']}").json()
    assert first["transaction"] | {"id": "", "initiated_at": "", "history": []} == {
        "id": "", "sender_id": anna.id, "receiver_id": bob.id, "amount": "60.50", "currency": "USD",
        "status": "INITIATED", "description": "March", "reference": "payroll-3/bob",
        "batch_id": body["id"], "failure": None, "history": [], "initiated_at": "", "completed_at": None,
    }  # fmt: skip
    assert second["transaction"]["receiver_id"] == stranger.id
    assert refused["problem"] == {
        "type": "urn:payflow:error:receiver_not_found",
        "title": "Receiver not found",
        "status": 404,
        "detail": "Nobody who can receive money is known by this.",
        "code": "receiver_not_found",
        "errors": [
            {
                "field": "receiver_email",
                "code": "receiver_not_found",
                "detail": "Nobody who can receive money is known by this.",
            }
        ],
    }
    at_first = summary(anna, body["id"])
    assert at_first == {
        "id": body["id"],
        "created_at": last["transaction"]["initiated_at"],
        "size": 4,
        "created": 3,
        "refused": 1,
        "outcomes": outcomes(INITIATED=3),
        "amounts": {"USD": {"moved": "0.00", "failed": "0.00", "in_flight": "100.01"}},
        "finished": False,
    }
    drive(*ids(response))
    assert summary(anna, body["id"]) == at_first | {
        "outcomes": outcomes(COMPLETED=2, FAILED=1),
        "amounts": {"USD": {"moved": "90.50", "failed": "9.51", "in_flight": "0.00"}},
        "finished": True,
    }
    assert (anna.cents, bob.cents, stranger.cents) == (9_50, 60_50, 130_00)


def test_the_documented_example_is_what_the_server_answers(anna: Party, bob: Party) -> None:
    said = schema.BATCHES["create"]
    (sent,), (shown,) = said.sends.values(), said.answers[201].examples.values()
    answered = anna.api.post_json("/transactions/batch", sent).json()
    (transaction,), (example,) = ([r["transaction"] for r in b["results"][:1]] for b in (answered, shown))
    own = {"id", "sender_id", "receiver_id", "history", "initiated_at"}
    assert {k: v for k, v in example.items() if k not in own | {"batch_id"}} == {
        k: v for k, v in transaction.items() if k not in own | {"batch_id"}
    }
    assert (example["batch_id"], transaction["batch_id"]) == (shown["id"], answered["id"])
    assert shown["results"][1:] == answered["results"][1:]
    assert {**shown, "id": "", "results": []} == {**answered, "id": "", "results": []}


@pytest.mark.usefixtures("saga_worker")
def test_a_batch_goes_on_by_itself(anna: Party, bob: Party) -> None:
    response = send(anna, *[to(bob, "0.10") for _ in range(120)])
    for id_ in ids(response):
        ended = anna.api.get(f"/transactions/{id_}", headers={"Prefer": "wait=30"})
        assert ended.json()["status"] == "COMPLETED"
    assert summary(anna, response.json()["id"])["finished"] is True
    assert (anna.cents, bob.cents) == (88_00, 12_00)


# --- What a batch is --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "transfers"),
        ({"transfers": None}, "transfers"),
        ({"transfers": {}}, "transfers"),
        ({"transfers": "x"}, "transfers"),
        ({"transfers": 7}, "transfers"),
        ({"transfers": []}, "transfers"),
        ({"transfers": [{}] * 1_001}, "transfers"),
        ({"transfers": [{}], "transfer": []}, "transfer"),
        ({"transfers": [{}], "currency": "USD"}, "currency"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_what_is_no_batch_is_refused_as_a_whole(anna: Party, body: Any, field: str) -> None:
    with nothing_changes():
        problem = assert_problem(anna.api.post_json("/transactions/batch", body), 400, "validation_error")
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize("size", [1, 2, 1_000])
def test_a_batch_holds_one_to_a_thousand_transfers_in_their_order(anna: Party, bob: Party, size: int) -> None:
    response = send(anna, *[to(bob, f"{1 + n % 7}.{n % 100:02}", reference=f"r{n}") for n in range(size)])
    assert codes(response) == [None] * size
    found = [result["transaction"] for result in response.json()["results"]]
    assert [(t["amount"], t["reference"]) for t in found] == [
        (f"{1 + n % 7}.{n % 100:02}", f"r{n}") for n in range(size)
    ]
    assert [row["_id"] for row in facts()["transactions"]] == [t["id"] for t in found] == ids(response)
    assert redisdb.client().lrange("payflow:inbox:batched", 0, -1) == ids(response)


def test_a_batch_may_be_longer_than_other_bodies_and_no_longer_than_its_own_limit(
    anna: Party, bob: Party, settings: LazySettings
) -> None:
    long = [to(bob, "0.01", description="\U0001f600" * 100) for _ in range(200)]
    assert len(json.dumps(long)) > 2 * settings.REQUEST_BODY_BYTES_MAX
    assert codes(send(anna, *long)) == [None] * 200
    with nothing_changes():
        too_long = json.dumps({"transfers": [to(bob)], "": " " * 1_048_576}).encode()
        assert_problem(anna.api.send("POST", "/transactions/batch", too_long), 413, "payload_too_large")
        other = json.dumps({**to(bob), "description": "x" * 65_536}).encode()
        assert_problem(anna.api.send("POST", "/transactions", other), 413, "payload_too_large")


def test_the_limit_of_a_batch_counts_what_comes_and_not_what_is_announced(
    anna: Party, bob: Party, settings: LazySettings
) -> None:
    settings.BODY_BYTES_MAX_BY_PATH = {"/transactions/batch": 300}
    assert send(anna, to(bob)).status_code == 201
    assert_problem(send(anna, *[to(bob)] * 10), 413, "payload_too_large")


# --- Each transfer for itself -----------------------------------------------------------------------------

REFUSALS: list[tuple[Any, str, str | None]] = [
    (None, "validation_error", "body"),
    (7, "validation_error", "body"),
    ("x", "validation_error", "body"),
    ([], "validation_error", "body"),
    ({}, "validation_error", "amount"),
    ({"amount": "1.00"}, "validation_error", "receiver_id"),
    ({"receiver_id": "b", "receiver_email": "b", "amount": "1"}, "validation_error", "receiver_id"),
    ({"receiver_id": 5, "amount": "1.00"}, "validation_error", "receiver_id"),
    ({"receiver_id": "x" * 65, "amount": "1.00"}, "validation_error", "receiver_id"),
    ({"receiver_id": "b", "amount": "0"}, "invalid_amount", "amount"),
    ({"receiver_id": "b", "amount": "-1"}, "invalid_amount", "amount"),
    ({"receiver_id": "b", "amount": "1.001"}, "invalid_amount", "amount"),
    ({"receiver_id": "b", "amount": None}, "validation_error", "amount"),
    ({"receiver_id": "b", "amount": {}}, "invalid_amount", "amount"),
    ({"receiver_id": "b", "amount": "1", "currency": "XXX"}, "validation_error", "currency"),
    ({"receiver_id": "b", "amount": "1", "description": "a\nb"}, "validation_error", "description"),
    ({"receiver_id": "b", "amount": "1", "description": None}, "validation_error", "description"),
    ({"receiver_id": "b", "amount": "1", "transfers": []}, "validation_error", "transfers"),
    ({"receiver_id": "b", "amount": "1", "reference": ""}, "validation_error", "reference"),
    ({"receiver_id": "b", "amount": "1", "reference": None}, "validation_error", "reference"),
    ({"receiver_id": "b", "amount": "1", "reference": 1}, "validation_error", "reference"),
    ({"receiver_id": "b", "amount": "1", "reference": "x" * 65}, "validation_error", "reference"),
    ({"receiver_id": "b", "amount": "1", "reference": "a b"}, "validation_error", "reference"),
    ({"receiver_id": "b", "amount": "1", "reference": "a\n"}, "validation_error", "reference"),
    ({"receiver_id": "nobody", "amount": "1.00"}, "receiver_not_found", "receiver_id"),
    ({"receiver_id": "f" * 24, "amount": "1.00"}, "receiver_not_found", "receiver_id"),
    ({"receiver_email": "nobody@example.com", "amount": "1.00"}, "receiver_not_found", "receiver_email"),
    ({"receiver_email": "anna@example.com", "amount": "1.00"}, "self_transfer", "receiver_email"),
    ({"receiver_email": "bob@example.com", "amount": 1, "currency": "EUR"}, "currency_mismatch", "currency"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "code", "field"), REFUSALS, ids=lambda value: str(value)[:50])
def test_a_bad_transfer_refuses_only_itself_and_as_it_would_alone(
    anna: Party, bob: Party, bad: Any, code: str, field: str
) -> None:
    response = send(anna, to(bob, "1.00"), bad, to(bob, "2.00"))
    assert codes(response) == [None, code, None]
    problem = response.json()["results"][1]["problem"]
    assert {error["field"] for error in problem["errors"]} == {field}
    assert [row["amount_minor"] for row in facts()["transactions"]] == [100, 200]
    if isinstance(bad, dict):
        with nothing_changes():
            alone = assert_problem(anna.api.post_json("/transactions", bad), problem["status"], code)
        assert {name: alone[name] for name in problem} == problem


def test_a_batch_of_which_nothing_is_good_is_answered_like_the_others(anna: Party) -> None:
    response = send(anna, {}, to(anna))
    assert codes(response) == ["validation_error", "self_transfer"]
    assert summary(anna, response.json()["id"])["finished"] is True
    assert summary(anna, response.json()["id"])["amounts"] == {}
    assert facts()["transactions"] == []
    assert redisdb.client().llen("payflow:inbox:batched") == 0


def test_wallets_decide_for_each_transfer(anna: Party, bob: Party, stranger: Party, staff: Party) -> None:
    for party in (anna, bob):
        wallets.open_wallet(user_id=party.id, currency="EUR")
    wallets.freeze_wallets(user_id=stranger.id)
    staff.wallet.delete()
    inactive = join("Inactive")
    accounts.deactivate_user(user_id=inactive.id)
    response = send(
        anna,
        to(bob, currency="EUR"),
        to(stranger),
        to(staff),
        to(inactive),
        {"receiver_email": "inactive@example.com", "amount": "1"},
        to(staff, currency="EUR"),
        to(bob, currency="JPY", amount="1"),
        *[to(bob)] * 3,
    )
    assert codes(response) == [
        None, "wallet_closed", None, "receiver_not_found", "receiver_not_found", "currency_mismatch",
        "currency_mismatch", None, None, None,
    ]  # fmt: skip
    assert staff.wallet.id == facts()["transactions"][1]["receiver_wallet_id"]


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_sender_whose_wallet_cannot_pay_is_told_so_for_each_transfer(
    anna: Party, bob: Party, is_frozen: bool
) -> None:
    if is_frozen:
        wallets.freeze_broken_wallet(anna.wallet.id)
        assert codes(send(anna, to(bob), to(anna))) == ["wallet_closed", "self_transfer"]
    else:
        anna.wallet.delete()
        assert codes(send(anna, to(bob), to(anna))) == [None, "self_transfer"]


def test_a_deactivated_sender_is_refused_as_a_whole(anna: Party, bob: Party) -> None:
    accounts.deactivate_user(user_id=anna.id)
    with nothing_changes():
        assert_problem(send(anna, to(bob), {}), 401, "not_authenticated")
    assert collection(TransferBatch).count_documents({}) == 0


def test_what_is_more_than_there_is_is_declined_by_the_ledger_one_by_one(anna: Party, bob: Party) -> None:
    response = send(anna, *[to(bob, "40.00")] * 4, to(bob, "20.00"))
    drive(*ids(response))
    found = summary(anna, response.json()["id"])
    assert found["outcomes"] == outcomes(COMPLETED=3, FAILED=2)
    assert found["amounts"] == {"USD": {"moved": "100.00", "failed": "80.00", "in_flight": "0.00"}}
    assert (anna.cents, bob.cents) == (0, 100_00)


# --- References -------------------------------------------------------------------------------------------


def test_a_reference_names_one_transfer_within_a_batch_and_for_ever(
    anna: Party, bob: Party, stranger: Party
) -> None:
    bad = to(anna, reference="c")
    first = send(anna, to(bob, reference="a"), to(bob, reference="a"), to(bob), bad, to(bob, reference="c"))
    assert codes(first) == [None, "already_exists", None, "self_transfer", None]
    problem = first.json()["results"][1]["problem"]
    assert (problem["status"], [error["field"] for error in problem["errors"]]) == (409, ["reference"])
    again = send(anna, to(bob, reference="b"), to(bob, reference="a"), to(bob, reference="A"))
    assert codes(again) == [None, "already_exists", None]
    assert again.json()["results"][1]["problem"] == problem
    assert codes(send(stranger, to(bob, reference="a"))) == [None]
    assert summary(anna, again.json()["id"])["refused"] == 1


def test_two_batches_at_once_with_the_same_references_make_each_transfer_once(
    anna: Party, bob: Party
) -> None:
    transfers = [to(bob, "0.01", reference=f"r{n}") for n in range(50)]

    def ask(turn: int) -> list[str | None]:
        mine = transfers if turn % 2 else transfers[::-1]
        found = codes(send(Party(anna.user, anna.another_client()), *mine))
        return found if turn % 2 else found[::-1]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    for n in range(50):
        assert sorted(answer[n] or "" for answer in answers) == ["", *["already_exists"] * 3]
    assert sorted(row["reference"] for row in facts()["transactions"]) == sorted(f"r{n}" for n in range(50))


# --- Idempotency keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.parametrize("redis_is_lost", [False, True])
def test_a_repeat_gets_the_first_answer_and_starts_nothing(
    anna: Party, bob: Party, has_ended: bool, redis_is_lost: bool
) -> None:
    transfers = [to(bob, reference="a"), to(bob, reference="a"), {}, to(bob, "500.00")]
    first = send(anna, *transfers, Idempotency_Key="k")
    if has_ended:
        drive(*ids(first))
        wallets.freeze_wallets(user_id=bob.id)
    if redis_is_lost:
        redisdb.client().flushall()
    with nothing_changes():
        again = send(anna, *transfers, X_Idempotency_Key="k")
    assert codes(again) == [None, "already_exists", "validation_error", None]
    assert (again.json(), again["Location"]) == (first.json(), first["Location"])
    assert (REPLAYED in first, again[REPLAYED]) == (False, "true")
    assert collection(TransferBatch).count_documents({}) == 1


@pytest.mark.parametrize("redis_is_lost", [False, True])
@pytest.mark.parametrize(
    ("amount", "status"), [("10.0", 201), ("1e1", 201), ("10", 201), ('"10.00"', 422), ("10.01", 422)]
)
def test_the_same_body_is_the_same_with_redis_and_without(
    anna: Party, bob: Party, redis_is_lost: bool, amount: str, status: int
) -> None:
    def ask(body: str) -> Any:
        return anna.api.send("POST", "/transactions/batch", body.encode(), Idempotency_Key="k")

    first = ask(f'{{"transfers": [{{"receiver_id": "{bob.id}", "amount": 10.00}}]}}')
    assert codes(first) == [None]
    if redis_is_lost:
        redisdb.client().flushall()
    again = ask(f'{{"transfers": [{{"amount": {amount}, "receiver_id": "{bob.id}"}}]}}')
    assert again.status_code == status
    assert status != 201 or again.json() == first.json()
    assert len(facts()["transactions"]) == 1


@pytest.mark.parametrize("redis_is_lost", [False, True])
def test_a_key_used_for_another_batch_is_refused(anna: Party, bob: Party, redis_is_lost: bool) -> None:
    send(anna, to(bob), Idempotency_Key="k")
    if redis_is_lost:
        redisdb.client().flushall()
    for others in ([to(bob, "1.01")], [to(bob), to(bob)]):
        with nothing_changes():
            assert_problem(send(anna, *others, Idempotency_Key="k"), 422, "idempotency_key_reused")


def test_a_key_is_one_user_s_and_one_endpoint_s(anna: Party, bob: Party, stranger: Party) -> None:
    batch_ids = {send(party, to(bob), Idempotency_Key="k").json()["id"] for party in (anna, stranger)}
    single = anna.api.post_json("/transactions", to(bob), Idempotency_Key="k")
    assert (len(batch_ids), single.status_code, REPLAYED in single) == (2, 201, False)


@pytest.mark.parametrize("has_redis", [True, False])
def test_twenty_requests_at_once_with_one_key_make_one_set_of_transactions(
    anna: Party, bob: Party, has_redis: bool, request: pytest.FixtureRequest
) -> None:
    if not has_redis:
        request.getfixturevalue("redis_down")
    transfers = [to(bob, "0.01", **({"reference": f"r{n}"} if n % 2 else {})) for n in range(30)]

    def ask(client: Api) -> tuple[int, Any]:
        response = send(Party(anna.user, client), *transfers, Idempotency_Key="k")
        return response.status_code, response.json()

    clients = [anna.another_client() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, clients))
    done = [body for status, body in answers if status == 201]
    assert {status for status, _ in answers} <= {201, 409}
    assert {body["code"] for status, body in answers if status == 409} <= {"idempotency_in_progress"}
    assert len(done) == 20 or has_redis
    assert all(body == done[0] for body in done)
    stored = [row["_id"] for row in facts()["transactions"]]
    assert stored == [result["transaction"]["id"] for result in done[0]["results"]]
    assert len(stored) == 30


# --- Without Redis, without the worker --------------------------------------------------------------------


@pytest.mark.usefixtures("redis_down")
def test_without_redis_a_batch_is_written_down_all_the_same(anna: Party, bob: Party) -> None:
    first = send(anna, to(bob), to(bob), Idempotency_Key="k")
    again = send(anna, to(bob), to(bob), Idempotency_Key="k")
    assert codes(first) == [None, None]
    assert (again.json(), again[REPLAYED]) == (first.json(), "true")
    assert [row["_id"] for row in facts()["transactions"]] == ids(first)


def test_prefer_is_ignored(anna: Party, bob: Party) -> None:
    response = send(anna, to(bob), Prefer="wait=30")
    assert (codes(response), "Preference-Applied" in response) == ([None], False)


def test_a_batch_starts_one_chain(anna: Party, bob: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    chains: list[bool] = []
    monkeypatch.setattr(tasks, "start_saga", lambda: chains.append(True))
    send(anna, *[to(bob, "0.01")] * 100, Idempotency_Key="k")
    send(anna, *[to(bob, "0.01")] * 100, Idempotency_Key="k")
    send(anna, {})
    assert chains == [True]


# --- Reading it -------------------------------------------------------------------------------------------


def test_only_its_sender_and_staff_see_a_batch(
    anna: Party, bob: Party, staff: Party, stranger: Party
) -> None:
    batch_id = send(anna, to(bob)).json()["id"]
    assert summary(staff, batch_id) == summary(anna, batch_id)
    for party in (bob, stranger):
        assert_problem(party.api.get(f"/transactions/batch/{batch_id}"), 404, "not_found")
    for unknown in ("bat_unknown", "batch"):
        assert_problem(anna.api.get(f"/transactions/batch/{unknown}"), 404, "not_found")


def test_the_transactions_of_a_batch_are_listed_for_their_parties_and_staff(
    anna: Party, bob: Party, stranger: Party, staff: Party
) -> None:
    alone = anna.api.post_json("/transactions", to(bob)).json()["id"]
    response = send(anna, to(bob), to(stranger), to(bob))
    mine, query = ids(response), f"/transactions?batch={response.json()['id']}"
    seen = {
        name: [row["id"] for row in party.api.get(query).json()["results"]]
        for name, party in (("anna", anna), ("bob", bob), ("staff", staff))
    }
    assert seen == {"anna": mine[::-1], "bob": [mine[2], mine[0]], "staff": mine[::-1]}
    assert staff.api.get(f"{query}&direction=sent").json()["results"] == []
    assert staff.api.get("/transactions").json()["results"] == []
    assert [row["id"] for row in anna.api.get(f"{query}&limit=1").json()["results"]] == [mine[2]]
    assert alone not in mine
    assert_problem(anna.api.get("/transactions?batch=x"), 400, "validation_error")


def test_an_unfinished_batch_says_so_and_recovery_finishes_it(
    anna: Party, bob: Party, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SAGA_STALLED_AFTER_SECONDS = 0
    monkeypatch.setattr(batches, "finish", lambda row: (row, batches.transactions_of(row), False))
    response = send(anna, to(bob), {}, to(bob, "2.00"))
    monkeypatch.undo()
    batch_id = response.json()["id"]
    found = summary(anna, batch_id)
    assert (found["size"], found["created"], found["refused"], found["finished"]) == (3, 0, 1, False)
    recovery.recover_stalled()
    found = summary(anna, batch_id)
    assert (found["created"], found["finished"]) == (2, True)
    assert [row["_id"] for row in facts()["transactions"]] == ids(response)
    assert bob.cents == 3_00
