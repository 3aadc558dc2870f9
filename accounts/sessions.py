"""Sessions: families of refresh tokens in Redis, one hash per user.

`payflow:sessions:<user id>` maps a family id to `<jti>:<expiry>`, the one refresh token of that family that
is still good. What must stay true: of any number of attempts to use a refresh token exactly one succeeds; a
token used twice ends its family, for then two parties hold it (RFC 9700, 4.14.2). Losing Redis signs
everybody out and nothing else.
"""

from __future__ import annotations

import time
from typing import cast

from django.conf import settings

from payflow import redisdb
from payflow.errors import NotAuthenticated

# Drops families that are over and returns the others, the next to expire first. A user has at most
# SESSIONS_PER_USER_MAX of them, so reading them all is bounded.
_LIVING = """
local function living(key, now)
  local found, all = {}, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local expires_at = tonumber(string.match(all[i + 1], ':(%d+)$')) or 0
    if expires_at <= now then
      redis.call('HDEL', key, all[i])
    else
      found[#found + 1] = {expires_at, all[i]}
    end
  end
  table.sort(found, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  return found
end
"""

_OPEN = (
    _LIVING
    + """
local key, now, most = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local found = living(key, now)
for i = 1, #found - most + 1 do redis.call('HDEL', key, found[i][2]) end
redis.call('HSET', key, ARGV[3], ARGV[4] .. ':' .. ARGV[5])
redis.call('EXPIREAT', key, ARGV[5])
"""
)

_ROTATE = (
    _LIVING
    + """
local key, family = KEYS[1], ARGV[2]
living(key, tonumber(ARGV[1]))
local held = redis.call('HGET', key, family)
if not held then return 0 end
if string.match(held, '^(.*):%d+$') ~= ARGV[3] then
  redis.call('HDEL', key, family)
  return 0
end
redis.call('HSET', key, family, ARGV[4] .. ':' .. ARGV[5])
redis.call('EXPIREAT', key, ARGV[5])
return 1
"""
)

_KEEP_ONLY = """
for _, family in ipairs(redis.call('HKEYS', KEYS[1])) do
  if family ~= ARGV[1] then redis.call('HDEL', KEYS[1], family) end
end
"""


def open_family(*, user_id: str, family: str, jti: str, expires_at: int) -> None:
    """Start a family with its first refresh token; past the limit the one next to expire ends.

    `expires_at` is in seconds since 1970. Raises Transient when Redis does not answer.
    """
    _run(_OPEN, user_id, _now(), settings.SESSIONS_PER_USER_MAX, family, jti, expires_at)


def rotate_family(*, user_id: str, family: str, used_jti: str, next_jti: str, expires_at: int) -> None:
    """Exchange the family's refresh token for its next one.

    Raises NotAuthenticated when the family is over or `used_jti` is not its current token, which ends it;
    Transient when Redis does not answer.
    """
    if not _run(_ROTATE, user_id, _now(), family, used_jti, next_jti, expires_at):
        raise NotAuthenticated("This session is over. Sign in again.")


def close_family(*, user_id: str, family: str) -> None:
    """End one session. Raises Transient when Redis does not answer."""
    with redisdb.unavailable_is_transient():
        redisdb.client().hdel(_key(user_id), family)


def close_other_families(*, user_id: str, family: str) -> None:
    """End all sessions but one. Raises Transient when Redis does not answer."""
    _run(_KEEP_ONLY, user_id, family)


def close_all_families(*, user_id: str) -> None:
    """End all sessions. Raises Transient when Redis does not answer."""
    with redisdb.unavailable_is_transient():
        redisdb.client().delete(_key(user_id))


def _run(script: str, user_id: str, *arguments: str | int) -> int | None:
    with redisdb.unavailable_is_transient():
        result = redisdb.client().register_script(script)(keys=[_key(user_id)], args=arguments)
    return cast("int | None", result)


def _key(user_id: str) -> str:
    return f"payflow:sessions:{user_id}"


def _now() -> int:
    return int(time.time())
