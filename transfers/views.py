"""The transaction endpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from kombu.exceptions import OperationalError
from redis import RedisError
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.authentication import WalletGuardedAuthentication
from payflow import canonical, idempotency
from payflow.api import limits, prefer
from payflow.api.describing import described
from payflow.api.pages import page
from payflow.api.problems import as_part
from payflow.api.scopes import Scope
from payflow.api.viewsets import ApiViewSet
from payflow.crashpoints import crash_point
from payflow.errors import Transient
from transfers import batches, inbox, issuing, schema, selectors, services, states, tasks
from transfers.body import as_initiated, check, checked_body
from transfers.errors import BatchNotFound, NotSettled, TransactionNotFound
from transfers.parties import Revealed, TransferRequest
from transfers.receipts import Reader
from transfers.selectors import Direction
from transfers.serializers import StartBatch, StartTransaction
from transfers.states import Status

logger = logging.getLogger(__name__)
# One for all: making one costs more than using it, and validating leaves nothing in it.
_each_of_a_batch = StartTransaction()
IDS_LOGGED_MAX = 20
# What a member of staff needs to see transactions and batches of others.
MAY_VIEW_ALL = "transfers.view_transactionrow"


@described(schema.OPERATIONS)
class TransactionViewSet(ApiViewSet):
    """Transfers that the caller is a party to."""

    scopes = {
        "create": Scope.TRANSACTIONS_WRITE,
        **dict.fromkeys(("list", "retrieve", "receipt"), Scope.TRANSACTIONS_READ),
    }

    authentication_classes = (WalletGuardedAuthentication,)
    limits = {"create": "transactions"}
    watched_limits = {"create": "unknown_receivers"}
    lasting_keys = frozenset({"create"})

    def is_known(self, request: Request, key: str) -> bool:
        """Say whether the key has started a transaction."""
        return selectors.find_by_key(sender_id=request.user.id, key=key) is not None

    def create(self, request: Request) -> Response:
        """POST /transactions: write it down, start its saga, answer."""
        key = idempotency.key_of(request)
        wanted = StartTransaction(data=request.data)
        wanted.is_valid(raise_exception=True)
        asked = _transfer_request(request.user.id, wanted.validated_data)
        digest = services.Key(key, idempotency.fingerprint(_named(asked))) if key else None
        started = services.start_transaction(request=asked, key=digest, reveal=_revealing(request))
        if not started.replayed:
            _set_going([started.row["_id"]])
        headers = {idempotency.REPLAYED_HEADER: "true"} if started.replayed else {}
        headers["Location"] = f"/transactions/{started.row['_id']}"
        row, waited = _wait(request, dict(as_initiated(check(started.row))))
        return Response(checked_body(row), status=201, headers={**headers, **waited})

    def list(self, request: Request) -> Response:
        """GET /transactions: the caller's own, and a batch's for staff, newest first."""
        asked = self.query
        rows = selectors.list_transactions(
            user_id=request.user.id,
            limit=asked["limit"] + 1,
            status=Status(asked["status"]) if "status" in asked else None,
            direction=Direction(asked["direction"]) if "direction" in asked else None,
            batch_id=asked.get("batch"),
            reference=asked.get("reference"),
            before_id=asked.get("cursor"),
            of_anybody=request.user.may(MAY_VIEW_ALL),
        )
        return Response(page(rows, asked["limit"], key=lambda row: row["_id"], render=checked_body))

    def retrieve(self, request: Request, pk: str) -> Response:
        """GET /transactions/{id}: for sender, receiver and staff; for everyone else it does not exist."""
        row, _ = _find_visible(request, pk)
        row, waited = _wait(request, row)
        return Response(checked_body(row), headers=waited)

    def receipt(self, request: Request, pk: str) -> HttpResponse:
        """GET /transactions/{id}/receipt: a signed receipt, once the transaction has ended."""
        row, reader = _find_visible(request, pk)
        row, waited = _wait(request, row)
        if Status(check(row)["status"]) not in states.TERMINAL:
            raise NotSettled(waited)
        keys, issuer = settings.RECEIPT_SIGNING_KEYS, settings.RECEIPT_ISSUER
        receipt = issuing.issue_receipt(row=row, reader=reader, keys=keys, issuer=issuer)
        return Response(receipt, headers=waited)


@described(schema.BATCHES)
class TransferBatchViewSet(ApiViewSet):
    """Many transfers of the caller's, asked for at once."""

    scopes = {"create": Scope.TRANSACTIONS_WRITE, "retrieve": Scope.TRANSACTIONS_READ}
    limits = {"create": "transactions"}
    watched_limits = {"create": "unknown_receivers"}
    lasting_keys = frozenset({"create"})

    def is_known(self, request: Request, key: str) -> bool:
        """Say whether the key has started a batch."""
        return selectors.find_batch_by_key(sender_id=request.user.id, key=key) is not None

    def create(self, request: Request) -> Response:
        """POST /transactions/batch: write all of them down, start their saga, answer."""
        key = idempotency.key_of(request)
        wanted = StartBatch(data=request.data)
        wanted.is_valid(raise_exception=True)
        transfers = wanted.validated_data["transfers"]
        digest = services.Key(key, canonical.digest(request.data)) if key else None
        sender_id = request.user.id
        started = batches.start_batch(
            sender_id=sender_id,
            wishes=(_wish(sender_id, transfer) for transfer in transfers),
            key=digest,
            admit=lambda: limits.count_in(request, "batched", len(transfers)),
            reveal=_revealing(request),
        )
        if started.is_ours and started.transactions:
            _set_going([transaction["_id"] for transaction in started.transactions], batched=True)
        headers = {idempotency.REPLAYED_HEADER: "true"} if started.replayed else {}
        headers["Location"] = f"/transactions/batch/{started.row['_id']}"
        return Response(batches.batch_body(started.row, started.transactions), status=201, headers=headers)

    def retrieve(self, request: Request, pk: str) -> Response:
        """GET /transactions/batch/{id}: what came of it, for its sender and staff."""
        batch = selectors.find_batch(batch_id=pk)
        if batch is None or not (request.user.id == batch.get("sender_id") or request.user.may(MAY_VIEW_ALL)):
            raise BatchNotFound("There is no such batch.")
        return Response(batches.summary_body(batch, selectors.count_outcomes(batch_id=pk)))


def _find_visible(request: Request, transaction_id: str) -> tuple[dict[str, Any], Reader]:
    """Return a transaction and what the caller is to it. Raises TransactionNotFound when that is nothing."""
    row = selectors.find_transaction(transaction_id=transaction_id)
    if row and request.user.id == row.get("sender_id"):
        return row, Reader.SENDER
    if row and request.user.id == row.get("receiver_id"):
        return row, Reader.RECEIVER
    if row and request.user.may(MAY_VIEW_ALL):
        return row, Reader.STAFF
    raise TransactionNotFound("There is no such transaction.")


def _revealing(request: Request) -> Callable[[int], Revealed]:
    """Return what counts receivers that cannot be paid against their limit, which is the caller's own."""
    return lambda count: Revealed(*limits.count_part(request, limits.UNKNOWN_RECEIVERS, count))


def _wish(sender_id: str, transfer: Any) -> TransferRequest | dict[str, Any]:
    """Return what one transfer of a batch asks for, or the problem with it."""
    try:
        return _transfer_request(sender_id, _each_of_a_batch.run_validation(transfer))
    except ValidationError as error:
        return as_part(error)


def _transfer_request(sender_id: str, asked: dict[str, Any]) -> TransferRequest:
    return TransferRequest(
        sender_id=sender_id,
        receiver_id=asked.get("receiver_id"),
        receiver_email=asked.get("receiver_email"),
        amount_minor=asked["amount_minor"],
        currency=asked["currency"],
        description=asked["description"],
        reference=asked.get("reference"),
    )


def _named(asked: TransferRequest) -> dict[str, Any]:
    """Return what was asked for. Without a reference it is what it was when there were none: keys last."""
    named = asdict(asked)
    return named if asked.reference is not None else {k: v for k, v in named.items() if k != "reference"}


def _set_going(transaction_ids: list[str], *, batched: bool = False) -> None:
    """Put transactions into the inbox, and start a chain if nobody has. Redis may be down: they are written
    down already, and recovery starts them later."""
    crash_point("start.inserted")
    try:
        was_empty = inbox.push(transaction_ids, batched=batched)
        crash_point("start.pushed")
        if was_empty:
            tasks.start_saga()
            crash_point("start.published")
    except (Transient, OperationalError, RedisError):
        logger.warning(
            "saga not started; recovery will", extra={"transaction_ids": transaction_ids[:IDS_LOGGED_MAX]}
        )


def _read_again(row: dict[str, Any]) -> dict[str, Any]:
    try:
        return selectors.find_transaction(transaction_id=row["_id"]) or row
    except Transient:
        # A 503 here would ask the caller to repeat, and so to pay twice, what has been written down.
        return row


def _wait(request: Request, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Hold the answer as `Prefer: wait` asks; return the row to show and the header to add."""
    seconds = prefer.wait_seconds(request)
    if seconds is None:
        return row, {}
    latest, waited = prefer.wait_for(
        row,
        lambda: _read_again(row),
        lambda seen: seen.get("status") in states.TERMINAL,
        seconds,
    )
    return latest, {prefer.HEADER: f"wait={seconds}"} if waited else {}
