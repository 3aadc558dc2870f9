"""Rate limits: how often who may ask, per group of endpoints (RATE_LIMITS in the settings).

`global` counts every request, `auth` what deals with passwords and tokens, `auth_email` the same for each
email that is named, `batched` the transfers in batches, the others as their names say. Counted is the user
where there is one, else the client's address. What must stay true: a request is counted once in each of its
groups, also when nobody is behind it; of N allowed in a window exactly N pass, however many come at once.
Without Redis nobody is counted: money and reading go on, and what guards passwords stays shut.
"""

from __future__ import annotations

import math
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.core.cache import caches
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django_ratelimit.core import get_usage
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from payflow import metrics
from payflow.api import problems
from payflow.api.addresses import client_network
from payflow.api.middleware import HTML_PREFIX
from payflow.errors import Refused, Transient
from payflow.text import email_spelling

if TYPE_CHECKING:
    # It names this module's throttle in its settings, so it cannot be imported first.
    from rest_framework.views import APIView

GLOBAL, AUTH, AUTH_EMAIL = "global", "auth", "auth_email"
UNKNOWN_RECEIVERS = "unknown_receivers"
# What a limit counts, where that is not requests.
COUNTED = {UNKNOWN_RECEIVERS: "receivers that cannot be paid may be named (limit unknown_receivers)"}
SHUT_WITHOUT_REDIS = frozenset({AUTH, AUTH_EMAIL})
# Machines of our own ask these, often all from one address.
UNCOUNTED = re.compile(r"/(health|health/live|health/ready|metrics|static/.*)", re.DOTALL)
ADMIN_LOGIN = "/admin/login/"
_EMAIL_LENGTH_MAX = 1_000
SPENT_MAX = 10_000


class RateLimited(Refused):
    """More requests came than are allowed in this time."""

    code = "rate_limited"
    status = 429
    title = "Too many requests"
    advice = "Wait as many seconds as `Retry-After` says, then send it again; spread requests out."


class Limit(NamedTuple):
    """Somebody who is counted in a group."""

    group: str
    who: str


class Usage(NamedTuple):
    """How far a limit is used with a request, had it passed; it begins anew after `reset_seconds`."""

    group: str
    limit: int
    used: int
    cost: int
    reset_seconds: int

    @property
    def is_exceeded(self) -> bool:
        """Return whether the request does not pass, and was not counted."""
        return self.used > self.limit

    @property
    def remaining(self) -> int:
        """Return how many more requests would pass."""
        return self.limit - self.used + (self.cost if self.is_exceeded else 0)


# Who has used up `global`, as far as this process has seen, and until when.
_spent: dict[str, tuple[Usage, float]] = {}


class GroupLimits(BaseThrottle):
    """DRF's throttle: counts a request in `global` and in what its view's `limits` says of its action."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Return True. Raises RateLimited, or Transient where an endpoint stays shut without Redis."""
        who = who_of(request)
        limits = [Limit(GLOBAL, who)]
        group = getattr(view, "limits", {}).get(getattr(view, "action", None))
        if group:
            limits.append(Limit(group, who))
        watched = getattr(view, "watched_limits", {}).get(getattr(view, "action", None))
        count(request._request, limits, watched=[Limit(watched, who)] if watched else [])
        # Afterwards: who is refused already shuts nobody else out.
        if getattr(view, "action", None) in getattr(view, "naming_emails", ()):
            count(request._request, _named(request.data.get("email")))
        return True


class LimitsMiddleware:
    """Counts who never came as far as a view's throttle, and puts the headers on every answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer; what was refused or not found before it was counted counts for its user, if it has
        one that is known, else for its address."""
        try:
            if _is_admin_login(request):
                count(request, [Limit(AUTH, _address_of(request))])
            response = self._get_response(request)
            if not hasattr(request, "rate_usage"):
                count(request, [Limit(GLOBAL, getattr(request, "counted_as", None) or _address_of(request))])
        except (Refused, Transient) as error:
            response = problems.answer(error)
        usage: Usage | None = getattr(request, "rate_usage", None)
        if usage:
            response["RateLimit-Limit"] = str(usage.limit)
            response["RateLimit-Remaining"] = str(usage.remaining)
            response["RateLimit-Reset"] = str(usage.reset_seconds)
        return response

    def process_view(self, request: HttpRequest, *view: object) -> HttpResponseBase | None:
        """Count who has not signed in to the admin, nobody else there, and the email that its login names,
        once its body is known to be short enough to read."""
        if not request.path.startswith(HTML_PREFIX):
            return None
        try:
            count(request, [] if request.user.is_authenticated else [Limit(GLOBAL, _address_of(request))])
            if _is_admin_login(request):
                count(request, _named(_username_of(request)))
        except (Refused, Transient) as error:
            return problems.answer(error)
        return None


def count(
    request: HttpRequest, limits: Sequence[Limit], cost: int = 1, *, watched: Sequence[Limit] = ()
) -> None:
    """Count a request as `cost` in each of its limits, and keep its tightest on it.

    What is only watched is looked up in the same round trip, for `count_part`. Raises RateLimited when one is
    used up, and Transient when Redis does not answer and one of the groups stays shut without it.
    """
    earlier: Usage | None = getattr(request, "rate_usage", None)
    request.rate_usage = earlier
    if UNCOUNTED.fullmatch(request.path):
        return
    limits = [limit for limit in limits if settings.RATE_LIMITS[limit.group]]
    watched = [limit for limit in watched if settings.RATE_LIMITS[limit.group]]
    if not limits and not watched:
        return
    try:
        usages = _count(request, [*limits, *watched], [cost] * len(limits) + [0] * len(watched))
    except Transient:
        if SHUT_WITHOUT_REDIS.isdisjoint(limit.group for limit in limits):
            return
        raise
    request.watched_usages = {usage.group: usage for usage in usages[len(limits) :]}
    del usages[len(limits) :]
    if not usages:
        return
    seen = [*usages, earlier] if earlier else usages
    tightest = min(seen, key=lambda usage: (usage.remaining, -usage.reset_seconds))
    request.rate_usage = tightest
    exceeded = [usage for usage in usages if usage.is_exceeded]
    for limit, usage in zip(limits, usages, strict=True):
        if usage in exceeded and limit.group == GLOBAL:
            _note_spent(limit.who, usage)
    for usage in exceeded:
        metrics.RATE_LIMITED.labels(usage.group).inc()
    if exceeded:
        raise _refusal(max(exceeded, key=lambda usage: usage.reset_seconds))


def refuse_spent(request: Request, user_id: str | None) -> None:
    """Raise RateLimited for a user, else an address, that this process has seen use up `global`. Asks nobody.

    For credentials that cost a query: without it each would cost that, refused or not.
    """
    who = _user(user_id) if user_id else _address_of(request)
    usage, until = _spent.get(who, (None, 0.0))
    left = until - time.monotonic()
    if usage and left > 0:
        request._request.counted_as = who
        raise _refusal(usage._replace(reset_seconds=math.ceil(left)))


def _note_spent(who: str, usage: Usage) -> None:
    now = time.monotonic()
    if len(_spent) >= SPENT_MAX:
        for other, (_, until) in list(_spent.items()):
            if until <= now:
                _spent.pop(other, None)
    if len(_spent) < SPENT_MAX:
        _spent[who] = usage, now + usage.reset_seconds


def count_in(request: Request, group: str, cost: int) -> None:
    """Count as `cost` in one more group what a request turned out to ask for. Raises as `count` does."""
    count(request._request, [Limit(group, who_of(request))], cost)


class Part(NamedTuple):
    """How much of a cost was counted, how much more would be, and what the rest is refused with."""

    counted: int
    left: int
    refusal: Refused


def count_part(request: Request, group: str, cost: int) -> Part:
    """Count in a watched group as much of a cost as fits: all of it where it is off, or without Redis."""
    every = Part(cost, sys.maxsize, RateLimited("This is not limited."))
    usage: Usage | None = getattr(request._request, "watched_usages", {}).get(group)
    if usage is None:
        return every
    fits = cost
    while fits > 0:
        try:
            (usage,) = _count(request._request, [Limit(group, who_of(request))], [fits])
        except Transient:
            return every
        if not usage.is_exceeded:
            break
        fits = max(0, min(usage.remaining, fits - 1))
    left = usage.remaining if fits or not cost else 0
    if not left:
        metrics.RATE_LIMITED.labels(group).inc()
    return Part(fits, max(0, left), _refusal(usage))


def _count(request: HttpRequest, limits: Sequence[Limit], costs: Sequence[int]) -> list[Usage]:
    found = [
        get_usage(
            request,
            group=limit.group,
            key=lambda group, request, who=limit.who: who,
            rate=settings.RATE_LIMITS[limit.group],
            increment=True,
        )
        for limit in limits
    ]
    counts = caches[settings.RATELIMIT_USE_CACHE].count_noted(costs, [usage["limit"] for usage in found])
    # The window's last second belongs to it.
    return [
        Usage(limit.group, usage["limit"], counted, cost, usage["time_left"] + 1)
        for limit, usage, counted, cost in zip(limits, found, counts, costs, strict=True)
    ]


def _refusal(usage: Usage) -> RateLimited:
    seconds = settings.RATE_LIMITS[usage.group].seconds
    what = COUNTED.get(usage.group, "such requests are allowed")
    error = RateLimited(
        f"At most {usage.limit} {what} in {seconds} seconds."
        f" Wait {usage.reset_seconds} seconds, then try again."
    )
    error.headers = {"Retry-After": str(usage.reset_seconds)}
    return error


def who_of(request: Request) -> str:
    """Return whom a request counts for once its credentials are read."""
    return _user(request.user.id) if request.user else _address_of(request)


def _address_of(request: HttpRequest | Request) -> str:
    return f"address:{client_network(request.META)}"


def _user(user_id: str) -> str:
    return f"user:{user_id}"


def _username_of(request: HttpRequest) -> str | None:
    try:
        return request.POST.get("username")
    except (TypeError, ValueError) as error:  # what the standard library makes of some parts' headers
        raise Refused("The form cannot be read.") from error


def _is_admin_login(request: HttpRequest) -> bool:
    return request.method == "POST" and request.path == ADMIN_LOGIN


def _named(email: Any) -> list[Limit]:
    """Return the limit of an email, in the one spelling that accounts know it by, if there is one.

    Spellings that look the same (Unicode NFKC) count as one.
    """
    if not isinstance(email, str):
        return []
    spelling = email_spelling(unicodedata.normalize("NFKC", email))
    return [Limit(AUTH_EMAIL, f"email:{spelling}")] if len(spelling) <= _EMAIL_LENGTH_MAX else []
