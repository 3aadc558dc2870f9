"""Whoever tampers with the ledger, in whatever way, is found: by the continuous audit and by the full one.

Each way is tried twice: on what the continuous audit has verified already, and on what it has yet to see. It
must name the wallet and the place, freeze that wallet alone, and let everybody else go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from ledger import incremental, monitor
from ledger.audit import audit
from ledger.documents import Checkpoint, LedgerEntry
from payflow import clock
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.ledger.books import make_old, rehashed, rewrite, with_mac
from tests.transfers.world import balance_of, person, play, start, status_of, wallet_id_of
from transfers import saga, tasks
from transfers.facts import StoredTransactions
from transfers.states import Status
from wallets import services as wallet_services
from wallets.documents import Hold, Wallet
from wallets.errors import WalletClosed

TICKS_MAX = 3


@dataclass
class World:
    """Anna's chain is tampered with; Bob is whom she deals with; Carl and Dora have nothing to do with it."""

    anna: str
    bob: str
    carl: str
    dora: str

    @property
    def wallet(self) -> str:
        return wallet_id_of(self.anna)

    def live(self) -> None:
        """Five entries in Anna's chain: a deposit, two payments, a refund for one of them, a withdrawal."""
        wallet_services.deposit(user_id=self.anna, currency="USD", amount_minor=5_000, key=None)
        play(start(self.anna, self.bob, 1_000))
        play(start(self.anna, self.bob, 700))
        play(start(self.bob, self.anna, 300))
        wallet_services.withdraw(user_id=self.anna, currency="USD", amount_minor=50, key=None)

    def chain(self) -> list[dict[str, Any]]:
        return list(collection(LedgerEntry).find({"wallet_id": self.wallet}).sort("sequence", 1))


@pytest.fixture(autouse=True)
def _the_second_look_may_follow_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental, "MISSING_SECONDS_MIN", 0)


@pytest.fixture
def world() -> World:
    world = World(*(person(name, balance_minor=10_000) for name in ("anna", "bob", "carl", "dora")))
    world.live()
    return world


# --- The ways -----------------------------------------------------------------------------------------------
# Each takes the world and a position in Anna's chain, and returns the sequence that must be named.


def change_an_amount(world: World, at: int) -> int:
    entry = world.chain()[at]
    rewrite(entry["_id"], amount_minor=entry["amount_minor"] + 1)
    return int(entry["sequence"])


def change_an_amount_and_its_hash(world: World, at: int) -> int:
    entry = world.chain()[at]
    rewrite(entry["_id"], rehash=True, reason="forged")
    # The entry is sound in itself; the next one does not follow from it.
    return int(entry["sequence"]) + 1


def delete_in_the_middle(world: World, at: int) -> int:
    entry = world.chain()[at]
    collection(LedgerEntry).delete_one({"_id": entry["_id"]})
    return int(entry["sequence"]) + 1


def insert_one(world: World, at: int) -> int:
    """Push the rest of the chain up by one and put an entry between."""
    entries = world.chain()
    for entry in reversed(entries[at:]):
        rewrite(entry["_id"], sequence=entry["sequence"] + 1)
    forged = {**entries[at], "_id": f"{new_id('op')}:deposit", "kind": "DEPOSIT", "contra": "external"}
    collection(LedgerEntry).insert_one({**forged, "transaction_id": None})
    return int(entries[at]["sequence"])


def swap_two(world: World, at: int) -> int:
    first, second = world.chain()[at : at + 2]
    rewrite(first["_id"], sequence=10**9)
    rewrite(second["_id"], sequence=first["sequence"])
    rewrite(first["_id"], sequence=second["sequence"])
    return int(first["sequence"])


def replace_a_hash(world: World, at: int) -> int:
    entry = world.chain()[at]
    rewrite(entry["_id"], hash="0" * 64)
    return int(entry["sequence"])


def make_a_number_a_text(world: World, at: int) -> int:
    entry = world.chain()[at]
    rewrite(entry["_id"], balance_minor=str(entry["balance_minor"]))
    return int(entry["sequence"])


SHOWS_IN_THE_CHAIN: list[Callable[[World, int], int]] = [
    change_an_amount,
    change_an_amount_and_its_hash,
    delete_in_the_middle,
    insert_one,
    swap_two,
    replace_a_hash,
    make_a_number_a_text,
]


# These leave a chain that is sound in itself; only the checkpoint knows better.


def cut_the_tail(world: World) -> int:
    head = world.chain()[-1]
    collection(LedgerEntry).delete_one({"_id": head["_id"]})
    return int(head["sequence"])


def cut_more_and_go_on(world: World) -> int:
    """Two entries are gone, and three new ones grow in their place, past where the chain had ended."""
    head = world.chain()[-1]
    collection(LedgerEntry).delete_many({"_id": {"$in": [entry["_id"] for entry in world.chain()[-2:]]}})
    for _ in range(3):
        wallet_services.deposit(user_id=world.anna, currency="USD", amount_minor=1, key=None)
    return int(head["sequence"])


def delete_the_whole_chain(world: World) -> int:
    head = world.chain()[-1]
    collection(LedgerEntry).delete_many({"wallet_id": world.wallet})
    return int(head["sequence"])


def compute_the_chain_anew(world: World) -> int:
    """The first deposit was larger: all balances and hashes after it are made to fit."""
    entries = world.chain()
    first = entries[0]
    more = {name: first[name] + 1_000_000 for name in ("amount_minor", "requested_minor", "balance_minor")}
    rewrite(first["_id"], rehash=True, **more)
    for before, entry in pairwise(entries):
        stored = collection(LedgerEntry).find_one({"_id": before["_id"]})
        rewrite(
            entry["_id"],
            rehash=True,
            balance_minor=entry["balance_minor"] + 1_000_000,
            previous_hash=stored["hash"],
        )
    return int(entries[-1]["sequence"])


def move_the_checkpoint_back(world: World) -> int:
    """So that the checkpoint does not know of the tail that is cut."""
    place = cut_the_tail(world) - 1
    head = world.chain()[-1]
    moved = {"sequence": place, "hash": head["hash"], "balance_minor": head["balance_minor"]}
    collection(Checkpoint).update_one({"_id": world.wallet}, {"$set": moved})
    return place


def put_anothers_checkpoint_there(world: World) -> int:
    other = collection(Checkpoint).find_one({"_id": wallet_id_of(world.carl)})
    collection(Checkpoint).replace_one({"_id": world.wallet}, {**other, "_id": world.wallet})
    return int(other["sequence"])


def delete_the_checkpoint(world: World) -> int:
    """And compute the chain anew: without the checkpoint there is nothing left to tell."""
    compute_the_chain_anew(world)
    collection(Checkpoint).delete_one({"_id": world.wallet})
    return 1


SHOWS_AGAINST_THE_CHECKPOINT: list[Callable[[World], int]] = [
    cut_the_tail,
    cut_more_and_go_on,
    delete_the_whole_chain,
    compute_the_chain_anew,
    move_the_checkpoint_back,
    put_anothers_checkpoint_there,
    delete_the_checkpoint,
]


# --- Found, named, frozen -----------------------------------------------------------------------------------


def named_by_the_full_audit(world: World) -> set[tuple[str | None, int | None]]:
    verdict = audit(transactions=StoredTransactions())
    assert not verdict.is_clean
    return {(violation.wallet_id, violation.sequence) for violation in verdict.violations}


def assert_found(world: World, sequence: int, *or_at: int) -> None:
    assert (world.wallet, sequence) in named_by_the_full_audit(world)
    for _ in range(TICKS_MAX):
        tasks.audit()
    report = monitor.latest()
    places = {(v["wallet_id"], v["sequence"]) for v in report.violations if v["wallet_id"]}
    assert len(places) == 1
    assert places <= {(world.wallet, place) for place in (sequence, *or_at)}
    assert report.status == "VIOLATED"
    assert_only_this_wallet_is_frozen(world)


def assert_only_this_wallet_is_frozen(world: World) -> None:
    frozen = Wallet.objects(status="FROZEN")
    assert [(wallet.id, wallet.frozen_because) for wallet in frozen] == [(world.wallet, [Hold.AUDIT])]
    for sender, receiver in ((world.anna, world.bob), (world.bob, world.anna)):
        with pytest.raises(WalletClosed):
            start(sender, receiver, 1)
    other = start(world.carl, world.dora, 2_000)
    play(other)
    assert status_of(other) is Status.COMPLETED
    assert (balance_of(world.carl), balance_of(world.dora)) == (8_000, 12_000)
    tasks.audit()
    assert Wallet.objects(status="FROZEN").count() == 1


def verify_everything() -> None:
    """Let the continuous audit see all there is, and know that it has."""
    for entry in collection(LedgerEntry).find():
        if entry["sequence"] == 1:
            make_old(entry["wallet_id"])
    for _ in range(2):
        tasks.audit()
    assert monitor.latest().status == "CLEAN"


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("way", SHOWS_IN_THE_CHAIN, ids=lambda way: way.__name__)
def test_finds_it_in_what_is_verified_already(
    world: World, way: Callable[[World, int], int], at: int
) -> None:
    verify_everything()
    # What moves the newest entry away shows there first.
    head = world.chain()[-1]["sequence"]
    assert_found(world, way(world, at), head)


@pytest.mark.parametrize("way", SHOWS_IN_THE_CHAIN, ids=lambda way: way.__name__)
def test_finds_it_in_what_is_new(world: World, way: Callable[[World, int], int]) -> None:
    verify_everything()
    before = len(world.chain())
    world.live()
    assert_found(world, way(world, before + 1))


@pytest.mark.parametrize("way", SHOWS_AGAINST_THE_CHECKPOINT, ids=lambda way: way.__name__)
def test_finds_it_by_the_checkpoint(world: World, way: Callable[[World], int]) -> None:
    verify_everything()
    assert_found(world, way(world))


def test_finds_a_tail_that_is_cut_while_new_entries_land_elsewhere(world: World) -> None:
    verify_everything()
    play(start(world.carl, world.dora, 5), start(world.dora, world.carl, 5))
    assert_found(world, cut_the_tail(world))


def test_tampering_with_nothing_finds_nothing(world: World) -> None:
    verify_everything()
    world.live()
    for _ in range(TICKS_MAX):
        tasks.audit()
    report = monitor.latest()
    assert (report.status, report.violations, report.behind_entries) == ("CLEAN", [], 0)
    assert report.entries == collection(LedgerEntry).count_documents({})
    assert Wallet.objects(status="FROZEN").count() == 0
    assert audit(transactions=StoredTransactions()).is_clean


def test_transfers_under_way_are_declined_or_refunded(world: World) -> None:
    out, into = start(world.anna, world.bob, 10), start(world.bob, world.anna, 20)
    saga.debit([into])
    rewrite(world.chain()[1]["_id"], amount_minor=1)
    tasks.audit()
    saga.debit([out])
    saga.refund(saga.credit([into]).refused)
    assert [status_of(id_) for id_ in (out, into)] == [Status.FAILED, Status.FAILED]
    assert balance_of(world.bob) == 10_000 + 1_000 + 700 - 300


def test_a_second_settlement_is_told_and_freezes_nobody(world: World) -> None:
    """Money is made, but no chain is broken: it is the transaction that staff must look at."""
    verify_everything()
    twice = start(world.carl, world.dora, 100)
    play(twice)
    credit = collection(LedgerEntry).find_one({"_id": f"{twice}:credit"})
    head = collection(LedgerEntry).find_one({"wallet_id": wallet_id_of(world.carl)}, sort=[("sequence", -1)])
    refund = {
        **credit,
        "_id": f"{twice}:refund",
        "kind": "REFUND",
        "wallet_id": head["wallet_id"],
        "sequence": head["sequence"] + 1,
        "balance_minor": head["balance_minor"] + 100,
        "previous_hash": head["hash"],
        "created_at": clock.now(),
    }
    collection(LedgerEntry).insert_one(with_mac(rehashed(refund)))
    for _ in range(TICKS_MAX):
        tasks.audit()
    report = monitor.latest()
    assert {(v["invariant"], v["wallet_id"], v["transaction_id"]) for v in report.violations} == {
        ("L4", None, twice),
        ("L7", None, twice),
    }
    assert Wallet.objects(status="FROZEN").count() == 0
