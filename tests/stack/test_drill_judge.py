"""The drill's judge: it finds nothing where record and ledger agree, and every way in which they do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from payflow.stack.drill import load
from payflow.stack.drill.books import Books, Entry, Transaction, minor
from payflow.stack.drill.judge import judge, money_gained
from payflow.stack.drill.record import Answer, Kind, Operation
from payflow.stack.drill.report import Report

ALICE, BOB = "a" * 24, "b" * 24
OPERATION_ID = f"key_{ALICE}_k0:deposit"


def deposit_entry(key: str = "k0", amount_minor: int = 10_000) -> Entry:
    return Entry(f"key_{ALICE}_{key}:deposit", ALICE, "DEPOSIT", "USD", amount_minor)


def side(transaction: str, name: str, user_id: str, kind: str, amount_minor: int) -> Entry:
    return Entry(f"{transaction}:{name}", user_id, kind, "USD", amount_minor, transaction)


def transfer(key: str, *answers: Answer, amount_minor: int = 2_500) -> Operation:
    return Operation(Kind.TRANSFER, ALICE, "USD", amount_minor, key, BOB, list(answers))


def stored(
    id_: str, key: str, status: str, *, refunded: bool = False, amount_minor: int = 2_500
) -> Transaction:
    return Transaction(id_, ALICE, BOB, "USD", amount_minor, status, key, refunded)


@pytest.fixture
def record() -> list[Operation]:
    """A deposit; a transfer that completes, one that is declined, one that goes back; two refusals."""
    return [
        Operation(Kind.DEPOSIT, ALICE, "USD", 10_000, "k0", answers=[Answer(201, OPERATION_ID)] * 2),
        transfer("k1", Answer(201, "txn_1", "INITIATED"), Answer(201, "txn_1", "COMPLETED")),
        transfer("k2", Answer(201, "txn_2", "INITIATED"), amount_minor=99_999),
        transfer("k3", Answer(201, "txn_3", "INITIATED")),
        transfer("k4", Answer(400, told="self_transfer")),
        Operation(
            Kind.WITHDRAWAL, ALICE, "USD", 99_999, "k5", answers=[Answer(409, told="insufficient_balance")]
        ),
    ]


@pytest.fixture
def books() -> Books:
    """What the ledger holds after all of that."""
    transactions = (
        stored("txn_1", "k1", "COMPLETED"),
        stored("txn_2", "k2", "FAILED", amount_minor=99_999),
        stored("txn_3", "k3", "FAILED", refunded=True),
    )
    entries = [
        deposit_entry(),
        side("txn_1", "debit", ALICE, "DEBIT", -2_500),
        side("txn_1", "credit", BOB, "CREDIT", 2_500),
        side("txn_2", "debit", ALICE, "DECLINED", 0),
        side("txn_3", "debit", ALICE, "DEBIT", -2_500),
        side("txn_3", "refund", ALICE, "REFUND", 2_500),
        Entry(f"key_{ALICE}_k5:withdrawal", ALICE, "DECLINED", "USD", 0),
    ]
    return Books({t.id: t for t in transactions}, entries, {(ALICE, "USD"): 7_500, (BOB, "USD"): 2_500})


def test_nothing_is_wrong_where_the_record_and_the_ledger_agree(
    record: list[Operation], books: Books
) -> None:
    assert judge(record, books) == []
    assert money_gained(record, books) == {"USD": 0}


def forget_a_transaction(record: list[Operation], books: Books) -> None:
    """A 201 that does not exist."""
    del books.transactions["txn_2"]


def forget_a_deposit(record: list[Operation], books: Books) -> None:
    del books.entries[0]


def start_a_key_twice(record: list[Operation], books: Books) -> None:
    books.transactions["txn_9"] = stored("txn_9", "k1", "COMPLETED")
    books.entries += [
        side("txn_9", "debit", ALICE, "DEBIT", -2_500),
        side("txn_9", "credit", BOB, "CREDIT", 2_500),
    ]


def deposit_a_key_twice(record: list[Operation], books: Books) -> None:
    books.entries.append(deposit_entry())


def answer_a_key_with_two_ids(record: list[Operation], books: Books) -> None:
    record[1].answers.append(Answer(201, "txn_3", "INITIATED"))


def accept_and_refuse(record: list[Operation], books: Books) -> None:
    record[0].answers.append(Answer(409, told="wallet_closed"))


def never_answer(record: list[Operation], books: Books) -> None:
    record[4].answers.clear()


def move_for_a_refusal(record: list[Operation], books: Books) -> None:
    books.transactions["txn_4"] = stored("txn_4", "k4", "FAILED")
    books.entries.append(side("txn_4", "debit", ALICE, "DECLINED", 0))


def withdraw_for_a_refusal(record: list[Operation], books: Books) -> None:
    books.entries[-1] = replace(books.entries[-1], kind="WITHDRAWAL", amount_minor=-99_999)


def credit_twice(record: list[Operation], books: Books) -> None:
    books.entries.append(side("txn_1", "credit", BOB, "CREDIT", 2_500))


def credit_and_refund(record: list[Operation], books: Books) -> None:
    books.entries.append(side("txn_1", "refund", ALICE, "REFUND", 2_500))


def leave_half_moved(record: list[Operation], books: Books) -> None:
    books.entries.remove(side("txn_3", "refund", ALICE, "REFUND", 2_500))


def leave_open(record: list[Operation], books: Books) -> None:
    books.transactions["txn_1"] = stored("txn_1", "k1", "DEBITED")


def change_the_amount(record: list[Operation], books: Books) -> None:
    books.transactions["txn_1"] = stored("txn_1", "k1", "COMPLETED", amount_minor=2_501)


def say_completed_and_fail(record: list[Operation], books: Books) -> None:
    record[3].answers.append(Answer(201, "txn_3", "COMPLETED"))


def pay_unasked(record: list[Operation], books: Books) -> None:
    books.entries.append(deposit_entry("k77"))


def lose_a_cent(record: list[Operation], books: Books) -> None:
    books.balances[BOB, "USD"] -= 1


def freeze_a_wallet(record: list[Operation], books: Books) -> None:
    """As an audit with a false alarm would."""
    books.inactive["wal_1"] = "FROZEN"


@pytest.mark.parametrize(
    ("doctor", "named"),
    [
        (forget_a_transaction, r"transfer k2 was answered 201 with txn_2, which does not exist"),
        (forget_a_deposit, r"deposit k0 was answered 201 with .*, which does not exist"),
        (start_a_key_twice, r"transfer k1 made 2 transactions"),
        (deposit_a_key_twice, r"deposit k0 moved money 2 times"),
        (answer_a_key_with_two_ids, r"transfer k1 was answered with different ids"),
        (accept_and_refuse, r"deposit k0 was both accepted and refused"),
        (never_answer, r"transfer k4 was never answered"),
        (move_for_a_refusal, r"transfer k4 was refused \(self_transfer\) and yet made txn_4"),
        (withdraw_for_a_refusal, r"withdrawal k5 was refused \(insufficient_balance\) and yet moved money"),
        (credit_twice, r"txn_1 is completed, and its entries are .*2 x CREDIT"),
        (credit_and_refund, r"txn_1 is completed, and its entries are .*REFUND"),
        (leave_half_moved, r"txn_3 is refunded, and its entries are 1 x DEBIT"),
        (leave_open, r"txn_1 has not ended: DEBITED"),
        (change_the_amount, r"txn_1 is another transfer than The transfer k1 asked for"),
        (say_completed_and_fail, r"txn_3 is FAILED, but an answer has said \['COMPLETED'\]"),
        (pay_unasked, r"Nobody asked for .*k77"),
        (freeze_a_wallet, r"wal_1 is FROZEN, for no reason"),
        (lose_a_cent, r"USD wallet of b+ holds 2499 minor units; the record says 2500"),
    ],
)  # fmt: skip
def test_a_doctored_record_or_ledger_is_found(
    doctor: Callable[[list[Operation], Books], None], named: str, record: list[Operation], books: Books
) -> None:
    doctor(record, books)
    wrong = judge(record, books)
    assert any(re.search(named, sentence) for sentence in wrong), wrong


def test_money_from_nowhere_and_to_nowhere_is_counted(record: list[Operation], books: Books) -> None:
    books.balances[BOB, "USD"] += 3
    assert money_gained(record, books) == {"USD": 3}
    books.balances[BOB, "USD"] -= 7
    assert money_gained(record, books) == {"USD": -4}


def test_a_report_is_clean_only_when_nothing_is_wrong() -> None:
    report = Report(seed=1, seconds=2.0, points={"saga.debited": 1}, money_gained_minor={"USD": 0, "JPY": 0})
    assert report.as_dict()["clean"] is True
    assert "Money created or lost: 0 JPY, 0.00 USD" in list(report.lines())
    report.wrong.append("A cent is missing.")
    assert report.as_dict()["clean"] is False
    assert list(report.lines())[-2:] == ["1 things are wrong:", "  A cent is missing."]


@pytest.mark.parametrize(("text", "value"), [("12.50", 1_250), ("-0.05", -5), ("0.00", 0)])
def test_amounts_are_read_with_their_sign(text: str, value: int) -> None:
    assert minor(text, "USD") == value
    assert minor("-7", "JPY") == -7


def test_the_same_seed_wants_the_same(record: list[Operation]) -> None:
    def wants(seed: int) -> list[list[Operation]]:
        random = Random(seed)  # noqa: S311 - to be repeatable
        return [load.draw_request(random, ALICE, [ALICE, BOB], f"k{n}") for n in range(200)]

    assert wants(1) == wants(1) != wants(2)
    assert {operation.kind for operations in wants(1) for operation in operations} == set(Kind)
    batches = [operations for operations in wants(1) if len(operations) > 1]
    assert batches
    assert {operation.kind for operations in batches for operation in operations} == {Kind.TRANSFER}
    keys = [operation.key for operations in wants(1) for operation in operations]
    assert len(set(keys)) == len(keys)
