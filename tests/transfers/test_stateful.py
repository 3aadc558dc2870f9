"""The invariants of docs/guarantees.md under random interleavings.

L1 chains without gap, balances and hashes that follow. L2 no balance below zero. L3 one entry an operation.
L4 one settlement a transaction. L5 clearing is what is debited and not settled. L6 balances are deposits
less withdrawals less what is in flight. L7 every transaction ends. L8 every entry carries its MAC.

Hypothesis plays deposits, withdrawals, transfers, repeats under the same key, every step on any transactions
at any time, steps that are overtaken in the middle by other executors, steps that die in the middle, frozen
wallets, credits that fail on purpose, and time that passes. The audit runs after each of them, and once more
when all has settled.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import mongoengine
from django.core.management import call_command
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger import audit_record, posting, seen, simulation
from ledger.simulation import FailureType
from payflow.errors import IdempotencyKeyReused, Refused
from payflow.mongodb import collection
from tests.transfers import world
from transfers import moves, recovery, saga, states
from transfers.documents import Transaction
from wallets import services as wallet_services
from wallets.errors import InsufficientBalance

AMOUNTS = st.integers(min_value=1, max_value=400)
PEOPLE = st.integers(min_value=0, max_value=2)
KEYS = st.one_of(st.none(), st.sampled_from(["k1", "k2", "k3"]))
POINTS = st.sampled_from([
    "posting.before_insert", "posting.after_insert",
    "saga.debit_posted", "saga.moved_to_debited", "saga.debited",
    "saga.credit_hanging", "saga.credit_decided", "saga.credit_posted", "saga.moved_to_credited",
    "saga.credited", "saga.moved_to_completed", "saga.completed",
    "saga.moved_to_refunding", "saga.refund_decided", "saga.refund_posted", "saga.moved_to_failed",
])  # fmt: skip
STEPS: dict[str, Callable[[list[str]], object]] = {
    "debit": saga.debit,
    "credit": saga.credit,
    "complete": saga.complete,
    "refund": saga.refund,
    "give up": functools.partial(saga.refund, undecided_because=states.CREDIT_EXHAUSTED, tell_all=True),
}
STEP_NAMES = st.sampled_from(sorted(STEPS))
CHOICES = st.lists(st.integers(min_value=0, max_value=11), min_size=1, max_size=6)


class Death(BaseException):
    """The process running a step ends here."""


class Money(RuleBasedStateMachine):
    """Three people, one currency, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        for document in (Transaction, *mongoengine.Document.__subclasses__()):
            if not document._meta.get("abstract"):
                collection(document).delete_many({})
        seen.forget()
        audit_record.forget_that_it_began()
        simulation.reset(by="test")
        self.transactions: list[str] = []
        self.outside_minor = 0

    @initialize()
    def open(self) -> None:
        self.people = [world.person(name, balance_minor=500) for name in ("a", "b", "c")]
        self.outside_minor = 1_500

    @rule(who=PEOPLE, amount=AMOUNTS, key=KEYS)
    def deposit(self, who: int, amount: int, key: str | None) -> None:
        self._outside(wallet_services.deposit, who, amount, key, sign=1)

    @rule(who=PEOPLE, amount=AMOUNTS, key=KEYS)
    def withdraw(self, who: int, amount: int, key: str | None) -> None:
        self._outside(wallet_services.withdraw, who, amount, key, sign=-1)

    def _outside(self, service: Callable, who: int, amount: int, key: str | None, *, sign: int) -> None:
        try:
            moved = service(user_id=self.people[who], currency="USD", amount_minor=amount, key=key)
        except (InsufficientBalance, Refused):
            return
        if not moved.replayed:
            self.outside_minor += sign * amount

    @precondition(lambda self: len(self.transactions) < 12)
    @rule(sender=PEOPLE, receiver=PEOPLE, amount=AMOUNTS, key=KEYS)
    def transfer(self, sender: int, receiver: int, amount: int, key: str | None) -> None:
        try:
            transaction = world.start(self.people[sender], self.people[receiver], amount, key)
        except IdempotencyKeyReused:
            return
        except Refused:
            return
        if transaction not in self.transactions:
            self.transactions.append(transaction)

    @precondition(lambda self: self.transactions)
    @rule(step=STEP_NAMES, choice=CHOICES)
    def run_step(self, step: str, choice: list[int]) -> None:
        STEPS[step](self._chosen(choice))

    @precondition(lambda self: self.transactions)
    @rule(choice=CHOICES)
    def run_whole_saga(self, choice: list[int]) -> None:
        world.play(*self._chosen(choice))

    @precondition(lambda self: self.transactions)
    @rule(
        step=STEP_NAMES,
        choice=CHOICES,
        point=POINTS,
        others=st.lists(st.tuples(STEP_NAMES, CHOICES), max_size=3),
    )
    def overtake_a_step(
        self, step: str, choice: list[int], point: str, others: list[tuple[str, list[int]]]
    ) -> None:
        """One executor stops at `point`, others act on the same rows, then it goes on with what it knew."""

        def meanwhile() -> None:
            for other, other_choice in others:
                STEPS[other](self._chosen(other_choice))

        self._interrupted(step, choice, point, meanwhile)

    @precondition(lambda self: self.transactions)
    @rule(step=STEP_NAMES, choice=CHOICES, point=POINTS)
    def die_in_a_step(self, step: str, choice: list[int], point: str) -> None:
        def die() -> None:
            raise Death

        with contextlib.suppress(Death):
            self._interrupted(step, choice, point, die)

    def _interrupted(self, step: str, choice: list[int], point: str, then: Callable[[], None]) -> None:
        real = saga.crash_point

        def put(crash_point: Callable[[str], None]) -> None:
            saga.crash_point = moves.crash_point = posting.crash_point = crash_point

        def at(name: str) -> None:
            if name == point:
                put(real)
                then()

        put(at)
        try:
            STEPS[step](self._chosen(choice))
        finally:
            put(real)

    @rule(kind=st.sampled_from([None, *FailureType]), per_million=st.sampled_from([400_000, 1_000_000]))
    def simulate(self, kind: FailureType | None, per_million: int) -> None:
        simulation.change(
            by="test", enabled=kind is not None, failure_per_million=per_million, failure_type=kind
        )

    @rule(who=PEOPLE)
    def freeze(self, who: int) -> None:
        wallet_services.freeze_wallets(user_id=self.people[who])

    @rule(who=PEOPLE)
    def unfreeze(self, who: int) -> None:
        wallet_services.unfreeze_wallets(user_id=self.people[who])

    @precondition(lambda self: self.transactions)
    @rule(choice=CHOICES)
    def let_time_pass(self, choice: list[int]) -> None:
        for transaction in self._chosen(choice):
            world.make_old(transaction, 3_600)

    @rule()
    def recover(self) -> None:
        world.make_due(*self.transactions)
        recovery.recover_stalled()

    def _chosen(self, choice: list[int]) -> list[str]:
        return sorted({self.transactions[index % len(self.transactions)] for index in choice})

    @invariant()
    def the_audit_is_clean(self) -> None:
        call_command("audit", verbosity=0)

    def teardown(self) -> None:
        if not hasattr(self, "people"):
            return
        with world.listening() as heard:
            world.make_due(*self.transactions)
            recovery.recover_stalled()
            told = set(heard.ids())
        for transaction in self.transactions:
            assert world.status_of(transaction) in states.TERMINAL
            row = world.row_of(transaction)
            assert "due_at" not in row
            if row["attempts"] and told & {f"{transaction}:TRANSACTION_INITIATED"}:
                assert told.issuperset(world.expected_events(transaction))
        call_command("audit", expect_settled=True, verbosity=0)
        assert sum(world.balance_of(person) for person in self.people) == self.outside_minor


Money.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestMoney = Money.TestCase
