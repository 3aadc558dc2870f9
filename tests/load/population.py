"""Users with wallets and money, made through the services; only the password hash is shared, being slow.

Import after `django.setup()`.
"""

from __future__ import annotations

from uuid import uuid4

from django.conf import settings
from django.contrib.auth.hashers import make_password

from accounts import tokens
from accounts.models import User
from payflow.ids import new_id
from wallets import services as wallets

DEPOSIT_MINOR = 1_000_000_00


def create_users(count: int) -> list[str]:
    """Create users with a funded wallet in the default currency each; return their ids."""
    run, password = uuid4().hex[:8], make_password("only for the load generator")
    created = []
    for number in range(count):
        user = User(email=f"load-{run}-{number}@example.com", name=f"Load {number}", password=password)
        user.save(force_insert=True)
        user_id = str(user.pk)
        create_funded_wallet(user_id)
        created.append(user_id)
    return created


def create_funded_wallet(user_id: str) -> str:
    """Open a wallet and put money into it; return the wallet's id."""
    currency = settings.DEFAULT_CURRENCY
    wallet = wallets.open_wallet(user_id=user_id, currency=currency)
    wallets.deposit(user_id=user_id, currency=currency, amount_minor=DEPOSIT_MINOR, key=new_id("fund"))
    return wallet.id


def with_tokens(user_ids: list[str]) -> list[tuple[str, str]]:
    """Each user's id with a fresh access token (they last 15 minutes, a benchmark longer)."""
    return [
        (user_id, tokens.issue_access(user_id=user_id, is_staff=False, family=uuid4().hex))
        for user_id in user_ids
    ]
