"""The audit compares transactions with their entries, and names the transaction where they disagree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger.chain import Kind
from ledger.posting import post
from tests.ledger.books import leg, stored, wallet_id
from tests.ledger.story import Story, broken


def second_settlement(story: Story) -> None:
    post([leg(Kind.REFUND, story.paid, story.alice, 3_000)])


def credit_after_refund(story: Story) -> None:
    post([leg(Kind.CREDIT, story.refunded, story.bob, 2_000)])


def credit_without_debit(story: Story) -> None:
    post([leg(Kind.CREDIT, story.books.initiate(story.alice, story.bob, 40), story.bob, 40)])


def credit_after_decline(story: Story) -> None:
    post([leg(Kind.CREDIT, story.declined, story.bob, 90_000)])


def refund_without_debit(story: Story) -> None:
    id_ = story.books.initiate(story.alice, story.bob, 40)
    post([leg(Kind.REFUND, id_, story.alice, 40)])


def debited(story: Story, amount: int = 40) -> str:
    id_ = story.books.initiate(story.alice, story.bob, amount)
    story.books.debit(id_)
    return id_


def credit_of_more_than_debited(story: Story) -> None:
    post([leg(Kind.CREDIT, debited(story), story.bob, 41)])


def credit_in_another_currency(story: Story) -> None:
    post([leg(Kind.CREDIT, debited(story), wallet_id(), 40, "EUR")])


def credit_to_the_sender(story: Story) -> None:
    post([leg(Kind.CREDIT, debited(story), story.alice, 40)])


def refund_to_the_receiver(story: Story) -> None:
    post([leg(Kind.REFUND, debited(story), story.bob, 40)])


def credit_that_nobody_decided(story: Story) -> None:
    post([leg(Kind.CREDIT, debited(story), story.bob, 40)])


def credit_where_refund_was_decided(story: Story) -> None:
    id_ = debited(story)
    story.books.move(id_, "REFUNDING", settlement="REFUND")
    post([leg(Kind.CREDIT, id_, story.bob, 40)])


BAD_SETTLEMENTS: list[Callable[[Story], None]] = [
    second_settlement,
    credit_after_refund,
    credit_without_debit,
    credit_after_decline,
    refund_without_debit,
    credit_of_more_than_debited,
    credit_in_another_currency,
    credit_to_the_sender,
    refund_to_the_receiver,
    credit_that_nobody_decided,
    credit_where_refund_was_decided,
]


@pytest.mark.parametrize("tamper", BAD_SETTLEMENTS)
def test_finds_a_bad_settlement_and_names_its_transaction(
    story: Story, tamper: Callable[[Story], None]
) -> None:
    before = {entry["_id"] for entry in stored()}
    tamper(story)
    newest = next(e for e in stored() if e["_id"] not in before and e["kind"] != "DEBIT")
    for verdict in (story.audit(), story.audit(wallet_id=newest["wallet_id"])):
        settlements = [v for v in verdict.violations if v.invariant == "L4"]
        assert newest["transaction_id"] in {v.transaction_id for v in settlements}
        assert all(v.wallet_id and v.sequence for v in settlements)


def test_credits_that_were_never_debited_break_the_sums(story: Story) -> None:
    credit_without_debit(story)
    assert {"L4", "L5", "L6"} <= broken(story.audit(expect_settled=True))


def completed_without_credit(story: Story) -> str:
    id_ = debited(story)
    story.books.move(id_, "COMPLETED", settlement="CREDIT")
    return id_


def completed_without_anything(story: Story) -> str:
    id_ = story.books.initiate(story.alice, story.bob, 40)
    story.books.move(id_, "COMPLETED", settlement="CREDIT")
    return id_


def failed_and_not_refunded(story: Story) -> str:
    id_ = debited(story)
    story.books.move(id_, "FAILED")
    return id_


def failed_and_refunded_only_on_paper(story: Story) -> str:
    id_ = debited(story)
    story.books.move(id_, "FAILED", settlement="REFUND", refunded=True)
    return id_


def declined_but_debited(story: Story) -> str:
    story.books.move(story.declined, "DEBITED")
    return story.declined


def debited_without_debit(story: Story) -> str:
    id_ = story.books.initiate(story.alice, story.bob, 40)
    story.books.move(id_, "DEBITED")
    return id_


def transaction_lost(story: Story) -> str:
    del story.books.facts[story.paid]
    return story.paid


def other_amount(story: Story) -> str:
    story.books.facts[story.paid] = replace(story.books.facts[story.paid], amount_minor=3_001)
    return story.paid


def other_currency(story: Story) -> str:
    story.books.facts[story.paid] = replace(story.books.facts[story.paid], currency="EUR")
    return story.paid


def other_receiver(story: Story) -> str:
    story.books.facts[story.paid] = replace(story.books.facts[story.paid], receiver_wallet_id=wallet_id())
    return story.paid


CONTRADICTIONS: list[Callable[[Story], str]] = [
    completed_without_credit,
    completed_without_anything,
    failed_and_not_refunded,
    failed_and_refunded_only_on_paper,
    declined_but_debited,
    debited_without_debit,
    transaction_lost,
    other_amount,
    other_currency,
    other_receiver,
]


@pytest.mark.parametrize("contradict", CONTRADICTIONS)
def test_finds_where_a_transaction_contradicts_its_entries(
    story: Story, contradict: Callable[[Story], str]
) -> None:
    transaction = contradict(story)
    for verdict in (story.audit(), story.audit(wallet_id=story.alice)):
        assert {v.transaction_id for v in verdict.violations if v.invariant == "L7"} == {transaction}


def test_the_ledger_may_be_ahead_of_the_status(story: Story) -> None:
    ahead = story.books.initiate(story.alice, story.bob, 40)
    story.books.debit(ahead)
    story.books.move(ahead, "INITIATED")
    credited = debited(story)
    story.books.credit(credited)
    story.books.move(credited, "DEBITED")
    refunded = debited(story)
    story.books.refund(refunded)
    story.books.move(refunded, "REFUNDING", refunded=False)
    assert story.audit().is_clean
