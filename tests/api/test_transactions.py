"""The transaction endpoints: starting, following to the end, listing, keys, and Prefer: wait."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import LazySettings

from accounts import services as accounts
from payflow import redisdb
from payflow.api import prefer
from tests.api.client import Party, assert_problem, facts, join, nothing_changes
from transfers import saga, tasks
from wallets import services as wallets

REPLAYED, APPLIED = "Idempotent-Replayed", "Preference-Applied"
FIELDS = {
    "id", "sender_id", "receiver_id", "amount", "currency", "status", "description", "reference", "batch_id",
    "failure", "history", "initiated_at", "completed_at",
}  # fmt: skip
ENDED = ["INITIATED", "DEBITED", "CREDITED", "COMPLETED"]


def pay(sender: Party, receiver: Party, amount: str = "10.00", **more: Any) -> Any:
    """POST /transactions; names in capitals are headers."""
    headers = {name: value for name, value in more.items() if name[0].isupper()}
    fields = {name: value for name, value in more.items() if name not in headers}
    body = {"receiver_id": receiver.id, "amount": amount, **fields}
    return sender.api.post_json("/transactions", body, **headers)


def drive(*transaction_ids: str) -> None:
    """Run the saga's steps to the end."""
    step = saga.credit(saga.debit(transaction_ids))
    saga.complete(step.credited)
    saga.refund(step.refused)


def seen_by(party: Party, transaction_id: str) -> dict[str, Any]:
    response = party.api.get(f"/transactions/{transaction_id}")
    assert response.status_code == 200, response.content
    return response.json()


def statuses(transaction: dict[str, Any]) -> list[str]:
    return [move["status"] for move in transaction["history"]]


# --- Start ------------------------------------------------------------------------------------------------


def test_answers_with_the_transaction_as_it_was_written_down(anna: Party, bob: Party) -> None:
    response = pay(anna, bob, "10.5", description="Lunch")
    assert response.status_code == 201
    body = response.json()
    assert set(body) == FIELDS
    assert body["id"].startswith("txn_")
    assert body == {
        **body, "sender_id": anna.id, "receiver_id": bob.id, "amount": "10.50", "currency": "USD",
        "status": "INITIATED", "description": "Lunch", "reference": None, "batch_id": None, "failure": None,
        "completed_at": None,
        "history": [{"status": "INITIATED", "at": body["initiated_at"], "reason": None}],
    }  # fmt: skip
    assert response["Location"] == f"/transactions/{body['id']}"
    assert REPLAYED not in response
    assert seen_by(anna, body["id"]) == body


@pytest.mark.parametrize("email", ["bob@example.com", "BOB@Example.COM", " bob@example.com "])
def test_finds_the_receiver_by_email_in_any_case(anna: Party, bob: Party, email: str) -> None:
    response = anna.api.post_json("/transactions", {"receiver_email": email, "amount": "1"})
    assert (response.status_code, response.json()["receiver_id"]) == (201, bob.id)


@pytest.mark.parametrize(
    "text",
    ["", " padded ", "caf\u00e9 \u2615", "cafe\u0301", "\u0634\u06a9\u0631\u0627\u064b \u200fx",
     "a\u200cb\u200d",      "\U0001f468\u200d\U0001f469\u200d\U0001f467", "x" * 140, "\U0001f600" * 140,
     "\ufeffzero\u200bwidth",
     "<script>alert(1)</script>", "'; DROP TABLE --", "{{7*7}}${7*7}", '"quoted" \\n', "null", "\U0001fae8"],
    ids=ascii,
)  # fmt: skip
def test_keeps_a_description_exactly(anna: Party, bob: Party, text: str) -> None:
    started = pay(anna, bob, description=text).json()
    assert started["description"] == (text or None)
    assert seen_by(bob, started["id"])["description"] == (text or None)


def test_a_receiver_whom_registration_left_without_a_wallet_gets_one(anna: Party, bob: Party) -> None:
    bob.wallet.delete()
    assert pay(anna, bob).status_code == 201


# --- To the end -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("saga_worker")
def test_a_payment_completes_and_an_unaffordable_one_fails(anna: Party, bob: Party) -> None:
    paid = pay(anna, bob, "99.99", Prefer="wait=30")
    declined = pay(anna, bob, "0.02", Prefer="wait=30")
    assert (paid[APPLIED], declined[APPLIED]) == ("wait=30", "wait=30")
    done = paid.json()
    assert (done["status"], statuses(done), done["failure"]) == ("COMPLETED", ENDED, None)
    times = [move["at"] for move in done["history"]]
    assert times == sorted(times)
    assert done["completed_at"] >= times[-1]
    failed = declined.json()
    assert statuses(failed) == ["INITIATED", "FAILED"]
    assert failed["failure"] == {
        "code": "insufficient_balance", "detail": failed["failure"]["detail"], "refunded": False,
    }  # fmt: skip
    assert (anna.cents, bob.cents) == (1, 99_99)
    history = bob.api.get("/wallets/me/history").json()["results"]
    assert [(row["kind"], row["amount"], row["transaction_id"]) for row in history] == [
        ("CREDIT", "99.99", done["id"])
    ]


def test_a_receiver_frozen_after_the_debit_leads_to_a_refund(anna: Party, bob: Party) -> None:
    started = pay(anna, bob).json()
    assert saga.debit([started["id"]]) == [started["id"]]
    assert anna.cents == 90_00
    wallets.freeze_wallets(user_id=bob.id)
    step = saga.credit([started["id"]])
    assert (step.credited, step.refused) == ([], [started["id"]])
    assert seen_by(anna, started["id"])["status"] == "REFUNDING"
    saga.refund(step.refused)
    ended = seen_by(bob, started["id"])
    assert statuses(ended) == ["INITIATED", "DEBITED", "REFUNDING", "FAILED"]
    assert (ended["failure"]["code"], ended["failure"]["refunded"]) == ("wallet_closed", True)
    assert ended["completed_at"]
    assert (anna.cents, bob.cents) == (100_00, 0)


# --- Refusals ---------------------------------------------------------------------------------------------


def test_refuses_a_receiver_who_was_deactivated(anna: Party, bob: Party) -> None:
    accounts.deactivate_user(user_id=bob.id)
    with nothing_changes():
        assert_problem(pay(anna, bob), 404, "receiver_not_found")


@pytest.mark.parametrize("owner", ["anna", "bob", None])
def test_refuses_a_currency_that_one_of_them_has_no_wallet_in(
    anna: Party, bob: Party, owner: str | None
) -> None:
    if owner:
        wallets.open_wallet(user_id={"anna": anna, "bob": bob}[owner].id, currency="EUR")
    with nothing_changes():
        assert_problem(pay(anna, bob, currency="EUR"), 409, "currency_mismatch")


@pytest.mark.parametrize("frozen", ["anna", "bob"])
def test_refuses_when_one_of_the_wallets_is_frozen(anna: Party, bob: Party, frozen: str) -> None:
    wallets.freeze_wallets(user_id={"anna": anna, "bob": bob}[frozen].id)
    with nothing_changes():
        assert_problem(pay(anna, bob, Idempotency_Key="k"), 409, "wallet_closed")


# --- Read -------------------------------------------------------------------------------------------------


def test_sender_receiver_and_staff_see_a_transaction_and_nobody_else(
    anna: Party, bob: Party, staff: Party, stranger: Party
) -> None:
    started = pay(anna, bob).json()
    assert seen_by(anna, started["id"]) == seen_by(bob, started["id"]) == seen_by(staff, started["id"])
    for unknown in (started["id"], "txn_unknown", f"{started['id']}:debit"):
        assert_problem(stranger.api.get(f"/transactions/{unknown}"), 404, "not_found")


def listed(party: Party, query: str = "") -> list[str]:
    ids, cursor = [], ""
    for _ in range(20):
        page = party.api.get(f"/transactions?{query}{cursor}").json()
        ids += [row["id"] for row in page["results"]]
        if page["next"] is None:
            return ids
        cursor = f"&cursor={page['next']}"
    raise AssertionError("the pages do not end")


def test_lists_own_transactions_newest_first_by_status_and_direction(
    anna: Party, bob: Party, stranger: Party
) -> None:
    ids = [pay(*pair).json()["id"] for pair in ((anna, bob), (bob, anna), (anna, stranger), (stranger, bob))]
    drive(*ids)
    assert listed(anna) == [ids[2], ids[1], ids[0]]
    assert listed(anna, "direction=sent") == [ids[2], ids[0]]
    assert listed(anna, "direction=received") == [ids[1]]
    assert listed(bob, "status=COMPLETED") == [ids[3], ids[0]]
    assert listed(bob, "status=FAILED") == [ids[1]]
    assert listed(bob, "status=FAILED&direction=received") == listed(bob, "status=INITIATED") == []
    assert listed(join("Carol")) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_the_pages_of_a_list_hold_every_transaction_once(anna: Party, bob: Party, limit: int) -> None:
    ids = [pay(anna, bob, "1").json()["id"] for _ in range(7)]
    assert listed(anna, f"limit={limit}") == listed(bob, f"limit={limit}") == sorted(ids, reverse=True)


def test_pages_stay_where_they_are_while_transactions_are_added(anna: Party, bob: Party) -> None:
    ids = sorted(pay(anna, bob, "1").json()["id"] for _ in range(4))
    first = anna.api.get("/transactions?limit=2").json()
    pay(anna, bob, "1")
    second = anna.api.get(f"/transactions?limit=2&cursor={first['next']}").json()
    assert [row["id"] for row in first["results"] + second["results"]] == ids[::-1]
    assert second["next"] is None


# --- Idempotency keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.parametrize("redis_is_lost", [False, True])
def test_a_repeat_gets_the_first_answer_and_starts_nothing(
    anna: Party, bob: Party, has_ended: bool, redis_is_lost: bool
) -> None:
    first = pay(anna, bob, Idempotency_Key="k")
    if has_ended:
        drive(first.json()["id"])
        wallets.freeze_wallets(user_id=bob.id)
    if redis_is_lost:
        redisdb.client().flushall()
    with nothing_changes():
        again = pay(anna, bob, X_Idempotency_Key="k")
    assert (again.status_code, again.json(), again["Location"]) == (201, first.json(), first["Location"])
    assert (REPLAYED in first, again[REPLAYED]) == (False, "true")


@pytest.mark.parametrize("other", [{"amount": "10.01"}, {"description": "x"}, {"currency": "EUR"}])
def test_a_key_used_for_something_else_is_refused(anna: Party, bob: Party, other: dict[str, str]) -> None:
    pay(anna, bob, Idempotency_Key="k")
    with nothing_changes():
        assert_problem(pay(anna, bob, **{**other, "Idempotency_Key": "k"}), 422, "idempotency_key_reused")


def test_a_key_is_one_user_s_and_one_endpoint_s(anna: Party, bob: Party, stranger: Party) -> None:
    ids = {pay(party, bob, Idempotency_Key="k").json()["id"] for party in (anna, stranger)}
    deposit = anna.api.post_json("/wallets/me/deposit", {"amount": "10.00"}, Idempotency_Key="k")
    assert (len(ids), deposit.status_code, REPLAYED in deposit) == (2, 201, False)
    assert_problem(pay(anna, stranger, Idempotency_Key="k"), 422, "idempotency_key_reused")


def test_thirty_requests_at_once_with_one_key_start_one_transaction(anna: Party, bob: Party) -> None:
    def ask(_: int) -> tuple[int, Any]:
        response = pay(Party(anna.user, anna.another_client()), bob, Idempotency_Key="k")
        return response.status_code, response.json()

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(ask, range(30)))
    done = [body for status, body in answers if status == 201]
    assert done == [done[0]] * len(done)
    # The others came while the first was still running.
    assert {body["code"] for status, body in answers if status != 201} <= {"idempotency_in_progress"}
    assert [row["_id"] for row in facts()["transactions"]] == [done[0]["id"]]


# --- Prefer: wait -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "applied"),
    [("wait=5", "wait=5"), ("wait=30", "wait=30"), ("wait=31", "wait=30"), ("wait=999999999", "wait=30"),
     ('wait="7"', "wait=7"), ("WAIT = 2", "wait=2"), ("respond-async, wait=3", "wait=3"),
     ("wait=0", "wait=0"), ("foo; bar=1, wait=4; baz=2", "wait=4")],
)  # fmt: skip
def test_applies_a_preference_to_wait_at_most_thirty_seconds(
    anna: Party, bob: Party, sent: str, applied: str
) -> None:
    started = pay(anna, bob).json()
    drive(started["id"])
    response = anna.api.get(f"/transactions/{started['id']}", headers={"Prefer": sent})
    assert (response[APPLIED], response.json()["status"]) == (applied, "COMPLETED")


@pytest.mark.parametrize(
    "sent",
    [
        "wait",
        "wait=",
        "wait=-1",
        "wait=x",
        "wait=1.5",
        "wait=\u0661",
        "await=1",
        "wait=" + "9" * 10,
        ";,=",
        "foo; wait=5",
        "respond-async;wait=5, foo=bar; wait=3",
        "",
    ],
)
def test_ignores_a_preference_it_does_not_understand(anna: Party, bob: Party, sent: str) -> None:
    response = pay(anna, bob, Prefer=sent)
    assert (response.status_code, APPLIED in response, response.json()["status"]) == (201, False, "INITIATED")


def test_answers_when_the_time_is_over_though_nothing_has_happened(anna: Party, bob: Party) -> None:
    response = pay(anna, bob, Prefer="wait=1")
    assert (response.status_code, response[APPLIED], response.json()["status"]) == (
        201,
        "wait=1",
        "INITIATED",
    )


def test_what_was_written_down_is_answered_though_the_database_goes_away(
    anna: Party, bob: Party, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "start_saga", lambda: request.getfixturevalue("mongodb_down"))
    response = pay(anna, bob, Prefer="wait=1")
    assert (response.status_code, response.json()["status"]) == (201, "INITIATED")


def test_past_the_bound_of_waiters_the_answer_comes_at_once(
    anna: Party, bob: Party, settings: LazySettings
) -> None:
    started = pay(anna, bob).json()
    path, waiting = f"/transactions/{started['id']}", settings.PREFER_WAITERS_MAX
    clients = [anna.another_client() for _ in range(waiting)]
    answers: list[Any] = []

    def wait(client: Any) -> None:
        answers.append(client.get(path, headers={"Prefer": "wait=30"}))

    threads = [threading.Thread(target=wait, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    for _ in range(3_000):
        if prefer._places._value == 0:
            break
        threading.Event().wait(0.01)
    at_once = anna.api.get(path, headers={"Prefer": "wait=30"})
    assert (at_once.status_code, APPLIED in at_once, at_once.json()["status"]) == (200, False, "INITIATED")
    drive(started["id"])
    for thread in threads:
        thread.join()
    assert [(one[APPLIED], one.json()["status"]) for one in answers] == [("wait=30", "COMPLETED")] * waiting


def test_with_no_place_to_wait_a_new_transaction_is_answered_as_if_nobody_had_asked(
    anna: Party, bob: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefer, "_places", threading.BoundedSemaphore(1))
    monkeypatch.setattr(tasks, "start_saga", lambda: drive(facts()["transactions"][0]["_id"]))
    prefer._places.acquire()
    response = pay(anna, bob, Prefer="wait=1")
    assert (response.status_code, APPLIED in response, response.json()["status"]) == (201, False, "INITIATED")


# --- Without Redis ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("redis_down")
def test_without_redis_a_transaction_is_written_down_all_the_same(anna: Party, bob: Party) -> None:
    first = pay(anna, bob, Idempotency_Key="k")
    again = pay(anna, bob, Idempotency_Key="k")
    assert (first.status_code, first.json()["status"]) == (201, "INITIATED")
    assert (again.json(), again[REPLAYED]) == (first.json(), "true")
    assert [row["status"] for row in facts()["transactions"]] == ["INITIATED"]
