"""The wallet endpoints for the OpenAPI document."""

from __future__ import annotations

from ledger.chain import Kind
from payflow.api.describing import (
    CURRENCY,
    HASH,
    MONEY,
    TIME,
    Answer,
    Link,
    Model,
    Operation,
    nullable,
    page_of,
    record,
    text,
)
from wallets.documents import Status
from wallets.errors import (
    BalanceLimit,
    DepositLimit,
    InsufficientBalance,
    WalletClosed,
    WalletExists,
    WalletNotFound,
)
from wallets.serializers import BalanceQuery, CurrencyQuery, HistoryQuery, Move, OpenWallet

TAG = "Wallets"

WALLET = Model(
    "Wallet",
    record(
        "One user's money in one currency.",
        id=text("The wallet's id."),
        currency=CURRENCY,
        balance={**MONEY, "description": "What it holds now."},
        status=text("Money moves only while it is ACTIVE.", enum=[status.value for status in Status]),
        created_at=TIME,
        updated_at={**TIME, "description": "When money last moved, or the status last changed."},
    ),
)
WALLETS = Model(
    "WalletList",
    record(
        "All of one's wallets.",
        results={"type": "array", "items": WALLET, "maxItems": 100, "description": "One for each currency."},
    ),
)
ENTRY = Model(
    "LedgerEntry",
    record(
        "One line of a wallet's ledger. Entries are numbered without gaps, and each covers the one before "
        "by its hash.",
        id=text("The operation's id."),
        wallet_id=text("Whose ledger it is in."),
        sequence={"type": "integer", "minimum": 1, "description": "Its number in the wallet's ledger."},
        kind=text("What it does; a DECLINED entry moves nothing.", enum=[kind.value for kind in Kind]),
        amount={**MONEY, "description": "What it adds to the balance; negative where it takes."},
        requested_amount={**MONEY, "description": "What was asked for; of a DECLINED entry all there is."},
        balance={**MONEY, "description": "The wallet's balance after it."},
        currency=CURRENCY,
        transaction_id=nullable(text("The transaction it belongs to, if any.")),
        reason=nullable(text("Why it was declined.")),
        created_at=TIME,
        hash=HASH,
    ),
)
ENTRIES = page_of(ENTRY, "Ledger entries, newest first.")
MOVEMENT = Model(
    "Movement",
    record(
        "What a deposit or withdrawal did.", entry=ENTRY, balance={**MONEY, "description": "The new balance."}
    ),
)
BALANCE = Model(
    "Balance",
    record(
        "What a wallet held at a moment.",
        balance=MONEY,
        currency=CURRENCY,
        as_of={**TIME, "description": "The moment it was so."},
    ),
)

WALLET_EXAMPLE = {
    "id": "wal_01a206d2bca3f376e26a2557c8a21534",
    "currency": "USD",
    "balance": "74.50",
    "status": "ACTIVE",
    "created_at": "2026-11-23T05:13:20.112Z",
    "updated_at": "2026-11-23T05:13:23.929Z",
}
DEPOSIT_EXAMPLE = {
    "id": "key_6b03cb73d89c58b3ee4eee4b_first-money:deposit",
    "wallet_id": WALLET_EXAMPLE["id"],
    "sequence": 1,
    "kind": "DEPOSIT",
    "amount": "100.00",
    "requested_amount": "100.00",
    "balance": "100.00",
    "currency": "USD",
    "transaction_id": None,
    "reason": None,
    "created_at": "2026-11-23T05:13:22.481Z",
    "hash": "926966bf7386e8d7ba8abe31bf6309dff7130499aa8548baa26bc510b5e23355",
}
WITHDRAWAL_EXAMPLE = {
    **DEPOSIT_EXAMPLE,
    "id": "op_01a206d2c0b1f0a2b14d2f0c7d2e9a51:withdrawal",
    "sequence": 3,
    "kind": "WITHDRAWAL",
    "amount": "-20.00",
    "requested_amount": "20.00",
    "balance": "54.50",
    "hash": "08cf0e031e4b0fe2169a78dbd4e2f835d8af61d44777ecc94f619b788dc7f289",
}
DEBIT_EXAMPLE = {
    **DEPOSIT_EXAMPLE,
    "id": "txn_01a206d2bccfb30670911de76edd5018:debit",
    "sequence": 2,
    "kind": "DEBIT",
    "amount": "-25.50",
    "requested_amount": "25.50",
    "balance": "74.50",
    "transaction_id": "txn_01a206d2bccfb30670911de76edd5018",
    "created_at": "2026-11-23T05:13:23.929Z",
    "hash": "96af288fbe173c0867a19a5d99a5a81258b43617972202d8e8fe1fb5bc116801",
}
_NO_CURRENCY = WalletNotFound("You have no USD wallet; open one with POST /wallets.")
_CLOSED = WalletClosed("This wallet is frozen or closed; no money can move in or out.")
_GET_BALANCE = {
    "balance": Link("getWalletBalance", {"id": "$response.body#/id"}, "What it held at a past moment.")
}

OPERATIONS = {
    "list": Operation(
        id="listWallets",
        tag=TAG,
        summary="List one's wallets",
        description="Each with the balance it has now.",
        answers={
            200: Answer(
                description="Every wallet with its balance.",
                body=WALLETS,
                examples={"one": {"results": [WALLET_EXAMPLE]}},
            )
        },
    ),
    "create": Operation(
        id="createWallet",
        tag=TAG,
        summary="Open a wallet",
        description="One per currency.",
        takes=OpenWallet,
        sends={"euros": {"currency": "EUR"}},
        answers={
            201: Answer(
                description="The new wallet.",
                body=WALLET,
                examples={"euros": {**WALLET_EXAMPLE, "currency": "EUR", "balance": "0.00"}},
                links=_GET_BALANCE,
            )
        },
        refusals=[WalletExists("You have a EUR wallet already.", field="currency")],
    ),
    "me": Operation(
        id="getOwnWallet",
        tag=TAG,
        summary="Get one's wallet in a currency",
        description="Without `currency`, the one in the default currency.",
        query=CurrencyQuery,
        answers={
            200: Answer(
                description="The wallet.",
                body=WALLET,
                examples={"dollars": WALLET_EXAMPLE},
                links=_GET_BALANCE,
            )
        },
        refusals=[_NO_CURRENCY],
    ),
    "deposit": Operation(
        id="deposit",
        tag=TAG,
        summary="Deposit",
        description="Stands for money that arrives from outside. In production it needs the permission "
        "`wallets.deposit`, or an API key that was given `deposits:write` by somebody with it, and "
        "there is a limit for each user, currency and day (UTC).",
        takes=Move,
        sends={"dollars": {"amount": "100.00", "currency": "USD"}},
        answers={
            201: Answer(
                description="The ledger entry and the new balance.",
                body=MOVEMENT,
                examples={"dollars": {"entry": DEPOSIT_EXAMPLE, "balance": "100.00"}},
            )
        },
        refusals=[
            _NO_CURRENCY,
            _CLOSED,
            DepositLimit("At most 100000.00 USD may be deposited in a day."),
            BalanceLimit(
                "The wallet holds 40000000000000000.00 USD; with this deposit it would hold more than it"
                " may.",
                replayed=False,
            ),
        ],
    ),
    "withdraw": Operation(
        id="withdraw",
        tag=TAG,
        summary="Withdraw",
        description="Sends money outside. A withdrawal that the balance does not cover is declined, and "
        "the ledger says so.",
        takes=Move,
        sends={"dollars": {"amount": "20.00", "currency": "USD"}},
        answers={
            201: Answer(
                description="The ledger entry and the new balance.",
                body=MOVEMENT,
                examples={"dollars": {"entry": WITHDRAWAL_EXAMPLE, "balance": "54.50"}},
            )
        },
        refusals=[
            _NO_CURRENCY,
            _CLOSED,
            InsufficientBalance("The wallet holds 74.50 USD.", replayed=False),
        ],
    ),
    "history": Operation(
        id="listLedgerEntries",
        tag=TAG,
        summary="List a wallet's ledger entries",
        description="Newest first. The balance is that of the newest entry.",
        query=HistoryQuery,
        answers={
            200: Answer(
                description="A page of entries.",
                body=ENTRIES,
                examples={"page": {"results": [DEBIT_EXAMPLE, DEPOSIT_EXAMPLE], "next": None}},
            )
        },
        refusals=[_NO_CURRENCY],
    ),
    "balance": Operation(
        id="getWalletBalance",
        tag=TAG,
        summary="Get a wallet's balance at a moment",
        description="Of one's own wallet; staff with `wallets.view_walletrow` may ask for any. Without "
        "`at`, as of now.",
        path={"id": "The wallet's id."},
        query=BalanceQuery,
        answers={
            200: Answer(
                description="The balance.",
                body=BALANCE,
                examples={
                    "past": {"balance": "100.00", "currency": "USD", "as_of": "2026-11-23T05:13:23.000Z"}
                },
            )
        },
        refusals=[WalletNotFound("There is no such wallet.")],
    ),
}
