"""The saga's steps against the real engine: each path, each race, and everything said on the bus."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ledger import posting
from ledger import selectors as ledger
from ledger.chain import Kind, Posting
from ledger.documents import LedgerEntry
from payflow.mongodb import collection
from tests.transfers import world
from transfers import moves, recovery, saga, states
from transfers.documents import Transaction
from transfers.states import Status
from wallets import services as wallet_services
from wallets.documents import Wallet

pytestmark = pytest.mark.usefixtures("audited")


def test_completes_a_transfer(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 2_500)
    world.play(transaction)
    assert world.path_of(transaction) == ["INITIATED", "DEBITED", "CREDITED", "COMPLETED"]
    assert (world.balance_of(alice), world.balance_of(bob)) == (7_500, 2_500)
    row = world.row_of(transaction)
    assert row["settlement"] == "CREDIT"
    assert row["failure"] is None
    assert row["completed_at"] == row["history"][-1]["at"] or row["completed_at"] <= row["history"][-1]["at"]
    assert "due_at" not in row


def test_declines_when_balance_is_short(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 10_001)
    world.play(transaction)
    assert world.path_of(transaction) == ["INITIATED", "FAILED"]
    row = world.row_of(transaction)
    assert row["failure"] == {
        "code": "insufficient_balance",
        "detail": "The sender's balance was too low.",
        "refunded": False,
    }
    assert row["settlement"] is None
    assert "due_at" not in row
    assert (world.balance_of(alice), world.balance_of(bob)) == (10_000, 0)


def test_refunds_when_the_receiver_is_frozen_after_the_debit(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 2_500)
    debited = saga.debit([transaction])
    wallet_services.freeze_wallets(user_id=bob)
    step = saga.credit(debited)
    assert step == saga.Credited(credited=[], refused=[transaction], hanging=[])
    assert world.balance_of(alice) == 7_500
    saga.refund(step.refused)
    assert world.path_of(transaction) == ["INITIATED", "DEBITED", "REFUNDING", "FAILED"]
    assert world.row_of(transaction)["failure"]["code"] == "wallet_closed"
    assert world.row_of(transaction)["failure"]["refunded"] is True
    assert (world.balance_of(alice), world.balance_of(bob)) == (10_000, 0)


def _delete_wallet(user_id: str) -> None:
    Wallet.objects(user_id=user_id).delete()


def _change_currency(user_id: str) -> None:
    Wallet.objects(user_id=user_id).update(set__currency="EUR")


@pytest.mark.parametrize(
    ("break_it", "code"), [(_delete_wallet, "receiver_not_found"), (_change_currency, "currency_mismatch")]
)
def test_refunds_when_the_receivers_wallet_is_gone_or_another(
    alice: str, bob: str, break_it: Callable[[str], None], code: str
) -> None:
    transaction = world.start(alice, bob, 2_500)
    debited = saga.debit([transaction])
    break_it(bob)
    saga.refund(saga.credit(debited).refused)
    assert world.status_of(transaction) is Status.FAILED
    assert world.row_of(transaction)["failure"] | {"detail": ""} == {
        "code": code,
        "detail": "",
        "refunded": True,
    }
    assert world.balance_of(alice) == 10_000


def test_a_refund_reaches_a_sender_who_was_frozen_meanwhile(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 2_500)
    saga.debit([transaction])
    wallet_services.freeze_wallets(user_id=alice)
    wallet_services.freeze_wallets(user_id=bob)
    saga.refund(saga.credit([transaction]).refused)
    assert world.status_of(transaction) is Status.FAILED
    assert world.balance_of(alice) == 10_000


def test_declines_when_the_sender_was_frozen_before_the_debit(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 2_500)
    wallet_services.freeze_wallets(user_id=alice)
    world.play(transaction)
    assert world.row_of(transaction)["failure"]["code"] == "wallet_closed"
    entry = ledger.find_entry(operation_id=f"{transaction}:debit")
    assert entry is not None
    assert (entry.kind, entry.reason, entry.requested_minor) == (Kind.DECLINED, "wallet_closed", 2_500)


def test_declines_what_waited_too_long_through_the_ledger(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 2_500)
    world.make_old(transaction, 901)
    world.play(transaction)
    assert world.row_of(transaction)["failure"]["code"] == "expired"
    entry = ledger.find_entry(operation_id=f"{transaction}:debit")
    assert entry is not None
    assert entry.kind is Kind.DECLINED


def test_a_debit_in_the_ledger_wins_over_expiry(alice: str, bob: str) -> None:
    """The worker died after posting; by the time somebody looks again the transaction is too old."""
    transaction = world.start(alice, bob, 2_500)
    debit = Posting(f"{transaction}:debit", world.wallet_id_of(alice), Kind.DEBIT, 2_500, "USD", transaction)
    posting.post([debit])
    world.make_old(transaction, 901)
    world.play(transaction)
    assert world.status_of(transaction) is Status.COMPLETED


def test_a_batch_ends_each_transaction_on_its_own(alice: str, bob: str) -> None:
    carol = world.person("carol")
    rich = [world.start(alice, bob, 1_000) for _ in range(5)]
    poor = [world.start(carol, bob, 1) for _ in range(5)]
    last = [world.start(alice, carol, 5_000), world.start(alice, carol, 1)]
    world.play(*rich, *poor, *last)
    assert {world.status_of(t) for t in rich} == {Status.COMPLETED}
    assert {world.row_of(t)["failure"]["code"] for t in poor} == {"insufficient_balance"}
    assert [world.status_of(t) for t in last] == [Status.COMPLETED, Status.FAILED]
    assert (world.balance_of(alice), world.balance_of(bob), world.balance_of(carol)) == (0, 5_000, 5_000)


def test_steps_can_be_repeated_in_any_order_without_moving_money_again(alice: str, bob: str) -> None:
    good, bad = world.start(alice, bob, 2_500), world.start(alice, bob, 9_000)
    both = [good, bad]
    for _ in range(2):
        saga.complete(both)
        saga.refund(both)
        saga.credit(both)
        saga.debit(both)
        world.play(*both)
    assert (world.status_of(good), world.status_of(bad)) == (Status.COMPLETED, Status.FAILED)
    assert (world.balance_of(alice), world.balance_of(bob)) == (7_500, 2_500)


def test_a_decided_credit_is_never_refunded(alice: str, bob: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transaction = world.start(alice, bob, 2_500)
    saga.debit([transaction])
    _die_at(monkeypatch, "saga.credit_decided")
    with pytest.raises(Death):
        saga.credit([transaction])
    monkeypatch.undo()
    wallet_services.freeze_wallets(user_id=bob)
    saga.refund([transaction], undecided_because=states.CREDIT_EXHAUSTED, tell_all=True)
    assert world.status_of(transaction) is Status.DEBITED
    saga.complete(saga.credit([transaction]).credited)
    assert world.status_of(transaction) is Status.COMPLETED
    assert world.balance_of(bob) == 2_500


def test_an_exhausted_credit_is_refunded_when_nothing_was_decided(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 2_500)
    saga.debit([transaction])
    saga.refund([transaction], undecided_because=states.CREDIT_EXHAUSTED, tell_all=True)
    assert world.path_of(transaction) == ["INITIATED", "DEBITED", "REFUNDING", "FAILED"]
    assert world.row_of(transaction)["failure"]["code"] == "service_unavailable"
    assert world.balance_of(alice) == 10_000


def test_a_settled_transaction_cannot_be_settled_otherwise(alice: str, bob: str) -> None:
    """The decision to credit, made after a refund was decided, finds it decided."""
    transaction = world.start(alice, bob, 2_500)
    saga.debit([transaction])
    stale = [world.row_of(transaction)]
    saga.refund([transaction], undecided_because=states.CREDIT_EXHAUSTED, tell_all=True)
    assert saga._decide_credit(stale) == []
    assert world.balance_of(bob) == 0


def test_an_impossible_credit_stops_nobody_else(alice: str, bob: str) -> None:
    """A chain in another currency can take no credit; it stays decided for recovery and staff to see."""
    broken = world.person("broken")
    posting.post([Posting("odd:deposit", world.wallet_id_of(broken), Kind.DEPOSIT, 5, "EUR")])
    stuck, fine = world.start(alice, broken, 100), world.start(alice, bob, 100)
    world.play(stuck, fine)
    assert world.status_of(fine) is Status.COMPLETED
    assert world.status_of(stuck) is Status.DEBITED
    assert "due_at" in world.row_of(stuck)


def test_tells_every_event_once_and_in_order_when_nothing_goes_wrong(alice: str, bob: str) -> None:
    with world.listening() as heard:
        done, declined, refused = (
            world.start(alice, bob, 100),
            world.start(alice, bob, 99_999),
            world.start(alice, bob, 1),
        )
        world.play(done, declined)
        saga.debit([refused])
        wallet_services.freeze_wallets(user_id=bob)
        saga.refund(saga.credit([refused]).refused)
        for transaction in (done, declined, refused):
            told = [event for event in heard.ids() if event.startswith(transaction)]
            assert told == world.expected_events(transaction)


def test_an_event_carries_the_transaction_as_the_api_shows_it(alice: str, bob: str) -> None:
    with world.listening() as heard:
        transaction = world.start(alice, bob, 150)
        world.play(transaction)
        last = heard.bodies()[-1]
    assert last["id"] == f"{transaction}:TRANSACTION_COMPLETED"
    assert last["type"] == "TRANSACTION_COMPLETED"
    assert last["data"]["status"] == "COMPLETED"
    assert last["data"]["amount"] == "1.50"


class Death(BaseException):
    """A process ends here, as far as one step is concerned."""


def _die_at(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    def die(name: str) -> None:
        if name == point:
            raise Death(point)

    for module in (saga, moves, posting):
        monkeypatch.setattr(module, "crash_point", die)


POINTS_OF_A_TRANSFER = [
    "posting.before_insert",
    "posting.after_insert",
    "saga.debit_posted",
    "saga.moved_to_debited",
    "saga.debited",
    "saga.credit_decided",
    "saga.credit_posted",
    "saga.moved_to_credited",
    "saga.credited",
    "saga.moved_to_completed",
    "saga.completed",
]
POINTS_OF_A_REFUND = [
    "saga.moved_to_refunding",
    "saga.refund_decided",
    "saga.refund_posted",
    "saga.moved_to_failed",
]


@pytest.mark.parametrize("point", [*POINTS_OF_A_TRANSFER, *POINTS_OF_A_REFUND])
def test_recovery_ends_what_died_at_any_point_and_tells_everything(
    point: str, alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = world.start(alice, bob, 2_500)
    if point in POINTS_OF_A_REFUND:
        saga.debit([transaction])
        wallet_services.freeze_wallets(user_id=bob)
    with world.listening() as heard:
        with monkeypatch.context() as patched:
            _die_at(patched, point)
            with pytest.raises(Death):
                world.play(transaction)
        world.make_due(transaction)
        recovery.recover_stalled()
        told = heard.ids()
    refunded = point in POINTS_OF_A_REFUND
    assert world.status_of(transaction) is (Status.FAILED if refunded else Status.COMPLETED)
    assert (world.balance_of(alice), world.balance_of(bob)) == ((10_000, 0) if refunded else (7_500, 2_500))
    assert "due_at" not in world.row_of(transaction)
    missing = set(world.expected_events(transaction)) - set(told)
    assert missing <= (
        {f"{transaction}:TRANSACTION_INITIATED", f"{transaction}:DEBIT_SUCCESS"} if refunded else set()
    )


@pytest.mark.parametrize(
    "point", ["saga.moved_to_credited", "saga.moved_to_debited", "saga.moved_to_completed"]
)
def test_a_redelivered_step_tells_what_the_dead_one_did_not(
    point: str, alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker delivers the step again; recovery need not come by for the event to be told."""
    transaction = world.start(alice, bob, 2_500)
    with world.listening() as heard:
        with monkeypatch.context() as patched:
            _die_at(patched, point)
            with pytest.raises(Death):
                world.play(transaction)
        if point == "saga.moved_to_debited":
            world.play(transaction)
        elif point == "saga.moved_to_credited":
            saga.complete(saga.credit([transaction]).credited)
        else:
            saga.complete([transaction])
        told = heard.ids()
    assert set(told) == set(world.expected_events(transaction))
    assert "due_at" not in world.row_of(transaction)


def test_threads_driving_the_same_transactions_agree(alice: str, bob: str) -> None:
    transactions = [world.start(alice, bob, 900) for _ in range(20)]
    start_together = threading.Barrier(6)
    errors: list[BaseException] = []

    def drive() -> None:
        start_together.wait()
        try:
            world.play(*transactions)
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=drive) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    world.play(*transactions)
    ended = [world.status_of(transaction) for transaction in transactions]
    assert ended.count(Status.COMPLETED) == 11
    assert ended.count(Status.FAILED) == 9
    assert (world.balance_of(alice), world.balance_of(bob)) == (100, 9_900)


def test_a_move_names_the_state_it_leaves(alice: str, bob: str) -> None:
    """A stale executor, back from a long pause with old rows in hand, changes nothing."""
    transaction = world.start(alice, bob, 2_500)
    stale = world.row_of(transaction)
    world.play(transaction)
    before = world.row_of(transaction)
    moves.move([stale], Status.INITIATED, Status.DEBITED)
    moves.move(
        [{**stale, "status": "DEBITED"}], Status.DEBITED, Status.REFUNDING, requiring={"settlement": None}
    )
    assert collection(Transaction).find_one({"_id": transaction}) == before


@pytest.fixture
def carl() -> str:
    return world.person("carl")


# A newest entry that is none, and one that PayFlow has not written.
SPOILS = [{"kind": "X"}, {"mac": "0" * 64}]


def spoil_head(user_id: str, spoil: dict[str, str]) -> Callable[[], None]:
    """Make a user's newest entry none; return what mends it."""
    wallet = world.wallet_id_of(user_id)
    head = collection(LedgerEntry).find_one({"wallet_id": wallet}, sort=[("sequence", -1)])
    collection(LedgerEntry).update_one({"_id": head["_id"]}, {"$set": spoil})
    return lambda: collection(LedgerEntry).replace_one({"_id": head["_id"]}, head)


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_receiver_whose_ledger_is_broken_stops_nobody_else(
    alice: str, bob: str, carl: str, is_frozen: bool, spoil: dict[str, str]
) -> None:
    wallet_services.deposit(user_id=bob, currency="USD", amount_minor=5, key=None)
    to_bob, to_carl = world.start(alice, bob, 100), world.start(alice, carl, 200)
    mend = spoil_head(bob, spoil)
    if is_frozen:
        wallet_services.freeze_broken_wallet(world.wallet_id_of(bob))
    world.play(to_bob, to_carl)
    assert world.path_of(to_bob) == ["INITIATED", "DEBITED", "REFUNDING", "FAILED"]
    assert world.row_of(to_bob)["failure"]["code"] == "wallet_closed"
    assert world.status_of(to_carl) is Status.COMPLETED
    mend()
    assert (world.balance_of(alice), world.balance_of(bob), world.balance_of(carl)) == (9_800, 5, 200)


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_credit_that_was_decided_waits_for_a_broken_ledger(
    alice: str, bob: str, carl: str, spoil: dict[str, str]
) -> None:
    wallet_services.deposit(user_id=bob, currency="USD", amount_minor=5, key=None)
    to_bob, to_carl = world.start(alice, bob, 100), world.start(alice, carl, 200)
    saga.debit([to_bob, to_carl])
    collection(Transaction).update_one({"_id": to_bob}, {"$set": {"settlement": "CREDIT"}})
    mend = spoil_head(bob, spoil)
    world.play(to_bob, to_carl)
    assert (world.status_of(to_bob), world.status_of(to_carl)) == (Status.DEBITED, Status.COMPLETED)
    mend()
    world.play(to_bob)
    assert (world.status_of(to_bob), world.balance_of(bob)) == (Status.COMPLETED, 105)
