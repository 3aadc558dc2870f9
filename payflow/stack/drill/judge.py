"""The verdict: does the ledger agree with what the clients were told? Pure.

What must stay true: it trusts neither side. What was answered must be in the ledger, what is in the ledger
must have been asked for, each key must have moved its money exactly once or, where refused, not at all, and
the balances must be those that a reader of the record alone would expect.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from payflow.stack.drill.books import Books, Entry, Transaction
from payflow.stack.drill.record import Kind, Operation

# The entries that a transaction has, by its outcome: who, kind, and how often the amount, signed.
_SENDER, _RECEIVER = "sender", "receiver"
ENTRIES = {
    "completed": {(_SENDER, "DEBIT", -1), (_RECEIVER, "CREDIT", 1)},
    "refunded": {(_SENDER, "DEBIT", -1), (_SENDER, "REFUND", 1)},
    "declined": {(_SENDER, "DECLINED", 0)},
}
ENDED = frozenset({"COMPLETED", "FAILED"})


def judge(operations: Sequence[Operation], books: Books) -> list[str]:
    """Return everything that is wrong, as sentences; nothing when the record and the ledger agree."""
    by_transaction: dict[str, list[Entry]] = defaultdict(list)
    for entry in books.entries:
        by_transaction[entry.transaction_id].append(entry)
    by_key: dict[str, list[Transaction]] = defaultdict(list)
    for transaction in books.transactions.values():
        by_key[transaction.key].append(transaction)
    wrong: list[str] = []
    for operation in operations:
        wrong += _misanswered(operation)
        if operation.kind is Kind.TRANSFER:
            wrong += _misled_about_transfer(operation, by_key[operation.key], books)
        else:
            wrong += _misled_about_movement(operation, by_transaction[""])
    for transaction in books.transactions.values():
        wrong += _half_moved(transaction, by_transaction[transaction.id])
    wrong += _unasked(operations, books)
    wrong += [f"{wallet_id} is {status}, for no reason." for wallet_id, status in books.inactive.items()]
    return [*wrong, *_off_balance(operations, books)]


def expected_balances(operations: Iterable[Operation], books: Books) -> Counter[tuple[str, str]]:
    """Return each wallet's balance as the record has it: by user and currency, in minor units."""
    balances: Counter[tuple[str, str]] = Counter()
    for operation in operations:
        if not operation.accepted_ids:
            continue
        own = (operation.user_id, operation.currency)
        if operation.kind is Kind.TRANSFER:
            outcomes = {
                books.transactions[id_].outcome for id_ in operation.accepted_ids & books.transactions.keys()
            }
            if outcomes == {"completed"}:
                balances[own] -= operation.amount_minor
                balances[operation.receiver_id, operation.currency] += operation.amount_minor
        else:
            balances[own] += operation.amount_minor * _sign(operation)
    return balances


def money_gained(operations: Iterable[Operation], books: Books) -> dict[str, int]:
    """Return by how much the wallets together hold more (less) than was paid in and out, per currency."""
    gained: Counter[str] = Counter()
    for (_, currency), balance_minor in books.balances.items():
        gained[currency] += balance_minor
    for operation in operations:
        if operation.accepted_ids and operation.kind is not Kind.TRANSFER:
            gained[operation.currency] -= operation.amount_minor * _sign(operation)
    return dict(gained)


def _sign(operation: Operation) -> int:
    return 1 if operation.kind is Kind.DEPOSIT else -1


def _misanswered(operation: Operation) -> Iterator[str]:
    """Answers to one key that cannot all be true."""
    if not operation.answers:
        yield f"{_name(operation)} was never answered ({operation.doubts} tries)."
    if len(operation.accepted_ids) > 1:
        yield f"{_name(operation)} was answered with different ids: {sorted(operation.accepted_ids)}."
    if operation.accepted_ids and not all(answer.is_accepted for answer in operation.answers):
        told = sorted({answer.told or str(answer.status) for answer in operation.answers})
        yield f"{_name(operation)} was both accepted and refused: {told}."


def _misled_about_transfer(
    operation: Operation, of_key: Sequence[Transaction], books: Books
) -> Iterator[str]:
    for id_ in operation.accepted_ids:
        found = books.transactions.get(id_)
        if found is None:
            yield f"{_name(operation)} was answered 201 with {id_}, which does not exist."
        elif _terms(found) != _asked(operation):
            yield f"{id_} is another transfer than {_name(operation)} asked for."
        else:
            said = {answer.told for answer in operation.answers if answer.told in ENDED}
            if said - {found.status}:
                yield f"{id_} is {found.status}, but an answer has said {sorted(said)}."
    if len(of_key) > 1:
        yield f"{_name(operation)} made {len(of_key)} transactions: {sorted(t.id for t in of_key)}."
    if of_key and operation.answers and not operation.accepted_ids:
        yield f"{_name(operation)} was refused ({operation.answers[0].told}) and yet made {of_key[0].id}."


def _terms(found: Transaction) -> tuple[str, str, str, int, str]:
    return found.sender_id, found.receiver_id, found.currency, found.amount_minor, found.key


def _asked(wish: Operation) -> tuple[str, str, str, int, str]:
    return wish.user_id, wish.receiver_id, wish.currency, wish.amount_minor, wish.key


def _misled_about_movement(operation: Operation, movements: Sequence[Entry]) -> Iterator[str]:
    """A deposit or withdrawal names its key in the entry's id."""
    ending = f"_{operation.key}:{operation.kind}"
    moved = [e for e in movements if e.id.endswith(ending) and e.amount_minor]
    terms = (operation.user_id, operation.currency, operation.amount_minor * _sign(operation))
    for id_ in operation.accepted_ids:
        if id_ not in {entry.id for entry in moved}:
            yield f"{_name(operation)} was answered 201 with {id_}, which does not exist."
    if len(moved) > 1:
        yield f"{_name(operation)} moved money {len(moved)} times."
    if any((entry.user_id, entry.currency, entry.amount_minor) != terms for entry in moved):
        yield f"{_name(operation)} moved something else than was asked for."
    if moved and operation.answers and not operation.accepted_ids:
        yield f"{_name(operation)} was refused ({operation.answers[0].told}) and yet moved money."


def _half_moved(transaction: Transaction, entries: Sequence[Entry]) -> Iterator[str]:
    """Whether a transaction has exactly the entries that its end calls for."""
    if transaction.status not in ENDED:
        yield f"{transaction.id} has not ended: {transaction.status}."
        return
    sides = {_SENDER: transaction.sender_id, _RECEIVER: transaction.receiver_id}
    wanted = Counter(
        (sides[side], kind, transaction.currency, times * transaction.amount_minor)
        for side, kind, times in ENTRIES[transaction.outcome]
    )
    found = Counter((e.user_id, e.kind, e.currency, e.amount_minor) for e in entries)
    if found != wanted:
        yield f"{transaction.id} is {transaction.outcome}, and its entries are {_shown(found)}."


def _shown(found: Mapping[tuple[str, str, str, int], int]) -> str:
    texts = [
        f"{count} x {kind} {minor} {currency}" for (_, kind, currency, minor), count in sorted(found.items())
    ]
    return ", ".join(texts) or "none"


def _unasked(operations: Sequence[Operation], books: Books) -> Iterator[str]:
    keys = {operation.key for operation in operations}
    for transaction in books.transactions.values():
        if transaction.key not in keys:
            yield f"Nobody asked for {transaction.id}."
    for entry in books.entries:
        if entry.transaction_id:
            if entry.transaction_id not in books.transactions:
                yield f"{entry.id} belongs to no transaction."
        elif entry.id.rpartition(":")[0].rpartition("_")[2] not in keys:
            yield f"Nobody asked for {entry.id}."


def _off_balance(operations: Sequence[Operation], books: Books) -> Iterator[str]:
    expected = expected_balances(operations, books)
    for (user_id, currency), balance_minor in sorted(books.balances.items()):
        if balance_minor != expected[user_id, currency]:
            yield (
                f"The {currency} wallet of {user_id} holds {balance_minor} minor units; the record says "
                f"{expected[user_id, currency]}."
            )
    for user_id, currency in sorted(expected.keys() - books.balances.keys()):
        yield f"{user_id} has no {currency} wallet, and money in it."


def _name(operation: Operation) -> str:
    return f"The {operation.kind} {operation.key}"
