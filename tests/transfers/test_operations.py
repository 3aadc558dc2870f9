"""`manage.py saga`: what operators see, what they may do to one transaction, and what is noted of it."""

from __future__ import annotations

import io
import logging
import os
import pwd
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.admin.utils import quote
from django.core.management import CommandError, call_command
from django.test import Client

from accounts.models import User
from ledger import posting
from ledger.chain import Kind, Posting
from ledger.documents import LedgerEntry
from payflow import clock
from payflow.errors import Transient
from payflow.mongodb import collection
from tests.transfers import world
from transfers import operations, recovery, saga, states
from transfers.body import transaction_body
from transfers.documents import Transaction
from transfers.states import Status
from wallets import services as wallet_services

pytestmark = pytest.mark.usefixtures("audited")


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("saga", *arguments, stdout=out)
    return out.getvalue()


def refusal(*arguments: str) -> str:
    """Return the one sentence with which the command gives up."""
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode != 0
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def actions(transaction_id: str) -> list[tuple[str, str, str]]:
    row = world.row_of(transaction_id)
    return [(act["who"], act["action"], act["outcome"]) for act in row.get("operator_actions", [])]


def change(transaction_id: str, **fields: Any) -> None:
    collection(Transaction).update_one({"_id": transaction_id}, {"$set": fields})


# --- Retry ------------------------------------------------------------------------------------------------


def test_retry_drives_it_now_whether_it_is_due_or_not(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    with world.listening() as heard:
        assert run("retry", transaction, "--who", "carol") == f"{transaction} is now COMPLETED.\n"
        assert list(dict.fromkeys(heard.ids())) == world.expected_events(transaction)
    assert actions(transaction) == [("carol", "retry", "COMPLETED")]


def test_retry_clears_the_flag_and_counts_from_the_start(
    alice: str, bob: str, settings: LazySettings
) -> None:
    """Somebody broke a document and repaired it; until then an operator could try in vain."""
    settings.SAGA_ATTENTION_AFTER_ATTEMPTS = 2
    transaction = world.start(alice, bob, 100)
    world.order_otherwise(transaction, currency="EUR")
    for _ in range(2):
        world.make_due(transaction)
        recovery.recover_stalled()
    assert world.row_of(transaction)["needs_attention"] is True
    before = clock.now()
    run("retry", transaction, "--who", "carol")
    row = world.row_of(transaction)
    assert (row["status"], row["needs_attention"], row["attempts"]) == ("INITIATED", False, 0)
    assert row["due_at"] >= clock.after(before, settings.SAGA_STALLED_AFTER_SECONDS)
    world.order_otherwise(transaction, currency="USD")
    run("retry", transaction, "--who", "dave")
    assert actions(transaction) == [("carol", "retry", "INITIATED"), ("dave", "retry", "COMPLETED")]


@pytest.mark.parametrize("ends_as", [Status.COMPLETED, Status.FAILED])
def test_retry_refuses_what_has_ended(alice: str, bob: str, ends_as: Status) -> None:
    transaction = world.start(alice, bob, 100 if ends_as is Status.COMPLETED else 99_999)
    world.play(transaction)
    before = world.row_of(transaction)
    sentence = f"The transaction is {ends_as.value}; there is nothing left to do."
    assert refusal("retry", transaction, "--who", "carol") == sentence
    after = world.row_of(transaction)
    assert after.pop("operator_actions")[0]["outcome"] == f"refused: {sentence}"
    assert after == before


def test_retry_says_what_keeps_it_from_being_driven_and_writes_that_down(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    world.order_otherwise(transaction, amount_minor=0)
    assert refusal("retry", transaction, "--who", "carol").startswith("It cannot be driven (ValueError")
    assert actions(transaction) == [("carol", "retry", "failed: ValueError")]
    world.order_otherwise(transaction, amount_minor=100)
    run("retry", transaction)


# --- Refund -----------------------------------------------------------------------------------------------


def test_refund_gives_back_what_was_debited_and_not_decided(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    saga.debit([transaction])
    with world.listening() as heard:
        assert run("refund", transaction, "--who", "carol") == f"{transaction} is now FAILED.\n"
        assert list(dict.fromkeys(heard.ids())) == world.expected_events(transaction)
    row = world.row_of(transaction)
    assert (row["failure"]["code"], row["failure"]["refunded"]) == ("refunded_by_operator", True)
    assert world.path_of(transaction) == ["INITIATED", "DEBITED", "REFUNDING", "FAILED"]
    assert (world.balance_of(alice), world.balance_of(bob)) == (10_000, 0)
    assert actions(transaction) == [("carol", "refund", "FAILED")]


def test_refund_finishes_a_refund_that_was_decided_and_keeps_its_reason(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    saga.debit([transaction])
    wallet_services.freeze_wallets(user_id=bob)
    saga.credit([transaction])
    assert world.status_of(transaction) is Status.REFUNDING
    run("refund", transaction)
    assert world.row_of(transaction)["failure"]["code"] == "wallet_closed"
    assert world.balance_of(alice) == 10_000


def test_refund_knows_of_a_debit_that_only_the_ledger_has(alice: str, bob: str) -> None:
    """The worker died between the posting and the move."""
    transaction = world.start(alice, bob, 100)
    debit = Posting(f"{transaction}:debit", world.wallet_id_of(alice), Kind.DEBIT, 100, "USD", transaction)
    posting.post([debit])
    run("refund", transaction)
    assert world.path_of(transaction) == ["INITIATED", "DEBITED", "REFUNDING", "FAILED"]
    assert world.balance_of(alice) == 10_000


def _initiated(transaction: str) -> None:
    pass


def _declined(transaction: str) -> None:
    world.order_otherwise(transaction, amount_minor=99_999)
    saga.debit([transaction])


def _declined_in_the_ledger_only(transaction: str) -> None:
    row = world.row_of(transaction)
    posting.post(
        [
            Posting(
                f"{transaction}:debit",
                row["sender_wallet_id"],
                Kind.DECLINED,
                100,
                "USD",
                transaction,
                "expired",
            )
        ]
    )


def _decided(transaction: str) -> None:
    saga.debit([transaction])
    saga._decide_credit([world.row_of(transaction)])


def _credited(transaction: str) -> None:
    saga.credit(saga.debit([transaction]))


def _completed(transaction: str) -> None:
    world.play(transaction)


def _refunded(transaction: str) -> None:
    saga.debit([transaction])
    saga.refund([transaction], undecided_because=states.CREDIT_EXHAUSTED, tell_all=True)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_initiated, "Nothing has been debited, so there is nothing to give back."),
        (_declined_in_the_ledger_only, "Nothing has been debited, so there is nothing to give back."),
        (_declined, "It was declined; nothing was taken."),
        (_decided, "Its credit is decided; it can only be credited."),
        (_credited, "Its credit is decided; it can only be credited."),
        (_completed, "Its credit is decided; it can only be credited."),
        (_refunded, "It is refunded already."),
    ],
)
def test_refund_refuses(alice: str, bob: str, make: Any, sentence: str) -> None:
    transaction = world.start(alice, bob, 100)
    make(transaction)
    before, balances = world.row_of(transaction), (world.balance_of(alice), world.balance_of(bob))
    assert refusal("refund", transaction, "--who", "carol") == sentence
    after = world.row_of(transaction)
    assert after.pop("operator_actions")[0]["outcome"] == f"refused: {sentence}"
    assert after == before
    assert (world.balance_of(alice), world.balance_of(bob)) == balances


def test_refund_that_is_overtaken_by_the_decision_to_credit_is_refused(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = world.start(alice, bob, 100)
    saga.debit([transaction])
    real = saga.refund

    def refund(ids: list[str], **options: Any) -> None:
        saga._decide_credit([world.row_of(transaction)])
        real(ids, **options)

    monkeypatch.setattr(saga, "refund", refund)
    assert "decided just now" in refusal("refund", transaction)
    monkeypatch.undo()
    run("retry", transaction)
    assert (world.status_of(transaction), world.balance_of(bob)) == (Status.COMPLETED, 100)


# --- What is written down ---------------------------------------------------------------------------------


def test_an_action_is_no_part_of_the_history_nor_of_what_others_see(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    run("retry", transaction, "--who", "carol")
    assert "carol" not in str(transaction_body(world.row_of(transaction)))


def test_staff_see_an_action_in_the_admin(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    run("retry", transaction, "--who", "<carol>")
    browser = Client()
    browser.force_login(User.objects.create(email="s@example.com", is_staff=True, is_superuser=True))
    page = browser.get(f"/admin/transfers/transactionrow/{quote(transaction)}/change/").content.decode()
    assert "<td>&lt;carol&gt;</td><td>retry</td><td>COMPLETED</td>" in page


def test_an_action_is_logged_and_named_after_whoever_runs_it(
    alice: str, bob: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    transaction = world.start(alice, bob, 100)
    run("retry", transaction)
    monkeypatch.undo()
    ((who, _, _),) = actions(transaction)
    assert who == pwd.getpwuid(os.getuid()).pw_name != "somebody-else"
    (record,) = [r for r in caplog.records if r.message == "operator acted"]
    assert (record.levelno, record.who, record.outcome) == (logging.WARNING, who, "COMPLETED")


def test_an_action_whose_process_dies_has_left_its_wish(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Death(BaseException):
        pass

    def die(rows: list) -> None:
        raise Death

    transaction = world.start(alice, bob, 100)
    monkeypatch.setattr(recovery, "drive", die)
    with pytest.raises(Death):
        operations.retry(transaction_id=transaction, who="carol")
    assert actions(transaction) == [("carol", "retry", operations.UNFINISHED)]


def test_keeps_the_latest_actions_only(alice: str, bob: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "ACTIONS_KEPT_MAX", 2)
    transaction = world.start(alice, bob, 100)
    for who in ("a", "b", "c"):
        refusal("refund", transaction, "--who", who)
    assert [who for who, _, _ in actions(transaction)] == ["b", "c"]


# --- List and show ----------------------------------------------------------------------------------------


def listed(*arguments: str) -> list[str]:
    return [line.split()[0] for line in run("list", *arguments).splitlines() if line.startswith("  txn_")]


def test_lists_what_has_not_ended_the_longest_due_first(alice: str, bob: str) -> None:
    first, second, third, ended = (world.start(alice, bob, 100) for _ in range(4))
    world.play(ended)
    saga.debit([third])
    world.make_due(third)
    change(first, due_at=clock.after(clock.now(), 100), needs_attention=True)
    assert listed() == [third, second, first]
    assert listed("--stalled") == [third]
    assert listed("--attention") == [first]
    assert listed("--attention", "--stalled") == []
    assert listed("--status", "INITIATED") == [second, first]
    assert listed("--status", "COMPLETED") == [ended]
    assert listed("--limit", "2") == [third, second]
    assert "2 transactions; there may be more" in run("list", "--limit", "2")
    assert run("list", "--status", "REFUNDING") == "  none\n0 transactions\n"


def test_lists_the_newest_of_what_has_ended_first(alice: str, bob: str) -> None:
    transactions = [world.start(alice, bob, 1) for _ in range(3)]
    world.play(*transactions)
    assert listed("--status", "COMPLETED", "--limit", "2") == [transactions[2], transactions[1]]


def test_shows_a_transaction_with_its_timeline_entries_and_actions(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 2_500)
    saga.debit([transaction])
    run("refund", transaction, "--who", "carol")
    shown = run("show", transaction)
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.split("\n\n")[0].splitlines()}
    assert facts["status"] == "FAILED"
    assert facts["settlement"] == "REFUND"
    assert facts["amount"] == "25.00 USD"
    assert facts["failure"] == "refunded_by_operator, refunded: An operator had the transaction refunded."
    _, timeline, entries, acts = shown.split("\n\n")
    assert [line.split()[1:] for line in timeline.splitlines()[2:]] == [
        ["INITIATED"],
        ["DEBITED"],
        ["REFUNDING", "refunded_by_operator"],
        ["FAILED", "refunded_by_operator"],
    ]
    assert [line.split()[:6] for line in entries.splitlines()[2:]] == [
        ["debit", "DEBIT", "-25.00", "USD", "75.00", "USD"],
        ["refund", "REFUND", "25.00", "USD", "100.00", "USD"],
    ]
    assert acts.splitlines()[2].split()[1:] == ["carol", "refund", "FAILED"]


def test_shows_what_is_broken_too(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    broken = {"currency": "XXX", "amount_minor": "ten", "history": None, "due_at": None, "failure": None}
    change(transaction, **broken, correlation_id="\x1b[31m")
    shown = run("show", transaction)
    assert "ten minor units of XXX" in shown
    assert "\x1b" not in shown
    assert transaction in run("list")
    collection(Transaction).delete_one({"_id": transaction})


def test_shows_an_entry_that_payflow_has_not_written(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    world.play(transaction)
    credit = collection(LedgerEntry).find_one({"_id": f"{transaction}:credit"})
    collection(LedgerEntry).update_one({"_id": credit["_id"]}, {"$set": {"mac": "0" * 64}})
    shown = run("show", transaction)
    collection(LedgerEntry).replace_one({"_id": credit["_id"]}, credit)
    assert "broken: the MAC does not fit" in shown
    assert "-1.00 USD" in shown


@pytest.mark.parametrize("action", ["show", "retry", "refund"])
def test_says_when_there_is_no_such_transaction(action: str) -> None:
    assert refusal(action, "txn_none") == "There is no transaction txn_none."


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sing",),
        ("show",),
        ("list", "--limit", "0"),
        ("list", "--limit", "1001"),
        ("list", "--limit", "ten"),
        ("list", "--status", "PONDERING"),
        ("retry", "txn_1", "--who", " "),
        ("retry", "txn_1", "--who", "a\nb"),
        ("retry", "txn_1", "--who", "a" * 65),
    ],
)
def test_refuses_arguments_that_make_no_sense(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        run(*arguments)


@pytest.mark.parametrize("action", ["show", "retry", "refund"])
def test_says_in_one_sentence_that_the_database_is_down(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(**_: object) -> None:
        raise Transient("The database is not answering. Try again shortly.")

    monkeypatch.setattr("transfers.selectors.find_transaction", down)
    assert refusal(action, "txn_1") == "The database is not answering. Try again shortly."
