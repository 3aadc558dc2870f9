"""Eight processes fight over three wallets with overlapping operations: L1 to L6 hold, and all agree."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from ledger.chain import Kind, Posting
from ledger.posting import post
from payflow.ids import new_id
from tests.ledger import poster
from tests.ledger.books import assert_sound, deposit, leg, stored, wallet_id, withdrawal

PROCESSES = 8
OPERATIONS = 150


def operations(chance: random.Random, wallets: list[str]) -> list[Posting]:
    """More is taken than there is, so that what is declined depends on who comes first."""
    makers = [
        lambda wallet: deposit(wallet, chance.randint(1, 50)),
        lambda wallet: withdrawal(wallet, chance.randint(1, 90)),
        lambda wallet: leg(Kind.DEBIT, new_id("txn"), wallet, chance.randint(1, 90)),
    ]
    return [chance.choice(makers)(chance.choice(wallets)) for _ in range(OPERATIONS)]


def share_of(chance: random.Random, wishes: list[Posting]) -> list[list[Posting]]:
    """Return two thirds of the operations in an order of one's own, in batches of 1 to 25."""
    mine = chance.sample(wishes, k=2 * len(wishes) // 3)
    batches = []
    while mine:
        size = chance.randint(1, 25)
        batches.append(mine[:size])
        mine = mine[size:]
    return batches


def test_eight_processes_fight_over_three_wallets() -> None:
    chance = random.Random(20260131)  # noqa: S311 - the same fight every time
    wallets = [wallet_id() for _ in range(3)]
    post([deposit(wallet, 500) for wallet in wallets])
    wishes = operations(chance, wallets)
    posters = [poster.start(share_of(chance, wishes)) for _ in range(PROCESSES)]
    results = [poster.answers(process) for process in posters]

    agreed: dict[str, list] = {}
    for result in results:
        for operation, answer in result.items():
            assert agreed.setdefault(operation, answer) == answer
    entries = {entry["_id"]: entry for entry in stored()}
    assert len(entries) == len(agreed) + len(wallets)
    for operation, (kind, wallet, sequence, hash_) in agreed.items():
        entry = entries[operation]
        assert [entry["kind"], entry["wallet_id"], entry["sequence"], entry["hash"]] == [
            kind, wallet, sequence, hash_,
        ]  # fmt: skip
    assert {entry["kind"] for entry in entries.values()} >= {"DECLINED", "DEPOSIT", "WITHDRAWAL", "DEBIT"}
    assert_sound()


def test_threads_that_credit_and_refund_one_wallet_lose_nothing() -> None:
    wallet, sender = wallet_id(), wallet_id()
    post([deposit(sender, 10_000)])
    transactions = [new_id("txn") for _ in range(60)]
    post([leg(Kind.DEBIT, id_, sender, 7) for id_ in transactions])
    settlements = [leg(Kind.CREDIT, id_, wallet, 7) for id_ in transactions]
    with ThreadPoolExecutor(max_workers=6) as pool:
        batches = [settlements[start : start + 20] for start in (0, 10, 20, 30, 40, 0)]
        answers = list(pool.map(post, batches))
    assert len({entry.id for answer in answers for entry in answer.values()}) == 60
    verdict = assert_sound()
    assert verdict.sums["USD"].in_flight == 0
    assert verdict.sums["USD"].balances == 10_000
