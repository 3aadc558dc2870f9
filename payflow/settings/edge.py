"""What stands between clients and the views: rate limits, proxies, browsers' policies."""

from __future__ import annotations

from csp.constants import NONE

from payflow import rates, safety
from payflow.settings.base import ENVIRONMENT, IS_PRODUCTION, env

# --- Rate limits ------------------------------------------------------------------------------------------


def _usually(production: str, development: str) -> str:
    """Return a rate's default. Development is for load tests, too; tests set the limits they mean."""
    return {"production": production, "development": development}.get(ENVIRONMENT, "off")


RATE_LIMITS = rates.read_rates(
    {
        "global": ("RATE_LIMIT_GLOBAL", env.str("RATE_LIMIT_GLOBAL", default=_usually("1200/m", "300000/m"))),
        "auth": ("RATE_LIMIT_AUTH", env.str("RATE_LIMIT_AUTH", default=_usually("30/m", "6000/m"))),
        "auth_email": (
            "RATE_LIMIT_AUTH_EMAIL",
            env.str("RATE_LIMIT_AUTH_EMAIL", default=_usually("20/10m", "6000/m")),
        ),
        "transactions": (
            "RATE_LIMIT_TRANSACTIONS",
            env.str("RATE_LIMIT_TRANSACTIONS", default=_usually("300/m", "120000/m")),
        ),
        "batched": (
            "RATE_LIMIT_BATCHED",
            env.str("RATE_LIMIT_BATCHED", default=_usually("6000/m", "1200000/m")),
        ),
        "unknown_receivers": (
            "RATE_LIMIT_UNKNOWN_RECEIVERS",
            env.str("RATE_LIMIT_UNKNOWN_RECEIVERS", default=_usually("30/h", "100000/h")),
        ),
        "deposits": (
            "RATE_LIMIT_DEPOSITS",
            env.str("RATE_LIMIT_DEPOSITS", default=_usually("120/m", "120000/m")),
        ),
        "webhooks": (
            "RATE_LIMIT_WEBHOOKS",
            env.str("RATE_LIMIT_WEBHOOKS", default=_usually("30/m", "6000/m")),
        ),
    }
)
# Above these a limit guards nothing: attempts in a day of one address, for one email, and of one user.
_GUARDED_PER_DAY_MAX = {"auth": 1_000_000, "auth_email": 20_000, "unknown_receivers": 10_000}
if IS_PRODUCTION:
    safety.refuse_in_production(
        {
            "RATE_LIMIT_AUTH is off: anyone could try passwords": not RATE_LIMITS["auth"],
            "RATE_LIMIT_AUTH_EMAIL is off: anyone could try one's password": not RATE_LIMITS["auth_email"],
            "RATE_LIMIT_UNKNOWN_RECEIVERS is off: anyone could try who has an account": not RATE_LIMITS[
                "unknown_receivers"
            ],
            **{
                f"RATE_LIMIT_{group.upper()} allows more than {most} attempts a day": (
                    (rate := RATE_LIMITS[group]) is not None and rate.per_day > most
                )
                for group, most in _GUARDED_PER_DAY_MAX.items()
            },
        }
    )
RATELIMIT_USE_CACHE = "limits"
RATELIMIT_CACHE_PREFIX = "payflow:limits:"

# How many proxies of ours a request passes, each of which adds to X-Forwarded-For whom it got it from.
TRUSTED_PROXY_HOPS = env.int("TRUSTED_PROXY_HOPS", default=0)
safety.refuse_out_of_range([("TRUSTED_PROXY_HOPS", TRUSTED_PROXY_HOPS, 0, 10)])

# --- The web processes (payflow/front/) ------------------------------------------------------------------

# The Procfile reads the number of processes; the others hold for each of them.
WEB_PROCESSES = env.int("PAYFLOW_WEB_PROCESSES", default=2)
WEB_THREADS = env.int("PAYFLOW_WEB_THREADS", default=4)
# About a second of work: what comes when so many wait is refused at once (503 `overloaded`).
WEB_WAITING_MAX = env.int("PAYFLOW_WEB_WAITING_MAX", default=16 * WEB_THREADS)
WEB_WAITING_PER_CALLER_MAX = env.int(
    "PAYFLOW_WEB_WAITING_PER_CALLER_MAX", default=max(1, WEB_WAITING_MAX // 4)
)
WEB_WAIT_SECONDS_MAX = env.float("PAYFLOW_WEB_WAIT_SECONDS_MAX", default=2.0)
WEB_BODY_SECONDS_MAX = env.float("PAYFLOW_WEB_BODY_SECONDS_MAX", default=10.0)
safety.refuse_out_of_range(
    [
        ("PAYFLOW_WEB_PROCESSES", WEB_PROCESSES, 1, 64),
        ("PAYFLOW_WEB_THREADS", WEB_THREADS, 1, 64),
        ("PAYFLOW_WEB_WAITING_MAX", WEB_WAITING_MAX, 1, 10_000),
        ("PAYFLOW_WEB_WAITING_PER_CALLER_MAX", WEB_WAITING_PER_CALLER_MAX, 1, WEB_WAITING_MAX),
        # With the work itself, an answer is to come within five seconds.
        ("PAYFLOW_WEB_WAIT_SECONDS_MAX", WEB_WAIT_SECONDS_MAX, 0.1, 4),
        ("PAYFLOW_WEB_BODY_SECONDS_MAX", WEB_BODY_SECONDS_MAX, 0.1, 60),
    ]
)

# --- Browsers ---------------------------------------------------------------------------------------------

# For JSON, which needs nothing; payflow/api/headers.py has what the pages for people may do.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "base-uri": [NONE],
        "form-action": [NONE],
        "frame-ancestors": [NONE],
    }
}
# The admin's forms need the referrer: Django compares it when it guards against forged requests.
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Its heir stands in MIDDLEWARE.
SILENCED_SYSTEM_CHECKS = ["security.W001"]

# Web pages of these origins may call the API. Tokens come in a header, so no cookie is ever needed.
CORS_ALLOWED_ORIGINS = env.list("CORS_ALLOWED_ORIGINS", default=[])
if IS_PRODUCTION:
    safety.refuse_in_production(
        {"CORS_ALLOWED_ORIGINS holds what is no https origin": safety.has_unsafe_origin(CORS_ALLOWED_ORIGINS)}
    )
CORS_ALLOWED_ORIGIN_REGEXES = [] if IS_PRODUCTION else [r"\Ahttp://(localhost|127\.0\.0\.1)(:[0-9]{1,5})?\Z"]
CORS_ALLOW_CREDENTIALS = False
CORS_URLS_REGEX = r"\A/(?!admin/)"
CORS_ALLOW_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
CORS_ALLOW_HEADERS = (
    "authorization",
    "content-type",
    "idempotency-key",
    "x-idempotency-key",
    "prefer",
    "x-correlation-id",
    "x-request-id",
)
CORS_EXPOSE_HEADERS = (
    "Location",
    "Retry-After",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Idempotent-Replayed",
    "Preference-Applied",
    "X-Correlation-Id",
)
CORS_PREFLIGHT_MAX_AGE = 7_200
