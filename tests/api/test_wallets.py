"""The wallet endpoints: opening, reading, moving money in and out, histories and past balances."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import LazySettings

from ledger.documents import LedgerEntry
from payflow import clock, money, redisdb
from payflow.mongodb import collection
from tests.accounts.factories import UserFactory, grant
from tests.accounts.keys import mint
from tests.api.client import Api, Party, assert_problem, join, nothing_changes
from wallets import services
from wallets.documents import Wallet

A_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"
NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def parsed(time: str) -> datetime:
    return datetime.fromisoformat(time)


# --- Open and read ----------------------------------------------------------------------------------------


def test_opens_a_wallet_in_another_currency(anna: Party) -> None:
    response = anna.api.post_json("/wallets", {"currency": "EUR"})
    assert response.status_code == 201
    body = response.json()
    assert set(body) == {"id", "currency", "balance", "status", "created_at", "updated_at"}
    assert body["id"].startswith("wal_")
    assert (body["currency"], body["balance"], body["status"]) == ("EUR", "0.00", "ACTIVE")
    assert body["created_at"] == body["updated_at"]
    assert anna.api.get("/wallets/me?currency=EUR").json() == body


def test_refuses_a_second_wallet_in_the_same_currency(anna: Party) -> None:
    with nothing_changes():
        problem = assert_problem(anna.api.post_json("/wallets", {"currency": "USD"}), 409, "already_exists")
    assert [error["field"] for error in problem["errors"]] == ["currency"]


def test_of_requests_at_once_one_opens_the_wallet(anna: Party) -> None:
    def ask(_: int) -> int:
        return anna.another_client().post_json("/wallets", {"currency": "EUR"}).status_code

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(ask, range(10))) == [201, *[409] * 9]


def test_lists_own_wallets_only_with_their_balances(anna: Party, stranger: Party) -> None:
    anna.api.post_json("/wallets", {"currency": "JPY"})
    anna.receive(7, "JPY")
    stranger.api.post_json("/wallets", {"currency": "KWD"})
    shown = anna.api.get("/wallets").json()["results"]
    assert [(wallet["currency"], wallet["balance"]) for wallet in shown] == [("USD", "100.00"), ("JPY", "7")]


def test_a_user_whom_registration_left_without_a_wallet_gets_one_on_first_use(anna: Party) -> None:
    anna.wallet.delete()
    assert [w["currency"] for w in anna.api.get("/wallets").json()["results"]] == ["USD"]
    anna.wallet.delete()
    assert anna.api.get("/wallets/me").status_code == 200


def test_shows_the_default_currency_unless_asked_for_another(anna: Party) -> None:
    assert anna.api.get("/wallets/me").json() == anna.api.get("/wallets/me?currency=USD").json()
    assert_problem(anna.api.get("/wallets/me?currency=EUR"), 404, "not_found")


def test_a_wallet_is_updated_when_money_moves(anna: Party) -> None:
    moved = anna.api.post_json("/wallets/me/deposit", {"amount": "1.00"}).json()
    assert anna.api.get("/wallets/me").json()["updated_at"] == moved["entry"]["created_at"]


# --- Deposit and withdraw ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("currency", "amount", "shown"),
    [("USD", "12.5", "12.50"), ("USD", 12, "12.00"), ("USD", "0.01", "0.01"), ("JPY", "500", "500"),
     ("KWD", "1.234", "1.234"), ("USD", "10000000000000.00", "10000000000000.00")],
)  # fmt: skip
def test_deposits_and_withdraws_in_every_kind_of_currency(currency: str, amount: Any, shown: str) -> None:
    carol = join("Carol")
    services.ensure_wallet(user_id=carol.id, currency=currency)
    deposit = carol.api.post_json("/wallets/me/deposit", {"amount": amount, "currency": currency})
    assert deposit.status_code == 201
    body = deposit.json()
    assert set(body) == {"entry", "balance"}
    assert body["balance"] == shown
    entry = body["entry"]
    assert (entry["kind"], entry["amount"], entry["balance"]) == ("DEPOSIT", shown, shown)
    assert (entry["sequence"], entry["currency"], entry["transaction_id"]) == (1, currency, None)
    withdrawal = carol.api.post_json("/wallets/me/withdraw", {"amount": amount, "currency": currency})
    assert withdrawal.status_code == 201
    assert withdrawal.json()["entry"]["amount"] == f"-{shown}"
    assert withdrawal.json()["balance"].strip("0.") == ""


@pytest.mark.parametrize("number", [b"100.50", b"1.005e2", b"10050E-2", b"100.5"])
def test_a_json_number_is_taken_where_it_is_exact(bob: Party, number: bytes) -> None:
    response = bob.api.send("POST", "/wallets/me/deposit", b'{"amount": %s}' % number)
    assert (response.status_code, bob.cents) == (201, 100_50)


def test_refuses_to_withdraw_more_than_there_is_and_writes_the_refusal_down(anna: Party) -> None:
    assert_problem(
        anna.api.post_json("/wallets/me/withdraw", {"amount": "100.01"}), 409, "insufficient_balance"
    )
    assert anna.cents == 100_00
    newest = anna.api.get("/wallets/me/history?limit=1").json()["results"][0]
    assert (newest["kind"], newest["amount"], newest["requested_amount"]) == ("DECLINED", "0.00", "100.01")
    assert newest["reason"] == "insufficient_balance"


@pytest.mark.parametrize("move", ["deposit", "withdraw"])
def test_refuses_to_move_money_of_a_wallet_that_does_not_exist(anna: Party, move: str) -> None:
    with nothing_changes():
        response = anna.api.post_json(f"/wallets/me/{move}", {"amount": "1.00", "currency": "EUR"})
        assert_problem(response, 404, "not_found")


@pytest.mark.parametrize("status", ["FROZEN", "CLOSED"])
@pytest.mark.parametrize("move", ["deposit", "withdraw"])
def test_a_frozen_or_closed_wallet_moves_nothing_but_can_be_read(anna: Party, move: str, status: str) -> None:
    Wallet.objects(id=anna.wallet.id).update(set__status=status)
    with nothing_changes():
        response = anna.api.post_json(f"/wallets/me/{move}", {"amount": "1.00"}, Idempotency_Key="k")
        assert_problem(response, 409, "wallet_closed")
    assert anna.api.get("/wallets/me").json()["status"] == status
    assert len(anna.api.get("/wallets/me/history").json()["results"]) == 1


def test_where_deposits_are_closed_the_permission_makes_them(
    settings: LazySettings, anna: Party, staff: Party
) -> None:
    settings.DEPOSITS_OPEN = False
    with nothing_changes():
        response = anna.api.post_json("/wallets/me/deposit", {"amount": "1.00"})
        assert_problem(response, 403, "permission_denied")
    assert staff.api.post_json("/wallets/me/deposit", {"amount": "1.00"}).status_code == 201
    assert anna.api.post_json("/wallets/me/withdraw", {"amount": "1.00"}).status_code == 201


def test_staff_without_the_permission_make_no_deposit(settings: LazySettings, staff: Party) -> None:
    settings.DEPOSITS_OPEN = False
    staff.user.user_permissions.clear()
    with nothing_changes():
        response = staff.api.post_json("/wallets/me/deposit", {"amount": "1.00"})
        assert_problem(response, 403, "permission_denied")


def test_a_service_user_with_the_permission_deposits_without_being_staff(
    settings: LazySettings, anna: Party
) -> None:
    settings.DEPOSITS_OPEN = False
    grant(anna.user, "wallets.deposit")
    assert anna.api.post_json("/wallets/me/deposit", {"amount": "1.00"}).status_code == 201


def test_deposits_of_a_day_have_a_limit_in_each_currency(settings: LazySettings, bob: Party) -> None:
    settings.DEPOSITS_PER_DAY_MAX = 100
    assert bob.api.post_json("/wallets", {"currency": "JPY"}).status_code == 201
    assert bob.api.post_json("/wallets/me/deposit", {"amount": "60.00"}).status_code == 201
    with nothing_changes():
        response = bob.api.post_json("/wallets/me/deposit", {"amount": "40.01"})
        body = assert_problem(response, 409, "deposit_limit")
    assert body["detail"] == "At most 100.00 USD may be deposited in a day."
    assert bob.api.post_json("/wallets/me/deposit", {"amount": "40.00"}).status_code == 201
    assert bob.api.post_json("/wallets/me/deposit", {"amount": "100", "currency": "JPY"}).status_code == 201
    assert_problem(
        bob.api.post_json("/wallets/me/deposit", {"amount": "1", "currency": "JPY"}), 409, "deposit_limit"
    )
    assert bob.cents == 100_00


def test_one_deposit_beyond_the_limit_of_a_day_is_refused_too(settings: LazySettings, bob: Party) -> None:
    settings.DEPOSITS_PER_DAY_MAX = 100
    with nothing_changes():
        response = bob.api.post_json("/wallets/me/deposit", {"amount": "100.01"})
        assert_problem(response, 409, "deposit_limit")
    assert bob.api.post_json("/wallets/me/deposit", {"amount": "100.00"}).status_code == 201


def test_keys_of_one_maker_share_the_makers_limit(settings: LazySettings, anna: Party, bob: Party) -> None:
    settings.DEPOSITS_OPEN, settings.DEPOSITS_PER_DAY_MAX = False, 100
    boss = grant(UserFactory(), "wallets.deposit")
    keys = [Api(mint(party.user, "deposits:write", created_by=boss).encoded) for party in (anna, bob)]
    assert keys[0].post_json("/wallets/me/deposit", {"amount": "60.00"}).status_code == 201
    assert_problem(keys[1].post_json("/wallets/me/deposit", {"amount": "60.00"}), 409, "deposit_limit")
    assert bob.cents == 0
    # What was refused for the maker's limit leaves the owner's own as it was.
    assert keys[1].post_json("/wallets/me/deposit", {"amount": "40.00"}).status_code == 201
    settings.DEPOSITS_OPEN = True
    assert bob.api.post_json("/wallets/me/deposit", {"amount": "60.00"}).status_code == 201


def test_a_repeated_deposit_counts_once_towards_the_limit(settings: LazySettings, bob: Party) -> None:
    settings.DEPOSITS_PER_DAY_MAX = 100
    for _ in range(3):
        redisdb.client().flushdb()
        response = bob.api.post_json("/wallets/me/deposit", {"amount": "50.00"}, Idempotency_Key="k")
        assert response.status_code == 201
    assert bob.api.post_json("/wallets/me/deposit", {"amount": "50.00"}).status_code == 201
    assert bob.cents == 100_00


def test_simultaneous_deposits_do_not_pass_the_limit_together(settings: LazySettings, bob: Party) -> None:
    settings.DEPOSITS_PER_DAY_MAX = 100
    with ThreadPoolExecutor(8) as pool:
        clients = [bob.another_client() for _ in range(24)]
        answers = list(
            pool.map(
                lambda api: api.post_json("/wallets/me/deposit", {"amount": "10.00"}).status_code, clients
            )
        )
    assert (answers.count(201), answers.count(409)) == (10, 14)
    assert bob.cents == 100_00


def test_a_deposit_that_the_ledger_declines_leaves_room(
    settings: LazySettings, bob: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DEPOSITS_PER_DAY_MAX = 100
    monkeypatch.setattr(money, "BALANCE_MINOR_SOFT_MAX", 30_00)
    assert_problem(bob.api.post_json("/wallets/me/deposit", {"amount": "90.00"}), 409, "invalid_amount")
    monkeypatch.undo()
    assert bob.api.post_json("/wallets/me/deposit", {"amount": "90.00"}).status_code == 201


def test_refuses_a_deposit_that_the_wallet_could_not_hold(
    anna: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(money, "BALANCE_MINOR_SOFT_MAX", 200_00)
    assert anna.api.post_json("/wallets/me/deposit", {"amount": "100.00"}).status_code == 201
    assert_problem(anna.api.post_json("/wallets/me/deposit", {"amount": "0.01"}), 409, "invalid_amount")
    assert anna.cents == 200_00


# --- History ----------------------------------------------------------------------------------------------


def all_pages(party: Party, query: str) -> list[dict[str, Any]]:
    rows, cursor = [], ""
    for _ in range(20):
        page = party.api.get(f"/wallets/me/history?{query}{cursor}").json()
        rows += page["results"]
        if page["next"] is None:
            return rows
        cursor = f"&cursor={page['next']}"
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
def test_the_pages_of_a_history_hold_every_entry_once_newest_first(bob: Party, limit: int) -> None:
    for cents in range(1, 8):
        bob.receive(cents)
    assert [row["sequence"] for row in all_pages(bob, f"limit={limit}")] == [7, 6, 5, 4, 3, 2, 1]


def test_pages_stay_where_they_are_while_entries_are_added(bob: Party) -> None:
    for _ in range(5):
        bob.receive(1)
    first = bob.api.get("/wallets/me/history?limit=2").json()
    bob.receive(1)
    second = bob.api.get(f"/wallets/me/history?limit=2&cursor={first['next']}").json()
    assert [row["sequence"] for row in first["results"] + second["results"]] == [5, 4, 3, 2]


def test_a_wallet_without_entries_has_one_empty_page(bob: Party) -> None:
    assert bob.api.get("/wallets/me/history").json() == {"results": [], "next": None}


@pytest.mark.parametrize(
    ("kind", "sequences"),
    [("DEPOSIT", [3, 1]), ("WITHDRAWAL", [2]), ("DECLINED", [4]), ("CREDIT", []), ("DEBIT", []),
     ("REFUND", [])],
)  # fmt: skip
def test_a_history_can_be_of_one_kind(bob: Party, kind: str, sequences: list[int]) -> None:
    for move, amount in (("deposit", "2"), ("withdraw", "1"), ("deposit", "1"), ("withdraw", "9")):
        bob.api.post_json(f"/wallets/me/{move}", {"amount": amount})
    assert [row["sequence"] for row in all_pages(bob, f"kind={kind}&limit=1")] == sequences
    assert {row["kind"] for row in all_pages(bob, f"kind={kind}")} <= {kind}


def test_twenty_entries_are_a_page_unless_asked_otherwise(bob: Party) -> None:
    for _ in range(21):
        bob.receive(1)
    page = bob.api.get("/wallets/me/history").json()
    assert len(page["results"]) == 20
    assert page["next"]


# --- Balance at a moment ----------------------------------------------------------------------------------


def balance(party: Party, wallet_id: str, at: datetime | None = None) -> dict[str, Any]:
    query = {"at": clock.rfc3339(at)} if at else {}
    response = party.api.get(f"/wallets/{wallet_id}/balance", query)
    assert response.status_code == 200, response.content
    return response.json()


@pytest.fixture
def past(bob: Party, monkeypatch: pytest.MonkeyPatch) -> Party:
    """Bob, who received 1.00 at NOW, 2.00 ten seconds later, and spent 0.50 after ten more."""
    with monkeypatch.context() as patched:
        for seconds, move, cents in ((0, "deposit", 100), (10, "deposit", 200), (20, "withdraw", 50)):
            patched.setattr(clock, "now", lambda seconds=seconds: NOW + timedelta(seconds=seconds))
            getattr(services, move)(user_id=bob.id, currency="USD", amount_minor=cents, key=None)
    return bob


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-86_400, "0.00"), (-0.001, "0.00"), (0, "1.00"), (5, "1.00"), (9.999, "1.00"), (10, "3.00"),
     (19.999, "3.00"), (20, "2.50"), (3600, "2.50")],
)  # fmt: skip
def test_a_balance_at_a_past_moment_is_that_of_the_newest_entry_then(
    past: Party, seconds: float, expected: str
) -> None:
    at = NOW + timedelta(seconds=seconds)
    assert balance(past, past.wallet.id, at) == {
        "balance": expected, "currency": "USD", "as_of": clock.rfc3339(at),
    }  # fmt: skip


def test_a_time_with_another_offset_is_the_same_moment(past: Party) -> None:
    response = past.api.get(f"/wallets/{past.wallet.id}/balance", {"at": "2026-01-31T15:00:10+05:30"})
    assert (response.json()["balance"], response.json()["as_of"]) == ("3.00", "2026-01-31T09:30:10.000Z")


@pytest.mark.parametrize("at", [None, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)])
def test_the_balance_of_a_moment_to_come_is_that_of_now(past: Party, at: datetime | None) -> None:
    before = clock.now()
    shown = balance(past, past.wallet.id, at)
    assert shown["balance"] == "2.50"
    assert before <= parsed(shown["as_of"]) <= clock.now()


def test_the_balance_of_now_counts_an_entry_that_a_faster_clock_wrote(
    anna: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = clock.now() + timedelta(minutes=5)
    with monkeypatch.context() as patched:
        patched.setattr(clock, "now", lambda: ahead)
        anna.receive(1_00)
    assert balance(anna, anna.wallet.id)["balance"] == "101.00"


def test_owner_and_staff_see_a_balance_and_nobody_else(anna: Party, stranger: Party, staff: Party) -> None:
    for party in (anna, staff):
        assert balance(party, anna.wallet.id)["balance"] == "100.00"
    assert_problem(stranger.api.get(f"/wallets/{anna.wallet.id}/balance"), 404, "not_found")
    assert_problem(anna.api.get("/wallets/wal_unknown/balance"), 404, "not_found")


def test_a_wallet_whose_ledger_is_broken_is_unavailable_and_not_empty(anna: Party, stranger: Party) -> None:
    collection(LedgerEntry).update_one({"wallet_id": anna.wallet.id}, {"$set": {"kind": "X"}})
    paths = ["/wallets", "/wallets/me", "/wallets/me/history", f"/wallets/{anna.wallet.id}/balance"]
    answers = [anna.api.get(path) for path in paths]
    answers.append(anna.api.get(f"/wallets/{anna.wallet.id}/balance", {"at": clock.rfc3339(clock.now())}))
    answers += [
        anna.api.post_json(f"/wallets/me/{name}", {"amount": "1.00"}) for name in ("deposit", "withdraw")
    ]
    for answer in answers:
        assert_problem(answer, 503, "service_unavailable")
    assert stranger.api.get("/wallets").status_code == 200
