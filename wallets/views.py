"""The wallet endpoints."""

from __future__ import annotations

from functools import partial

from django.conf import settings
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from ledger import selectors as ledger
from ledger.chain import Kind
from ledger.errors import Unreadable
from payflow import clock, idempotency
from payflow.api.describing import described
from payflow.api.pages import page
from payflow.api.scopes import Scope
from payflow.api.viewsets import ApiViewSet
from payflow.errors import PermissionRefused
from payflow.money import format_amount
from wallets import schema, selectors, services
from wallets.errors import Declined, WalletNotFound
from wallets.serializers import (
    Move,
    OpenWallet,
    document_body,
    entry_body,
    wallet_body,
)


@described(schema.OPERATIONS)
class WalletViewSet(ApiViewSet):
    """A user's own wallets. Money leaves, and wallets are opened, only by who has signed in."""

    scopes = {
        **dict.fromkeys(("list", "me", "history", "balance"), Scope.WALLETS_READ),
        "deposit": Scope.DEPOSITS_WRITE,
    }
    limits = dict.fromkeys(("deposit", "withdraw"), "deposits")

    lasting_keys = frozenset({"deposit", "withdraw"})

    def is_known(self, request: Request, key: str) -> bool:
        """Say whether the key has moved money in or out."""
        kind = Kind.DEPOSIT if self.action == "deposit" else Kind.WITHDRAWAL
        operation_id = services.keyed_operation_id(kind, request.user.id, key)
        return ledger.find_entry(operation_id=operation_id) is not None

    def handle_exception(self, exc: Exception) -> Response:
        """Answer for an error; a refusal repeated for its idempotency key says so."""
        response = super().handle_exception(exc)
        if isinstance(exc, Declined) and exc.replayed:
            response[idempotency.REPLAYED_HEADER] = "true"
        return response

    def list(self, request: Request) -> Response:
        """GET /wallets."""
        services.get_wallet(user_id=request.user.id, currency=settings.DEFAULT_CURRENCY)
        return Response({"results": [wallet_body(s) for s in selectors.list_states(user_id=request.user.id)]})

    def create(self, request: Request) -> Response:
        """POST /wallets."""
        wanted = OpenWallet(data=request.data)
        wanted.is_valid(raise_exception=True)
        wallet = services.open_wallet(user_id=request.user.id, currency=wanted.validated_data["currency"])
        return Response(wallet_body(selectors.state_of(wallet)), status=201)

    @action(detail=False)
    def me(self, request: Request) -> Response:
        """GET /wallets/me."""
        wallet = services.get_wallet(user_id=request.user.id, currency=self.query["currency"])
        return Response(wallet_body(selectors.state_of(wallet)))

    @action(detail=False, methods=["post"])
    def deposit(self, request: Request) -> Response:
        """POST /wallets/me/deposit: by the owner where deposits are open, else by staff only."""
        if not request.user.may_deposit:
            raise PermissionRefused("Depositing here needs the permission wallets.deposit.")
        return self._move(request, partial(services.deposit, granter_id=request.user.granter_id))

    @action(detail=False, methods=["post"])
    def withdraw(self, request: Request) -> Response:
        """POST /wallets/me/withdraw."""
        return self._move(request, services.withdraw)

    def _move(self, request: Request, service: services.MoneyService) -> Response:
        key = idempotency.key_of(request)
        wanted = Move(data=request.data)
        wanted.is_valid(raise_exception=True)
        currency, amount_minor = wanted.validated_data["currency"], wanted.validated_data["amount_minor"]
        moved = service(user_id=request.user.id, currency=currency, amount_minor=amount_minor, key=key)
        body = {
            "entry": entry_body(moved.entry),
            "balance": format_amount(moved.entry.balance_minor, currency),
        }
        headers = {idempotency.REPLAYED_HEADER: "true"} if moved.replayed else {}
        return Response(body, status=201, headers=headers)

    @action(detail=False)
    def history(self, request: Request) -> Response:
        """GET /wallets/me/history: entries, newest first."""
        asked = self.query
        wallet = services.get_wallet(user_id=request.user.id, currency=asked["currency"])
        rows = ledger.list_documents(
            wallet_id=wallet.id,
            limit=asked["limit"] + 1,
            kind=Kind(asked["kind"]) if "kind" in asked else None,
            before_sequence=asked.get("cursor"),
        )
        shown = page(rows, asked["limit"], key=lambda row: f"{row['sequence']:.0f}", render=document_body)
        if rows and not shown["results"] and shown["next"] is None and "cursor" not in asked:
            raise Unreadable  # an empty history would say that no money ever moved
        return Response(shown)

    @action(detail=True)
    def balance(self, request: Request, pk: str) -> Response:
        """GET /wallets/{id}/balance: now, or at any past moment."""
        wallet = selectors.find_wallet_by_id(wallet_id=pk)
        if wallet is None or not (
            wallet.user_id == request.user.id or request.user.may("wallets.view_walletrow")
        ):
            raise WalletNotFound("There is no such wallet.")
        balance_minor, as_of = selectors.balance_at(wallet, at=self.query.get("at"))
        balance = format_amount(balance_minor, wallet.currency)
        return Response({"balance": balance, "currency": wallet.currency, "as_of": clock.rfc3339(as_of)})
