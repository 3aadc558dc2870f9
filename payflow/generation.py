"""Which database this is: a restored one is another, and what Redis remembers of the former does not count.

MongoDB holds one document with the generation's id and the last tokens. A token is random. Recovery's tick
adds one, and so does whatever stores something in Redis that must not outlive a restore. Redis remembers the
newest.

Invariants:
- Redis is read before MongoDB, and a token is in MongoDB before it is in Redis. So a token that Redis has and
  MongoDB does not know means that the database has gone back: it was restored from an older copy.
- Then a new generation begins, once, whichever process finds out; and Redis forgets the former one.
- Redis may be lost or older at any moment: then there is nothing to compare, and nothing happens.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import uuid4

from mongoengine import BooleanField, DateTimeField, Document, ListField, LongField, StringField
from pymongo import ReturnDocument

from payflow import clock, metrics, redisdb
from payflow.mongodb import collection, unavailable_is_transient

logger = logging.getLogger(__name__)
KEY = "payflow:generation"
DOCUMENT_ID = "database"
TOKENS_KEPT = 100
"""A Redis that remembers an older token than these was itself restored, or lost what was newer."""
# What a new generation keeps: sessions that ended stay ended, limits stay used up, Celery's messages only say
# where to look, and the audit must know that its record is older than one seen before.
KEPT = (
    "payflow:celery:",
    "payflow:limits:",
    "payflow:ended-",
    "payflow:storage:",
    "payflow:ledger-audit-seen",
)
FORGOTTEN_AT_ONCE = 500

# Remember a token unless a newer one of the same generation is known.
_REMEMBER = """
local generation, mark = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%d+) ')
if generation ~= ARGV[1] or tonumber(mark) < tonumber(ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
end
"""


class DatabaseGeneration(Document):
    """The one document that says which database this is."""

    id = StringField(primary_key=True)
    generation = StringField()
    mark = LongField()
    """How many tokens there have been; the last of `tokens` is the newest."""
    tokens = ListField(StringField())
    began_at = DateTimeField()
    reason = StringField()
    is_accepted = BooleanField()
    """False from when a restore was found out until an operator has seen to it."""

    meta = {"collection": "database_generation", "auto_create_index": False}

    def __str__(self) -> str:
        return str(self.generation)


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest token that Redis remembers."""

    generation: str
    mark: int
    token: str


class Relation(Enum):
    """What MongoDB is to the database that Redis remembers."""

    SAME = "same"
    OTHER = "other"
    RESTORED = "restored"


def relation(seen: Seen | None, row: dict[str, Any]) -> Relation:
    """Say what the database `row` stands in is to the one that Redis has seen. Pure."""
    if seen is None:
        return Relation.SAME
    if seen.generation != row["generation"]:
        return Relation.OTHER
    age = row["mark"] - seen.mark
    if age < 0 or (age < len(row["tokens"]) and row["tokens"][-1 - age] != seen.token):
        return Relation.RESTORED
    return Relation.SAME


def look() -> bool:
    """Say whether what Redis remembers is of this database; else have Redis forget it. Raises Transient."""
    seen = _seen()
    with unavailable_is_transient():
        row = _generations().find_one({"_id": DOCUMENT_ID})
    return _settle(seen, row or _begin_first(seen))


def advance() -> bool:
    """Add a token, and `look`. What is put into Redis afterwards will be known to be newer than any copy
    of the database that was made before. Raises Transient."""
    seen, token = _seen(), uuid4().hex
    change = {"$inc": {"mark": 1}, "$push": {"tokens": {"$each": [token], "$slice": -TOKENS_KEPT}}}
    with unavailable_is_transient():
        row = _generations().find_one_and_update(
            {"_id": DOCUMENT_ID}, change, return_document=ReturnDocument.AFTER
        )
    return _settle(seen, row or _begin_first(seen))


def begin(*, reason: str) -> str:
    """Begin a new generation because an operator has restored a copy; return its id. Raises Transient."""
    fresh = _fresh(reason, is_accepted=True)
    with unavailable_is_transient():
        _generations().update_one({"_id": DOCUMENT_ID}, {"$set": fresh}, upsert=True)
    _forget(fresh)
    logger.warning("a new generation of the database begins", extra={"reason": reason})
    return str(fresh["generation"])


def accept(*, reason: str) -> bool:
    """Note that an operator has seen to a restore; say whether there was one to see to. Raises Transient."""
    query = {"_id": DOCUMENT_ID, "is_accepted": False}
    with unavailable_is_transient():
        change = {"$set": {"is_accepted": True, "reason": reason}}
        found = _generations().update_one(query, change).modified_count
    metrics.DATABASE_RESTORED.set(0)
    return found > 0


def current() -> dict[str, Any] | None:
    """Return the document, if there is one. Raises Transient."""
    with unavailable_is_transient():
        row: dict[str, Any] | None = _generations().find_one({"_id": DOCUMENT_ID}, {"tokens": 0})
    return row


def _settle(seen: Seen | None, row: dict[str, Any]) -> bool:
    """Act on what was found; say whether Redis may be believed."""
    found = relation(seen, row)
    if found is Relation.SAME:
        _remember(row)
        return True
    if found is Relation.RESTORED:
        row = _begin_restored(row)
    logger.error("Redis remembers another database and forgets it", extra={"relation": found.value})
    _forget(row)
    return False


def _begin_first(seen: Seen | None) -> dict[str, Any]:
    """Begin the first generation of a database. Where Redis remembers one, this is a copy older than any."""
    fresh = _fresh("restored, without a generation" if seen else "new", is_accepted=seen is None)
    with unavailable_is_transient():
        row: dict[str, Any] = _generations().find_one_and_update(
            {"_id": DOCUMENT_ID}, {"$setOnInsert": fresh}, upsert=True, return_document=ReturnDocument.AFTER
        )
    metrics.DATABASE_RESTORED.set(not row["is_accepted"])
    return row


def _begin_restored(former: dict[str, Any]) -> dict[str, Any]:
    """Begin a new generation unless another process has begun it; return the one that holds."""
    fresh = _fresh("restored from an older copy", is_accepted=False)
    with unavailable_is_transient():
        query = {"_id": DOCUMENT_ID, "generation": former["generation"]}
        _generations().update_one(query, {"$set": fresh})
        row = _generations().find_one({"_id": DOCUMENT_ID}) or fresh
    metrics.DATABASE_RESTORED.set(1)
    extra = {"former": former["generation"], "generation": row["generation"]}
    logger.error("the database was restored from an older copy; a new generation begins", extra=extra)
    return row


def _fresh(reason: str, *, is_accepted: bool) -> dict[str, Any]:
    return {
        "generation": uuid4().hex,
        "mark": 1,
        "tokens": [uuid4().hex],
        "began_at": clock.now(),
        "reason": reason,
        "is_accepted": is_accepted,
    }


def _generations() -> Any:
    return collection(DatabaseGeneration)


# --- Redis ------------------------------------------------------------------------------------------------


def _seen() -> Seen | None:
    with redisdb.unavailable_is_transient():
        text = str(redisdb.client().get(KEY) or "")
    generation, _, rest = text.partition(" ")
    mark, _, token = rest.partition(" ")
    return Seen(generation, int(mark), token) if mark.isascii() and mark.isdigit() else None


def _remember(row: dict[str, Any]) -> None:
    with redisdb.unavailable_is_transient():
        script = redisdb.client().register_script(_REMEMBER)
        script(keys=[KEY], args=[row["generation"], row["mark"], row["tokens"][-1]])


def _forget(row: dict[str, Any]) -> None:
    """Remove what Redis holds of another database, then remember this one."""
    with redisdb.unavailable_is_transient():
        pipeline = redisdb.client().pipeline(transaction=False)
        for key in redisdb.client().scan_iter(match="payflow:*", count=FORGOTTEN_AT_ONCE):
            if not key.startswith(KEPT):
                pipeline.unlink(key)
            if len(pipeline) >= FORGOTTEN_AT_ONCE:
                pipeline.execute()
        pipeline.execute()
    _remember(row)
