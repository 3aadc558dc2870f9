"""Sessions: families of refresh tokens in Redis, one hash per user.

`payflow:sessions:<user id>` maps a family id to `<jti> <expiry> <opened> <used> <address> <user agent>`: the
one refresh token of that family that is still good, and where it was last used. What must stay true: of any
number of attempts to use a refresh token exactly one succeeds; a token used twice ends its family, for then
two parties hold it (RFC 9700, 4.14.2). Losing Redis signs everybody out and nothing else.

`payflow:ended-sessions` holds the families that ended while an access token of theirs may still live, scored
by when they ended, in milliseconds of Redis's own clock. Once a second every process reads what is new there,
remembers it whatever Redis loses, and refuses those tokens; while Redis does not answer, a session that ended
elsewhere keeps its access token for the minutes that the token has. There is no limit on their number that
somebody could reach to push others out: a session must have been opened before it can end, which costs a
password hash, and it is forgotten once its last access token has expired.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from django.conf import settings

from accounts.tokens import AccessToken
from payflow import generation, redisdb, storage
from payflow.errors import NotAuthenticated, Transient

USER_AGENT_LENGTH_MAX = 200
ENDED_READ_EVERY_SECONDS = 1.0
# Read again each time, in case the clock of Redis is set back a little.
_ENDED_OVERLAP_MS = 5_000
_ENDED_KEY = "payflow:ended-sessions"
_NOT_PRINTABLE = re.compile(r"[^ -~]+")
_ADDRESS = re.compile(r"[0-9A-Fa-f:./]{2,50}")
_STORED = re.compile(r"\S+ (\d+) (\d+) (\d+) (\S+) (.*)", re.ASCII)

# A user has at most SESSIONS_PER_USER_MAX families, so reading them all is bounded.
_PRELUDE = """
local key, ended, now = KEYS[1], KEYS[2], tonumber(ARGV[1])

local function finish(family)
  if redis.call('HDEL', key, family) == 0 then return 0 end
  local at = redis.call('TIME')
  local ms = at[1] * 1000 + math.floor(at[2] / 1000)
  redis.call('ZREMRANGEBYSCORE', ended, '-inf', string.format('(%.0f', ms - ARGV[2] * 1000))
  redis.call('ZADD', ended, string.format('%.0f', ms), family)
  redis.call('EXPIRE', ended, ARGV[2])
  return 1
end

-- Drops families that are over, or of a form of long ago, and returns the others, the next to expire first.
local function living()
  local found, all = {}, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local expires_at = tonumber(string.match(all[i + 1], '^%S+ (%d+) %d+ %d+ ')) or 0
    if expires_at <= now then
      redis.call('HDEL', key, all[i])
    else
      found[#found + 1] = {expires_at, all[i]}
    end
  end
  table.sort(found, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  return found
end

local function store(family, jti, expires_at, opened, device)
  redis.call('HSET', key, family, table.concat({jti, expires_at, opened, now, device}, ' '))
  redis.call('EXPIREAT', key, expires_at)
end
"""

_OPEN = (
    _PRELUDE
    + """
local found = living()
for i = 1, #found - ARGV[3] + 1 do finish(found[i][2]) end
store(ARGV[4], ARGV[5], ARGV[6], now, ARGV[7])
"""
)

_ROTATE = (
    _PRELUDE
    + """
living()
local held = redis.call('HGET', key, ARGV[3])
if not held then return 0 end
local jti, opened = string.match(held, '^(%S+) %d+ (%d+) ')
-- The client sends this again when no reply came: the exchange has been made.
if jti == ARGV[5] then return 1 end
if jti ~= ARGV[4] then
  finish(ARGV[3])
  return 0
end
store(ARGV[3], ARGV[5], ARGV[6], opened, ARGV[7])
return 1
"""
)

# Returns the clock of Redis in milliseconds and what has ended since ARGV[1] of it. Where the clock stands
# before ARGV[1] it is another server's, and everything is read.
_READ_ENDED = """
local at = redis.call('TIME')
local ms = at[1] * 1000 + math.floor(at[2] / 1000)
local since = tonumber(ARGV[1])
if since > ms then since = 0 end
return {string.format('%.0f', ms), redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', since), '+inf')}
"""

_CLOSE = _PRELUDE + "living() return finish(ARGV[3])"

_KEEP_ONLY = (
    _PRELUDE
    + """
for _, family in ipairs(redis.call('HKEYS', key)) do
  if family ~= ARGV[3] then finish(family) end
end
"""
)


@dataclass(frozen=True)
class Device:
    """Where a session is used from, as far as it says; bounded and printable whatever was sent."""

    address: str = ""
    user_agent: str = ""

    def stored(self) -> str:
        """Return the end of what is stored: an address without spaces, then the user agent."""
        address = self.address if _ADDRESS.fullmatch(self.address) else "-"
        return f"{address} {_NOT_PRINTABLE.sub('?', self.user_agent)[:USER_AGENT_LENGTH_MAX].strip()}"


@dataclass(frozen=True)
class Session:
    """An open session. Times are in seconds since 1970."""

    family: str
    opened_at: int
    used_at: int
    """When it was opened or last refreshed."""
    expires_at: int
    device: Device


def open_family(
    *, user_id: str, family: str, jti: str, expires_at: int, device: Device | None = None
) -> None:
    """Start a family with its first refresh token; past the limit the one next to expire ends.

    `expires_at` is in seconds since 1970. Raises Transient when Redis does not answer.
    """
    where = (device or Device()).stored()
    if not storage.is_full():
        # No copy of the database that was made before this may stand beside this session.
        generation.advance()
    _run(_OPEN, user_id, settings.SESSIONS_PER_USER_MAX, family, jti, expires_at, where)


def rotate_family(
    *, user_id: str, family: str, used_jti: str, next_jti: str, expires_at: int, device: Device | None = None
) -> None:
    """Exchange the family's refresh token for its next one.

    Raises NotAuthenticated when the family is over or `used_jti` is not its current token, which ends it;
    Transient when Redis does not answer.
    """
    where = (device or Device()).stored()
    generation.look()
    if not _run(_ROTATE, user_id, family, used_jti, next_jti, expires_at, where):
        raise NotAuthenticated("This session is over. Sign in again.")


def list_families(*, user_id: str) -> list[Session]:
    """Return a user's open sessions, the last used first. Raises Transient when Redis does not answer."""
    with redisdb.unavailable_is_transient():
        stored = cast("dict[str, str]", redisdb.client().hgetall(_key(user_id)))
    found = [_read(family, value) for family, value in stored.items()]
    living = [session for session in found if session and session.expires_at > _now()]
    return sorted(
        living, key=lambda session: (session.used_at, session.opened_at, session.family), reverse=True
    )


def close_family(*, user_id: str, family: str) -> bool:
    """End one session; say whether there was one. Raises Transient when Redis does not answer."""
    return bool(_run(_CLOSE, user_id, family))


def close_other_families(*, user_id: str, family: str) -> None:
    """End all sessions but one. Raises Transient when Redis does not answer."""
    _run(_KEEP_ONLY, user_id, family)


def close_all_families(*, user_id: str) -> None:
    """End all sessions. Raises Transient when Redis does not answer."""
    _run(_KEEP_ONLY, user_id, "")


class _Ended:
    """The families that ended of late, as far as this process has read; by when they may be forgotten."""

    families: Mapping[str, float] = {}
    read_at = float("-inf")
    read_until_ms = 0
    """Up to when, on the clock of Redis."""


def is_ended(family: str) -> bool:
    """Say whether a session was ended before its access tokens were: at once here, elsewhere within
    ENDED_READ_EVERY_SECONDS. Asks Redis no more often than that, and believes the token when it is silent."""
    now = time.monotonic()
    if now - _Ended.read_at >= ENDED_READ_EVERY_SECONDS and not redisdb.is_spared():
        # Before the answer, so that not every thread asks.
        _Ended.read_at = now
        with suppress(Transient), redisdb.unavailable_is_transient():
            since_ms = max(0, _Ended.read_until_ms - _ENDED_OVERLAP_MS)
            read_until_ms, found = redisdb.client().register_script(_READ_ENDED)(
                keys=[_ENDED_KEY], args=[since_ms]
            )
            _Ended.families = _still_to_refuse(cast("list[str]", found))
            _Ended.read_until_ms = int(read_until_ms)
    return family in _Ended.families


def _still_to_refuse(found: Iterable[str]) -> dict[str, float]:
    """Return what was found beside what was known before, which Redis may have lost since."""
    now = _now()
    until = now + _access_seconds()
    living = {family: end for family, end in _Ended.families.items() if end > now}
    return {**dict.fromkeys(found, until), **living}


def _access_seconds() -> int:
    """Return how long an access token may be accepted, by whichever clock of ours."""
    return int(AccessToken.lifetime.total_seconds()) + 2 * settings.JWT_LEEWAY_SECONDS


def _read(family: str, value: str) -> Session | None:
    found = _STORED.fullmatch(value)
    if found is None:
        return None
    expires_at, opened_at, used_at, address, user_agent = found.groups()
    device = Device("" if address == "-" else address, user_agent)
    return Session(family, int(opened_at), int(used_at), int(expires_at), device)


def _run(script: str, user_id: str, *arguments: str | int) -> int | None:
    with redisdb.unavailable_is_transient():
        result = redisdb.client().register_script(script)(
            keys=[_key(user_id), _ENDED_KEY], args=[_now(), _access_seconds(), *arguments]
        )
    _Ended.read_at = float("-inf")
    return cast("int | None", result)


def _key(user_id: str) -> str:
    return f"payflow:sessions:{user_id}"


def _now() -> int:
    return int(time.time())
