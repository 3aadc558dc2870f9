"""What the other settings stand on: secrets, where data lives, and what production refuses."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

from payflow import safety
from payflow.settings import servers
from payflow.stack.paths import mongo_uri

BASE_DIR = Path(__file__).resolve().parents[2]


class _Env(environ.Env):
    """Reads a value in one way or not at all.

    `environ` drops from a float what is no digit, takes any unknown word for false, and any script's digits.
    """

    def get_value(self, var: str, *given: Any, **named: Any) -> Any:
        """Read a variable. An unreadable one is named, without its value."""
        try:
            return super().get_value(var, *given, **named)
        except _NotAFlag as error:
            raise ImproperlyConfigured(f"{var} is neither true nor false.") from error
        except ValueError as error:
            raise ImproperlyConfigured(f"{var} is not a number.") from error

    @classmethod
    def parse_value(cls, value: str, cast: Any) -> Any:
        """Return the value that the text stands for. Raises ValueError."""
        if isinstance(cast, list):
            return [cls.parse_value(part, cast[0]) for part in value.split(",") if part]
        if cast in (int, float):
            pattern = _WHOLE if cast is int else _DECIMAL
            if not pattern.fullmatch(value):
                raise ValueError("not a number in plain digits")
            return cast(value)
        if cast is bool:
            if value.lower() not in _FLAGS:
                raise _NotAFlag
            return _FLAGS[value.lower()]
        return super().parse_value(value, cast)


class _NotAFlag(ValueError):  # noqa: N818 - it reads as what happened
    """The text is not a word for true or false."""


_WHOLE = re.compile(r"-?[0-9]{1,15}", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
_FLAGS = {
    **dict.fromkeys(("true", "on", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "off", "no", "n", "0", ""), False),
}


env = _Env()
env.read_env(str(BASE_DIR / ".env"))

ENVIRONMENTS = ("production", "development", "test")
ENVIRONMENT = env.str("PAYFLOW_ENV", default="production")
if ENVIRONMENT not in ENVIRONMENTS:
    raise ImproperlyConfigured(
        f"PAYFLOW_ENV is {ENVIRONMENT!r}; it must be one of {', '.join(ENVIRONMENTS)}."
    )
IS_PRODUCTION = ENVIRONMENT == "production"

VERSION = "0.1.0"
DEBUG = env.bool("PAYFLOW_DEBUG", default=False)

# --- Secrets ----------------------------------------------------------------------------------------------

SECRET_KEY = env.str("DJANGO_SECRET_KEY", default="" if IS_PRODUCTION else safety.DEVELOPMENT_SECRET)
# Former secret keys: what they have sealed and signed still holds.
SECRET_KEY_FALLBACKS = env.list("DJANGO_SECRET_KEY_FALLBACKS", default=[])
JWT_SIGNING_KEY = env.str(
    "JWT_SIGNING_KEY", default="" if IS_PRODUCTION else safety.DEVELOPMENT_SECRET + "-jwt"
)
# Keys that verify tokens and sign none: the former ones, and the next one (docs/operations.md).
JWT_SIGNING_KEY_FALLBACKS = env.list("JWT_SIGNING_KEY_FALLBACKS", default=[])
# How far the clocks of our machines may differ (docs/guarantees.md). Whatever compares a time of one machine
# with the clock of another leaves room for this.
CLOCK_SKEW_SECONDS_MAX = env.float("CLOCK_SKEW_SECONDS_MAX", default=10.0)
JWT_LEEWAY_SECONDS = env.int("JWT_LEEWAY_SECONDS", default=math.ceil(CLOCK_SKEW_SECONDS_MAX))
safety.refuse_out_of_range(
    [
        ("CLOCK_SKEW_SECONDS_MAX", CLOCK_SKEW_SECONDS_MAX, 0, 15),
        ("JWT_LEEWAY_SECONDS", JWT_LEEWAY_SECONDS, 0, 60),
    ]
)

# --- Receipts ---------------------------------------------------------------------------------------------

RECEIPT_ISSUER = env.str("RECEIPT_ISSUER", default="payflow")


# The first key signs receipts; the others are only published, so that what they have signed stays valid.
RECEIPT_SIGNING_KEYS, _RECEIPT_KEYS_FAULT = safety.read_receipt_keys(
    env.list("RECEIPT_SIGNING_KEYS", default=[]), is_production=IS_PRODUCTION
)

# --- Webhooks ---------------------------------------------------------------------------------------------

# The first key seals the secrets of webhooks; all of them open.
WEBHOOK_SECRET_KEYS, _SEALING_KEYS_FAULT = safety.read_sealing_keys(
    env.list("WEBHOOK_SECRET_KEYS", default=[]), is_production=IS_PRODUCTION
)
# For development: endpoints on this machine, and without TLS.
WEBHOOK_ALLOW_LOCALHOST = env.bool("WEBHOOK_ALLOW_LOCALHOST", default=not IS_PRODUCTION)
WEBHOOK_ALLOW_HTTP = env.bool("WEBHOOK_ALLOW_HTTP", default=not IS_PRODUCTION)

# --- The ledger -------------------------------------------------------------------------------------------

# The first key makes the MACs of new ledger entries and of the audit's state; all of them verify. MongoDB
# never has them.
LEDGER_KEYS, _LEDGER_KEYS_FAULT = safety.read_ledger_keys(
    env.list("LEDGER_KEYS", default=[]),
    is_production=IS_PRODUCTION,
    other_secrets={
        "DJANGO_SECRET_KEY": [SECRET_KEY, *SECRET_KEY_FALLBACKS],
        "JWT_SIGNING_KEY": [JWT_SIGNING_KEY, *JWT_SIGNING_KEY_FALLBACKS],
        "RECEIPT_SIGNING_KEYS": [
            key.private.private_bytes_raw() for key in RECEIPT_SIGNING_KEYS.keys if key.private
        ],
        "WEBHOOK_SECRET_KEYS": WEBHOOK_SECRET_KEYS,
    },
)

# --- Who may deposit --------------------------------------------------------------------------------------

DEPOSITS_OPEN = env.bool("DEPOSITS_OPEN", default=not IS_PRODUCTION)
# What one user may deposit in a day (UTC) and a currency, in whole units of the currency; None: any amount.
_DEPOSITS_PER_DAY = env.str("DEPOSITS_PER_DAY_MAX", default="100000" if IS_PRODUCTION else "off")
DEPOSITS_PER_DAY_MAX = safety.read_whole_number("DEPOSITS_PER_DAY_MAX", _DEPOSITS_PER_DAY, highest=10**9)
if IS_PRODUCTION:
    safety.refuse_in_production({"DEPOSITS_PER_DAY_MAX is off": DEPOSITS_PER_DAY_MAX is None})

# --- API keys ---------------------------------------------------------------------------------------------

API_KEYS_PER_USER_MAX = env.int("API_KEYS_PER_USER_MAX", default=20)
API_KEY_DAYS_MAX = env.int("API_KEY_DAYS_MAX", default=365)
API_KEY_DAYS_DEFAULT = env.int("API_KEY_DAYS_DEFAULT", default=90)
safety.refuse_out_of_range(
    [
        ("API_KEYS_PER_USER_MAX", API_KEYS_PER_USER_MAX, 1, 100),
        ("API_KEY_DAYS_MAX", API_KEY_DAYS_MAX, 1, 3_650),
        ("API_KEY_DAYS_DEFAULT", API_KEY_DAYS_DEFAULT, 1, API_KEY_DAYS_MAX),
    ]
)

# --- Where data lives -------------------------------------------------------------------------------------

DATA_DIR = Path(env.str("PAYFLOW_DATA_DIR", default=str(BASE_DIR / ".payflow"))).resolve()


MONGODB_URI = env.str("MONGODB_URI", default="" if IS_PRODUCTION else mongo_uri(DATA_DIR))
# While less is free where the data lie, nothing is written (payflow/storage.py).
STORAGE_FREE_MIN_MB = env.int("STORAGE_FREE_MIN_MB", default=256)
safety.refuse_out_of_range([("STORAGE_FREE_MIN_MB", STORAGE_FREE_MIN_MB, 64, 1_000_000)])
# The embedded servers' folders; none where MongoDB is another server, which knows its own figures.
STORAGE_FOLDERS = (DATA_DIR / "mongo", DATA_DIR / "redis") if mongo_uri(DATA_DIR) == MONGODB_URI else ()
MONGODB_DATABASE = env.str("MONGODB_DATABASE", default="payflow")
# One operation, finding the server and retries included; of a request all operations together. The Procfile
# gives the web processes less, because a client waits there.
MONGODB_TIMEOUT_MS = env.int("MONGODB_TIMEOUT_MS", default=10_000)
# What staff look for may take so long. Well below the former, even with a round trip and a slow answer:
# MongoDB must be the one to give up, for it can say why.
QUERY_MS_MAX = env.int("QUERY_MS_MAX", default=min(1_000, MONGODB_TIMEOUT_MS // 2))
safety.refuse_out_of_range(
    [
        ("MONGODB_TIMEOUT_MS", MONGODB_TIMEOUT_MS, 100, 60_000),
        ("QUERY_MS_MAX", QUERY_MS_MAX, 1, MONGODB_TIMEOUT_MS // 2),
    ]
)
# While MongoDB counts as away requests are refused at once; after so long it is pinged again.
MONGODB_AWAY_SECONDS = env.float("MONGODB_AWAY_SECONDS", default=1.0)
# Every write waits until a majority has it in its journal: an answered 201 survives the loss of a node.
# And every read sees only such writes: a decision must not rest on what a failover could take back.
MONGODB_OPTIONS = {
    "w": "majority",
    "journal": True,
    "readConcernLevel": "majority",
    "readPreference": "primary",
    "connectTimeoutMS": 2_000,
    "timeoutMS": MONGODB_TIMEOUT_MS,
    "appname": "payflow",
}

REDIS_URL = env.str(
    "REDIS_URL",
    default="" if IS_PRODUCTION else f"redis://127.0.0.1:{env.int('PAYFLOW_REDIS_PORT', default=6390)}/0",
)
# Where MongoDB and Redis may be reached without TLS: hosts, domains (.internal), private networks.
UNENCRYPTED_SERVERS = env.list("UNENCRYPTED_SERVERS", default=[])
REDIS_TIMEOUT_SECONDS = env.float("REDIS_TIMEOUT_SECONDS", default=2.0)
# A request waits for Redis no longer than this in all. What can do without Redis then goes on without it.
REDIS_REQUEST_SECONDS = env.float("REDIS_REQUEST_SECONDS", default=0.25)
# While Redis counts as away no request asks it; after so long it is pinged again.
REDIS_SPARED_SECONDS = env.float("REDIS_SPARED_SECONDS", default=1.0)
safety.refuse_out_of_range(
    [
        ("MONGODB_AWAY_SECONDS", MONGODB_AWAY_SECONDS, 0.1, 60),
        ("REDIS_TIMEOUT_SECONDS", REDIS_TIMEOUT_SECONDS, 0.05, 30),
        ("REDIS_REQUEST_SECONDS", REDIS_REQUEST_SECONDS, 0.01, 30),
        ("REDIS_SPARED_SECONDS", REDIS_SPARED_SECONDS, 0, 60),
    ]
)


if IS_PRODUCTION:
    safety.refuse_unsafe_production(
        secrets={
            # Compared with each other. Those of the ledger are compared with all others above.
            "DJANGO_SECRET_KEY": SECRET_KEY,
            **{f"DJANGO_SECRET_KEY_FALLBACKS ({n})": k for n, k in enumerate(SECRET_KEY_FALLBACKS, 1)},
            "JWT_SIGNING_KEY": JWT_SIGNING_KEY,
            **{f"JWT_SIGNING_KEY_FALLBACKS ({n})": k for n, k in enumerate(JWT_SIGNING_KEY_FALLBACKS, 1)},
        },
        receipt_keys_fault=_RECEIPT_KEYS_FAULT,
        sealing_keys_fault=_SEALING_KEYS_FAULT,
        ledger_keys_fault=_LEDGER_KEYS_FAULT,
        addresses={"MONGODB_URI": MONGODB_URI, "REDIS_URL": REDIS_URL},
        address_faults=[
            *servers.unusable_exemptions(UNENCRYPTED_SERVERS),
            *(servers.mongodb_faults(MONGODB_URI, unencrypted=UNENCRYPTED_SERVERS) if MONGODB_URI else []),
            *(servers.redis_faults(REDIS_URL, unencrypted=UNENCRYPTED_SERVERS) if REDIS_URL else []),
        ],
        allowed_hosts=env.list("ALLOWED_HOSTS", default=[]),
        debug=DEBUG,
        deposits_open=DEPOSITS_OPEN,
        webhooks_open={
            "WEBHOOK_ALLOW_LOCALHOST": WEBHOOK_ALLOW_LOCALHOST,
            "WEBHOOK_ALLOW_HTTP": WEBHOOK_ALLOW_HTTP,
        },
    )
elif _RECEIPT_KEYS_FAULT:
    raise ImproperlyConfigured(f"RECEIPT_SIGNING_KEYS {_RECEIPT_KEYS_FAULT}.")
elif _SEALING_KEYS_FAULT:
    raise ImproperlyConfigured(f"WEBHOOK_SECRET_KEYS {_SEALING_KEYS_FAULT}.")
elif _LEDGER_KEYS_FAULT:
    raise ImproperlyConfigured(f"LEDGER_KEYS {_LEDGER_KEYS_FAULT}.")
