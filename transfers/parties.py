"""Who takes part in a transfer: the rules for a single request and for each of a batch.

What must stay true: there is one set of rules. `load` reads what any number of requests need to know, in at
most three queries; `decide` is pure and sees nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.conf import settings

from accounts import selectors as accounts
from payflow.errors import NotAuthenticated, Refused
from transfers.errors import CurrencyMismatch, ReceiverNotFound, SelfTransfer
from wallets import selectors as wallets
from wallets import services as wallet_services
from wallets.errors import WalletClosed
from wallets.selectors import WalletRow


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """What a sender asks for; exactly one of `receiver_id` and `receiver_email` is set.

    `reference` is the sender's own name for it, which they can use only once.
    """

    sender_id: str
    receiver_id: str | None
    receiver_email: str | None
    amount_minor: int
    currency: str
    description: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Parties:
    """Who is paid, and the wallets between which the money moves."""

    receiver_id: str
    sender_wallet_id: str
    receiver_wallet_id: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is stored about those whom requests name."""

    # Active users only, by the email as it was given.
    ids_by_email: Mapping[str, str]
    # Users who are active, as far as their wallets do not say it.
    active: frozenset[str]
    # By user and currency.
    wallets: Mapping[tuple[str, str], WalletRow]


def load(sender_id: str, requests: Iterable[TransferRequest]) -> Facts:
    """Read what deciding on requests of one sender takes. Raises NotAuthenticated, Transient.

    A sender or a receiver named by id who has an active wallet needs no further look: a user is deactivated
    only after their wallets are frozen. A wallet in the default currency that registration missed is opened.
    """
    requests = list(requests)
    emails = {request.receiver_email for request in requests if request.receiver_email is not None}
    ids_by_email = accounts.find_active_ids_by_email(emails=emails) if emails else {}
    receivers = [(receiver_of(request, ids_by_email), request.currency) for request in requests]
    sides = {(id_, currency) for id_, currency in receivers if id_ is not None and id_ != sender_id}
    # Also where no receiver is known: what is wrong with the sender's own wallet is said first.
    sides |= {(sender_id, request.currency) for request in requests}
    if not sides:
        return Facts(ids_by_email, frozenset(), {})
    user_ids, currencies = map(set, zip(*sides, strict=True))
    found = wallets.find_wallets_of(user_ids=user_ids, currencies=currencies)
    active = set(ids_by_email.values())
    doubtful = {side[0] for side in sides if not _takes_money(found.get(side))} - active
    active |= accounts.find_active_ids(user_ids=doubtful) if doubtful else set()
    if sender_id in doubtful - active:
        raise NotAuthenticated("This account cannot be used.")
    for user_id, currency in sides - found.keys():
        if currency == settings.DEFAULT_CURRENCY and user_id in active:
            wallet = wallet_services.ensure_wallet(user_id=user_id, currency=currency)
            found[user_id, currency] = WalletRow(wallet.id, user_id, currency, wallet.status)
    return Facts(ids_by_email, frozenset(active), found)


def receiver_of(request: TransferRequest, ids_by_email: Mapping[str, str]) -> str | None:
    """Return the receiver's id, of which it may still turn out that it is nobody's. Pure."""
    if request.receiver_id is not None:
        return request.receiver_id
    return ids_by_email.get(request.receiver_email or "")


def _own_wallet(request: TransferRequest, facts: Facts) -> WalletRow:
    """Return the sender's wallet. What is refused here says nothing of the receiver."""
    if receiver_of(request, facts.ids_by_email) == request.sender_id:
        raise SelfTransfer("Sender and receiver must be two different users.", field=_field(request))
    own = facts.wallets.get((request.sender_id, request.currency))
    if own is None:
        raise CurrencyMismatch(f"You have no {request.currency} wallet.", field="currency")
    if not _takes_money(own):
        raise WalletClosed("Your wallet is frozen or closed; no money can move in or out.")
    return own


def _with_receiver(request: TransferRequest, facts: Facts, own: WalletRow) -> Parties:
    receiver_id = receiver_of(request, facts.ids_by_email)
    other = facts.wallets.get((receiver_id, request.currency)) if receiver_id else None
    if receiver_id is None or not (_takes_money(other) or receiver_id in facts.active):
        raise ReceiverNotFound("Nobody who can receive money is known by this.", field=_field(request))
    if other is None:
        raise CurrencyMismatch(f"The receiver has no {request.currency} wallet.", field="currency")
    if not _takes_money(other):
        raise WalletClosed("The receiver's wallet is frozen or closed; no money can move in or out.")
    return Parties(receiver_id, own.id, other.id)


def _field(request: TransferRequest) -> str:
    return "receiver_id" if request.receiver_id is not None else "receiver_email"


def _takes_money(wallet: WalletRow | None) -> bool:
    return wallet is not None and wallets.is_active(wallet)


@dataclass(frozen=True, slots=True)
class Revealed:
    """How many refusals may tell of a receiver, how many more could, and what is said instead."""

    granted: int
    left: int
    refusal: Refused


def reveal_all(count: int) -> Revealed:
    """Answer everything: for callers that nobody asks from outside."""
    return Revealed(count, sys.maxsize, Refused("This is not limited."))


def decide_all(
    requests: Sequence[TransferRequest],
    facts: Facts,
    *,
    reveal: Callable[[int], Revealed],
    paid_before: Callable[[], Collection[str]],
) -> list[Parties | Refused]:
    """Return for each request of one sender who takes part, or why it is refused.

    A refusal that tells of a receiver answers "is there such a user?", and so does a transfer to somebody
    new. Each different receiver of such a refusal counts, and `reveal` says how many may be told. From where
    no more may, in the order of the requests, a receiver who has not been paid before is refused, whether
    there is such a user or not. Raises what `reveal` and `paid_before` do.
    """
    decided = [_decide(request, facts) for request in requests]
    telling = {_name(request) for request, (_, tells) in zip(requests, decided, strict=True) if tells}
    told = reveal(len(telling))
    if told.granted == len(telling) and told.left > 0:
        return [outcome for outcome, _ in decided]
    known, budget, named = paid_before(), told.granted, set[str]()
    outcomes: list[Parties | Refused] = []
    for request, (outcome, tells) in zip(requests, decided, strict=True):
        name, is_new = _name(request), _name(request) not in named
        if tells and is_new and budget > 0:
            budget -= 1
            named.add(name)
            is_new = False
        tells_nothing = isinstance(outcome, Refused) and not tells
        has_been_paid = isinstance(outcome, Parties) and outcome.receiver_id in known
        may_tell = tells_nothing or has_been_paid or not is_new or (budget > 0 and not tells)
        outcomes.append(outcome if may_tell else told.refusal)
    return outcomes


def _decide(request: TransferRequest, facts: Facts) -> tuple[Parties | Refused, bool]:
    """Return the outcome, and whether it is a refusal that tells of the receiver."""
    try:
        own = _own_wallet(request, facts)
    except Refused as error:
        return error, False
    try:
        return _with_receiver(request, facts, own), False
    except Refused as error:
        return error, True


def _name(request: TransferRequest) -> str:
    return request.receiver_id or request.receiver_email or ""
