"""Idempotency keys: what a key has done is remembered in Redis for a day, and replayed to whoever repeats it.

What must stay true: one key of one user at one endpoint belongs to one request at a time; that claim ends
with the process that holds it; only its holder stores an answer; only the user it was given to can get it
back. Redis may lose all of this: where money moves, the key is also written beside it, in MongoDB.

A slot is a Redis hash `payflow:idempotency:<key>:<digest>`, the digest made of user, method, path and key.
While `owner` stands in it the request runs; once `answer` does it is over. `payflow:idempotency:<key>`
names the slots of a key, for staff.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from django.conf import settings
from rest_framework.request import Request

from payflow import circuits, generation, leases, redisdb, sealed
from payflow.canonical import canonical_json
from payflow.errors import IdempotencyInProgress, IdempotencyKeyReused, Refused, Transient
from payflow.ids import new_id

logger = logging.getLogger(__name__)
HEADERS = ("Idempotency-Key", "X-Idempotency-Key")
REPLAYED_HEADER = "Idempotent-Replayed"
SLOTS_PER_KEY_MAX = 100
PATH_SHOWN_MAX = 200
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_PREFIX = "payflow:idempotency"
_SALT = "payflow.idempotency"

# Look up and claim in one step. Returns nothing when the slot is now ours, else its fingerprint and answer.
# What is no slot of ours, or holds the answer that the caller could not read (ARGV[3]), counts as not there.
# An own claim is there when the client has sent this twice because no reply came.
_CLAIM = """
local found = redis.pcall('HMGET', KEYS[1], 'fingerprint', 'owner', 'answer')
if not found.err then
  if found[2] == ARGV[1] then return false end
  local is_whole = found[1] and (found[2] or found[3])
  for i = 1, 3 do
    if found[i] and not string.find(found[i], '^[%w_=-]+$') then is_whole = false end
  end
  if is_whole and found[3] ~= ARGV[3] then return {found[1], found[3] or ''} end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fingerprint', ARGV[4], 'at', ARGV[5], 'user_id', ARGV[6],
           'method', ARGV[7], 'path', ARGV[8])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.pcall('ZADD', KEYS[2], ARGV[5], KEYS[1])
redis.pcall('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[9]))
redis.pcall('EXPIRE', KEYS[2], ARGV[10])
return false
"""

_STORE = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'owner')
redis.call('HSET', KEYS[1], 'answer', ARGV[2], 'status', ARGV[3], 'bytes', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
"""

_RELEASE = """
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class MalformedKey(Refused):
    """The Idempotency-Key header cannot be used."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request with a key: whose, where, and a digest of what it asks for."""

    key: str
    user_id: str
    method: str
    path: str
    fingerprint: str
    former_fingerprints: tuple[str, ...] = ()
    """The same request's digests under former secret keys."""

    @property
    def slot(self) -> str:
        """Return the Redis key of what is known about it."""
        scope = json.dumps([self.user_id, self.method, self.path, self.key])
        return f"{_index(self.key)}:{hashlib.sha256(scope.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer, as it is stored and replayed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Say whether it tells of something done."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry a request out; it lapses with this process."""

    slot: str
    token: str

    def end(self, answer: Answer | None, *, is_kept_elsewhere: bool = False) -> None:
        """Store the answer if the claim still holds, or free the key for the next try where there is none.

        Redis may be gone by now. The answer is right all the same, and the claim ends by itself. Unless the
        key is kept elsewhere, too, Redis is asked even while it counts as away.
        """
        leases.let_go(self.token)
        try:
            with nullcontext() if is_kept_elsewhere else circuits.insisting():
                self._end(answer, is_kept_elsewhere=is_kept_elsewhere)
        except Transient:
            logger.warning("the end of an idempotency key was not stored")

    def _end(self, answer: Answer | None, *, is_kept_elsewhere: bool) -> None:
        if answer is None:
            _run(_RELEASE, [self.slot], self.token)
            return
        if not (is_kept_elsewhere and answer.is_success):
            # No copy of the database that was made before this may stand beside this answer.
            generation.advance()
        if not self._store(answer):
            logger.warning("an idempotency key was lost before its answer could be stored")

    def _store(self, answer: Answer) -> bool:
        text = json.dumps([answer.status, dict(answer.headers)]).encode() + b"\n" + answer.body
        secret = sealed.seal(text, purpose=f"{_SALT} {self.slot}")
        size, kept = len(answer.body), settings.IDEMPOTENCY_STORED_SECONDS
        return bool(_run(_STORE, [self.slot], self.token, secret, answer.status, size, kept))


def key_of(request: Request) -> str | None:
    """Return the request's idempotency key, or None. Raises MalformedKey when it has another form."""
    sent = {request.headers[name] for name in HEADERS if name in request.headers}
    if not sent:
        return None
    if len(sent) > 1:
        raise MalformedKey(f"{HEADERS[0]} and {HEADERS[1]} differ; send one of them.")
    key = sent.pop()
    if not _KEY.fullmatch(key):
        raise MalformedKey("An idempotency key is 1 to 64 characters of A-Z, a-z, 0-9, _ and -.")
    return key


def is_key(text: str) -> bool:
    """Say whether this could be somebody's idempotency key."""
    return _KEY.fullmatch(text) is not None


def fingerprint(request_data: Mapping[str, Any]) -> str:
    """Return a digest of what was asked for, the same for any order of fields."""
    canonical = json.dumps(request_data, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def asked_by(request: Request, key: str) -> Asked:
    """Return what an authenticated request asks for. Raises what reading its body raises.

    Beside the body the query says what is meant; `Prefer` only says how long to wait for the answer.
    """
    meant = canonical_json([request.META.get("QUERY_STRING", ""), request.data]).encode()
    # Keyed: the digest stands in the clear, and a body may hold a password that could be guessed from it.
    current, *former = (
        hmac.new(_digest_key(secret), meant, hashlib.sha256).hexdigest()
        for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    )
    user_id = str(request.user.id)
    return Asked(key, user_id, str(request.method), request.path, current, tuple(former))


@lru_cache(maxsize=16)
def _digest_key(secret: str) -> bytes:
    return sealed.derive(secret, f"{_SALT} fingerprint")


def claim(asked: Asked, *, holds: Callable[[Answer], bool] = lambda _answer: True) -> Claim | Answer:
    """Claim the key for this request, or return the answer that an earlier one got.

    An answer of which `holds` says no counts as not there: the database knows nothing of it.
    Raises IdempotencyInProgress, IdempotencyKeyReused, and Transient when Redis does not answer.
    """
    mine = Claim(asked.slot, new_id("own"))
    found = _claim(asked, mine.token)
    if found is None:
        return _held(mine)
    used_for, secret = found
    answer = _read(asked.slot, secret) if secret else None
    if answer is not None and not holds(answer):
        answer = None
    if secret and answer is None:
        # It cannot be read any more, or is of a database that was replaced: it belongs to no request.
        if (found := _claim(asked, mine.token, unreadable=secret)) is None:
            return _held(mine)
        raise IdempotencyInProgress
    if not any(hmac.compare_digest(used_for, own) for own in (asked.fingerprint, *asked.former_fingerprints)):
        raise IdempotencyKeyReused
    if answer is None:
        raise IdempotencyInProgress
    return answer


def _held(mine: Claim) -> Claim:
    leases.hold(mine.slot, mine.token)
    return mine


def _claim(asked: Asked, token: str, unreadable: str = "") -> tuple[str, str] | None:
    found = _run(
        _CLAIM, [asked.slot, _index(asked.key)],
        token, round(settings.IDEMPOTENCY_LEASE_SECONDS * 1000), unreadable, asked.fingerprint, time.time(),
        asked.user_id, asked.method, asked.path[:PATH_SHOWN_MAX],
        SLOTS_PER_KEY_MAX, settings.IDEMPOTENCY_STORED_SECONDS,
    )  # fmt: skip
    return None if found is None else (found[0], found[1])


def _read(slot: str, secret: str) -> Answer | None:
    text = sealed.unseal(secret, purpose=f"{_SALT} {slot}")
    if text is None:
        return None
    head, _, body = text.partition(b"\n")
    try:
        status, headers = json.loads(head)
        return Answer(int(status), {str(name): str(value) for name, value in headers.items()}, body)
    except (ValueError, TypeError, AttributeError):
        return None


def _index(key: str) -> str:
    return f"{_PREFIX}:{key}"


def _run(script: str, keys: list[str], *arguments: str | float) -> Any:
    with redisdb.unavailable_is_transient():
        return redisdb.client().register_script(script)(keys=keys, args=arguments)


# --- For staff --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """What Redis knows of one use of a key. Nothing of it is secret: of bodies there is a digest."""

    user_id: str
    method: str
    path: str
    fingerprint: str
    at: float
    """Seconds since 1970."""
    status: int | None
    """Of the stored answer; None while the request is in progress."""
    answer_bytes: int | None
    expires_in_seconds: float


def find_uses(key: str) -> list[Known]:
    """Return what Redis knows of a key: its newest uses, SLOTS_PER_KEY_MAX at most. Raises Transient."""
    with redisdb.unavailable_is_transient():
        slots = cast("list[str]", redisdb.client().zrevrange(_index(key), 0, SLOTS_PER_KEY_MAX - 1))
        pipeline = redisdb.client().pipeline(transaction=False)
        for slot in slots:
            pipeline.hmget(slot, "user_id", "method", "path", "fingerprint", "at", "status", "bytes")
            pipeline.pttl(slot)
        replies = pipeline.execute()
    rows = zip(replies[::2], replies[1::2], strict=True)
    return [_known(fields, left_ms) for fields, left_ms in rows if fields[0] is not None and left_ms > 0]


def _known(fields: list[str], left_ms: int) -> Known:
    user_id, method, path, digest, at, status, size = fields
    return Known(
        user_id, method, path, digest, float(at),
        int(status) if status else None, int(size) if size else None, left_ms / 1000,
    )  # fmt: skip
