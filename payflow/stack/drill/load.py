"""The steady random load: some users who transfer, deposit, withdraw, and repeat themselves.

What must stay true: the same seed makes the same users want the same things in the same order.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import count, islice
from random import Random

from payflow.stack.drill.client import REQUEST_SECONDS_MAX, Client
from payflow.stack.drill.record import Kind, Operation

USERS = 5
CURRENCIES = ("USD", "JPY")
FIRST_DEPOSIT_MINOR = 200_000
AMOUNT_MINOR_MAX = 5_000
# More than anyone will have: declined by the ledger.
TOO_MUCH_MINOR = 10**12
PAUSE_SECONDS_MAX = 0.3
# A client this impatient often leaves before its answer comes, and then repeats.
IMPATIENCE_SECONDS_MAX = 0.06
BATCH_SHARE = 0.2
BATCH_MAX = 6
NOBODY = "f" * 24
CREDENTIALS = "violet-kettle-42"


class Load:
    """Runs one thread per user until it is told to stop; each then finishes what it has begun."""

    def __init__(self, base_url: str, seed: int):
        self.seed = seed
        self.operations: list[Operation] = []
        self.clients = [
            Client(base_url, f"drill-{seed}-{number}@example.com", CREDENTIALS) for number in range(USERS)
        ]
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._act, args=(number,), name=f"user-{number}", daemon=True)
            for number in range(USERS)
        ]

    def prepare(self) -> None:
        """Register the users and give them money. StackError when that is refused."""
        for number, client in enumerate(self.clients):
            client.register(f"User {number}")
            for currency in CURRENCIES:
                client.open_wallet(currency)
                key = f"drill-{self.seed}-{number}-{currency}"
                first = Operation(Kind.DEPOSIT, client.id, currency, FIRST_DEPOSIT_MINOR, key)
                self._perform(client, [first])

    def start(self) -> None:
        """Have every user begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopping.set()

    def join(self, seconds_max: float) -> bool:
        """Wait until every user has all answers; False when that takes longer."""
        for thread in self._threads:
            thread.join(seconds_max)
        return not any(thread.is_alive() for thread in self._threads)

    def _act(self, number: int) -> None:
        random = Random(f"{self.seed} user {number}")  # noqa: S311 - a drill must be repeatable
        client = self.clients[number]
        done: list[list[Operation]] = []
        turn = 0
        while not self._stopping.is_set():
            key = f"drill-{self.seed}-{number}-{turn}"
            operations = draw_request(random, client.id, [other.id for other in self.clients], key)
            impatient = random.random() < 0.1
            first_try = random.uniform(0.005, IMPATIENCE_SECONDS_MAX) if impatient else REQUEST_SECONDS_MAX
            self._perform(client, operations, first_try)
            done.append(operations)
            again = random.choice(done)
            if random.random() < 0.1:
                client.perform(again)
            turn += 1
            self._stopping.wait(random.uniform(0, PAUSE_SECONDS_MAX))

    def _perform(
        self,
        client: Client,
        operations: list[Operation],
        first_try_seconds: float = REQUEST_SECONDS_MAX,
    ) -> None:
        self.operations += operations
        client.perform(operations, first_try_seconds=first_try_seconds)


def draw_request(random: Random, user_id: str, user_ids: Sequence[str], key: str) -> list[Operation]:
    """Return what a user asks for next in one request: one thing, or now and then a batch of transfers."""
    if random.random() >= BATCH_SHARE:
        return [draw(random, user_id, user_ids, key)]
    drawn = (draw(random, user_id, user_ids, f"{key}-{number}") for number in count())
    transfers = (operation for operation in drawn if operation.kind is Kind.TRANSFER)
    return list(islice(transfers, random.randint(2, BATCH_MAX)))


def draw(random: Random, user_id: str, user_ids: Sequence[str], key: str) -> Operation:
    """Return the next thing a user wants: mostly a transfer, now and then one that must be refused."""
    currency = random.choices(CURRENCIES, weights=(4, 1))[0]
    amount_minor = TOO_MUCH_MINOR if random.random() < 0.1 else random.randint(1, AMOUNT_MINOR_MAX)
    kind = random.choices(list(Kind), weights=(8, 1, 1))[0]
    if kind is not Kind.TRANSFER:
        amount_minor = min(amount_minor, AMOUNT_MINOR_MAX) if kind is Kind.DEPOSIT else amount_minor
        return Operation(kind, user_id, currency, amount_minor, key)
    receiver_id = random.choice([other for other in user_ids if other != user_id])
    if random.random() < 0.03:
        receiver_id = random.choice([user_id, NOBODY])
    return Operation(kind, user_id, currency, amount_minor, key, receiver_id)
