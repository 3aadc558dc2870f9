"""API keys: how machines call, `Authorization: Bearer pk_<id>_<secret>`.

A key acts for its owner and for nobody else, within its scopes, until it expires or is revoked. What must
stay true: the secret is in one answer and nowhere else (an idempotency key keeps that answer, encrypted, for
a day). It is 32 random bytes, which nobody finds by trying, so one SHA-256 at rest is enough; a slow hash is
for what people choose. A key never makes a key, and a user never has more living ones than
API_KEYS_PER_USER_MAX: each holds one of so many slots under a unique index.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bson import ObjectId
from django.conf import settings
from django.db import IntegrityError
from pymongo.errors import PyMongoError

from accounts import selectors
from accounts.errors import ApiKeyNotFound, DepositsNotGranted, TooManyApiKeys
from accounts.models import API_KEY_PREFIX, MAY_DEPOSIT, ApiKey, User, new_api_key_id
from payflow import clock, mongodb, storage
from payflow.api.scopes import Scope
from payflow.errors import NotAuthenticated, Transient

logger = logging.getLogger(__name__)
BEARER_PREFIX = "pk_"
USE_NOTED_EVERY = timedelta(minutes=1)
# A key that was good counts as known for so long; of those that were good lately a process remembers so many.
KNOWN_SECONDS = 60.0
KNOWN_MAX = 10_000
_SECRET_BYTES = 32
_FORM = re.compile(r"pk_([0-9a-f]{32})_[A-Za-z0-9_-]{43}", re.ASCII)
# By its hash: whose key it is, and until when it counts as known.
_known: OrderedDict[str, tuple[str, float]] = OrderedDict()


@dataclass(frozen=True)
class Minted:
    """A new key; `encoded` is what its holder sends, and is never to be had again."""

    key: ApiKey
    encoded: str = field(repr=False)


@dataclass(frozen=True)
class KeyCaller:
    """Who is calling with an API key: its owner, active at this moment, but never as staff."""

    key_id: str
    scopes: frozenset[str]
    record: User
    granter_id: str | None
    """Who made this key, where that is not its owner."""
    is_authenticated = True

    def __str__(self) -> str:
        return self.id

    @property
    def id(self) -> str:
        """Return the owner's id."""
        return str(self.record.pk)

    def may(self, permission: str) -> bool:
        """Return False: no key carries a permission of staff, whoever owns it."""
        return False

    @property
    def may_deposit(self) -> bool:
        """Return whether the owner, or else the maker of the key, may deposit now. Raises Transient."""
        if settings.DEPOSITS_OPEN or selectors.is_granted(self.record, MAY_DEPOSIT):
            return True
        granter = selectors.find_user(user_id=self.granter_id) if self.granter_id else None
        return granter is not None and selectors.is_granted(granter, MAY_DEPOSIT)


def mint_key(
    *, owner: User, name: str, scopes: Collection[str], expires_at: datetime, created_by: User
) -> Minted:
    """Make a key. Raises DepositsNotGranted, TooManyApiKeys, Transient.

    Granting `deposits:write` needs the permission `wallets.deposit`: always for another user's key, and for
    one's own where deposits are not open. The key makes deposits while its maker holds the permission.
    """
    is_open = settings.DEPOSITS_OPEN and created_by.pk == owner.pk
    if Scope.DEPOSITS_WRITE in scopes and not (is_open or selectors.is_granted(created_by, MAY_DEPOSIT)):
        raise DepositsNotGranted(
            "Granting deposits:write needs the permission wallets.deposit.", field="scopes"
        )
    key_id = new_api_key_id()
    encoded = f"{BEARER_PREFIX}{key_id.removeprefix(API_KEY_PREFIX)}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    key = ApiKey(
        id=key_id,
        owner_id=owner.pk,
        created_by_id=created_by.pk,
        name=name,
        hash=_hash(encoded),
        scopes=[scope.value for scope in Scope if scope in scopes],
        created_at=clock.now(),
        expires_at=expires_at,
    )
    _insert_into_a_slot(key)
    return Minted(key, encoded)


def revoke_key(*, user_id: str, key_id: str) -> None:
    """Refuse a key from now on. Safe to repeat. Raises ApiKeyNotFound when it is not theirs, Transient."""
    with mongodb.unavailable_is_transient():
        mine = {"_id": key_id, "owner_id": ObjectId(user_id)}
        keys = selectors.api_keys()
        keys.update_one({**mine, "revoked_at": None}, {"$set": {"revoked_at": clock.now(), "slot": None}})
        if not keys.count_documents(mine, limit=1):
            raise ApiKeyNotFound("There is no such API key.")


def read_key(encoded: str) -> KeyCaller:
    """Return who calls with this key. One query by id. Raises NotAuthenticated, Transient.

    Only who holds the secret learns why it is refused.
    """
    form = _FORM.fullmatch(encoded)
    found = selectors.find_api_key_and_owner(key_id=f"{API_KEY_PREFIX}{form[1]}") if form else None
    if found is None or not hmac.compare_digest(found[0].hash, _hash(encoded)):
        raise NotAuthenticated("The API key is not valid.")
    key, owner = found
    now = clock.now()
    if key.revoked_at is not None:
        raise NotAuthenticated("The API key has been revoked.")
    if key.expires_at <= now:
        raise NotAuthenticated("The API key has expired.")
    if owner is None or not owner.is_active:
        raise NotAuthenticated("This account cannot be used.")
    _note_use(key, now)
    _known.pop(key.hash, None)
    _known[key.hash] = str(owner.pk), time.monotonic() + KNOWN_SECONDS
    while len(_known) > KNOWN_MAX:
        _known.popitem(last=False)
    granter_id = str(key.created_by_id) if key.created_by_id != key.owner_id else None
    return KeyCaller(key.id, frozenset(key.scopes), owner, granter_id)


def find_known_owner(encoded: str) -> str | None:
    """Return whose key this is if this process has read it lately and it was good, asking nobody.

    It may have been revoked since: only `read_key` says who is calling.
    """
    owner_id, until = _known.get(_hash(encoded), (None, 0.0))
    return owner_id if time.monotonic() < until else None


def is_whole(text: str) -> bool:
    """Say whether this has the form of a key with its secret."""
    return _FORM.fullmatch(text) is not None


def _note_use(key: ApiKey, now: datetime) -> None:
    """Write down when a key was used, about once a minute; that it cannot be written stops nobody."""
    if key.last_used_at is not None and now - key.last_used_at < USE_NOTED_EVERY:
        return
    if storage.is_full():
        return
    try:
        # Of the requests of one moment one writes, and does not wait for the journal.
        keys = selectors.api_keys(lasting=False)
        keys.update_one({"_id": key.id, "last_used_at": key.last_used_at}, {"$set": {"last_used_at": now}})
    except PyMongoError as error:
        logger.warning("an API key's use was not noted", extra={"error": type(error).__name__})


def _insert_into_a_slot(key: ApiKey) -> None:
    keys, slots_max = selectors.api_keys(), settings.API_KEYS_PER_USER_MAX
    holding = {"owner_id": key.owner_id, "slot": {"$type": "string"}}
    with mongodb.unavailable_is_transient():
        keys.update_many({**holding, "expires_at": {"$lte": key.created_at}}, {"$set": {"slot": None}})
    # Each try that fails means that somebody else has filled a slot.
    for _ in range(slots_max + 1):
        with mongodb.unavailable_is_transient():
            taken = {row["slot"] for row in keys.find(holding, {"slot": 1})}
        free = [slot for n in range(slots_max) if (slot := f"{key.owner_id}:{n}") not in taken]
        if len(taken) >= slots_max or not free:
            raise TooManyApiKeys(f"There are {len(taken)} living API keys already; {slots_max} are allowed.")
        key.slot = secrets.choice(free)
        try:
            with selectors.unavailable_is_transient():
                key.save(force_insert=True)
        except IntegrityError:
            continue
        return
    raise Transient("Too many API keys are being made at this moment. Try again shortly.")


def _hash(encoded: str) -> str:
    return hashlib.sha256(encoded.encode()).hexdigest()
