"""Random interleavings of everything that posts, repeats and stale executors included, on the real engine.

After every run L1 to L8 hold, and each wallet holds what a model of one dictionary says.
"""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

from ledger import selectors
from ledger.chain import Entry, Kind, Posting
from ledger.documents import LedgerEntry
from ledger.posting import post
from payflow.mongodb import collection
from tests.ledger.books import Books, assert_sound, deposit, leg, wallet_id, withdrawal

WALLETS = 3
which = st.integers(0, WALLETS - 1)
amounts = st.integers(1, 120)


class Ledger(RuleBasedStateMachine):
    """A few wallets, and executors that come late, twice, in batches, and between each other's reads."""

    initiated = Bundle("initiated")
    debited = Bundle("debited")
    posted = Bundle("posted")

    @initialize()
    def start_empty(self) -> None:
        collection(LedgerEntry).delete_many({})
        self.books = Books()
        self.wallets = [wallet_id() for _ in range(WALLETS)]
        self.model = dict.fromkeys(self.wallets, 0)
        self.seen: dict[str, Entry] = {}

    def _post(self, wishes: list[Posting]) -> dict[str, Entry]:
        entries = post(wishes)
        assert entries.keys() == {wish.operation_id for wish in wishes}
        for wish in wishes:
            entry = entries[wish.operation_id]
            if wish.operation_id in self.seen:
                assert entry == self.seen[wish.operation_id]
            else:
                self.seen[wish.operation_id] = entry
                self._apply(wish, entry)
        return entries

    def _apply(self, wish: Posting, entry: Entry) -> None:
        taken = wish.kind in (Kind.DEBIT, Kind.WITHDRAWAL)
        allowed = not taken or self.model[wish.wallet_id] >= wish.amount_minor
        assert entry.kind is (wish.kind if allowed else Kind.DECLINED)
        if allowed and wish.kind is not Kind.DECLINED:
            self.model[wish.wallet_id] += -wish.amount_minor if taken else wish.amount_minor
        assert entry.balance_minor == self.model[wish.wallet_id]

    @rule(target=posted, wanted=st.lists(st.tuples(which, amounts, st.booleans()), min_size=1, max_size=9))
    def move_money_in_and_out(self, wanted: list[tuple[int, int, bool]]) -> list[Posting]:
        wishes = [(deposit if into else withdrawal)(self.wallets[i], amount) for i, amount, into in wanted]
        self._post(wishes)
        return wishes

    @rule(target=initiated, sender=which, step=st.integers(1, WALLETS - 1), amount=amounts)
    def initiate(self, sender: int, step: int, amount: int) -> str:
        return self.books.initiate(self.wallets[sender], self.wallets[(sender + step) % WALLETS], amount)

    @rule(target=debited, ids=st.lists(initiated, min_size=1, max_size=5, unique=True))
    def debit(self, ids: list[str]) -> object:
        entries = self._post([self._leg(Kind.DEBIT, id_) for id_ in ids])
        through = []
        for id_ in ids:
            if entries[f"{id_}:debit"].kind is Kind.DECLINED:
                self.books.move(id_, "FAILED")
            elif self.books.facts[id_].status == "INITIATED":
                self.books.move(id_, "DEBITED")
                through.append(id_)
        return multiple(*through)

    @rule(id_=initiated)
    def expire(self, id_: str) -> None:
        wish = self._leg(Kind.DECLINED, id_)
        if wish.operation_id not in self.seen:
            self._post([wish])
            self.books.move(id_, "FAILED")
        else:
            assert post([wish]) == {wish.operation_id: self.seen[wish.operation_id]}

    @rule(target=posted, id_=consumes(debited), refused=st.booleans())
    def settle(self, id_: str, refused: bool) -> list[Posting]:
        kind, status = (Kind.REFUND, "REFUNDING") if refused else (Kind.CREDIT, "DEBITED")
        self.books.move(id_, status, settlement=kind.value)
        wishes = [self._leg(kind, id_)]
        self._post(wishes)
        self.books.move(id_, "FAILED" if refused else "COMPLETED", refunded=refused)
        return wishes

    @rule(batches=st.lists(posted, min_size=1, max_size=3))
    def repeat_what_was_done(self, batches: list[list[Posting]]) -> None:
        self._post([wish for wishes in batches for wish in wishes])

    @rule(target=posted, i=which, amount=amounts, theirs=amounts)
    def lose_a_race(self, i: int, amount: int, theirs: int) -> list[Posting]:
        """Somebody posts to the same wallet after its head was read."""
        wallet, read_heads = self.wallets[i], selectors.read_heads
        mine, winner = withdrawal(wallet, amount), withdrawal(wallet, theirs)
        stale = read_heads([wallet])
        self._post([winner])
        with patch.object(selectors, "read_heads", side_effect=[stale, read_heads([wallet])]):
            self._post([mine])
        return [mine, winner]

    def _leg(self, kind: Kind, id_: str) -> Posting:
        fact = self.books.facts[id_]
        wallet = fact.receiver_wallet_id if kind is Kind.CREDIT else fact.sender_wallet_id
        return leg(kind, id_, wallet, fact.amount_minor)

    def teardown(self) -> None:
        if not hasattr(self, "books"):
            return
        assert_sound(self.books)
        heads = selectors.read_heads(self.wallets)
        assert {w: heads[w].balance_minor if w in heads else 0 for w in self.wallets} == self.model


Ledger.TestCase.settings = settings(max_examples=30, stateful_step_count=25)
test_random_interleavings = pytest.mark.timeout(300)(Ledger.TestCase)
