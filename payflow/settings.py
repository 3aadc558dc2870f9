"""Every setting, read from the environment once, when a process starts.

What must stay true: a process in production refuses to start with a secret that is missing, short or
published in this repository, with DEBUG on, or with deposits open to everyone. `.env.example` documents
each variable.
"""

from __future__ import annotations

from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

from payflow import safety
from payflow.stack.paths import mongo_uri

BASE_DIR = Path(__file__).resolve().parent.parent


class _Env(environ.Env):
    def get_value(self, var: str, *given: Any, **named: Any) -> Any:
        """Read a variable; one that is no number where it should be is named, without its value."""
        try:
            return super().get_value(var, *given, **named)
        except ValueError as error:
            raise ImproperlyConfigured(f"{var} is not a number.") from error

    @classmethod
    def parse_value(cls, value: str, cast: Any) -> Any:
        """Read a value; environ's own way to a float drops what is no digit and takes the rest."""
        return float(value) if cast is float else super().parse_value(value, cast)


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

# --- Receipts ---------------------------------------------------------------------------------------------

RECEIPT_ISSUER = env.str("RECEIPT_ISSUER", default="payflow")


# The first key signs receipts; the others are only published, so that what they have signed stays valid.
RECEIPT_SIGNING_KEYS, _RECEIPT_KEYS_FAULT = safety.read_receipt_keys(
    env.list("RECEIPT_SIGNING_KEYS", default=[]), is_production=IS_PRODUCTION
)

# --- Who may deposit --------------------------------------------------------------------------------------

DEPOSITS_OPEN = env.bool("DEPOSITS_OPEN", default=not IS_PRODUCTION)

# --- Where data lives -------------------------------------------------------------------------------------

DATA_DIR = Path(env.str("PAYFLOW_DATA_DIR", default=str(BASE_DIR / ".payflow"))).resolve()


MONGODB_URI = env.str("MONGODB_URI", default="" if IS_PRODUCTION else mongo_uri(DATA_DIR))
MONGODB_DATABASE = env.str("MONGODB_DATABASE", default="payflow")
# One operation, finding the server and retries included. The Procfile gives the web processes less, because
# a client waits there.
MONGODB_TIMEOUT_MS = env.int("MONGODB_TIMEOUT_MS", default=10_000)
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
REDIS_TIMEOUT_SECONDS = env.float("REDIS_TIMEOUT_SECONDS", default=2.0)


if IS_PRODUCTION:
    safety.refuse_unsafe_production(
        secrets={"DJANGO_SECRET_KEY": SECRET_KEY, "JWT_SIGNING_KEY": JWT_SIGNING_KEY},
        receipt_keys_fault=_RECEIPT_KEYS_FAULT,
        addresses={"MONGODB_URI": MONGODB_URI, "REDIS_URL": REDIS_URL},
        allowed_hosts=env.list("ALLOWED_HOSTS", default=[]),
        debug=DEBUG,
        deposits_open=DEPOSITS_OPEN,
    )
elif _RECEIPT_KEYS_FAULT:
    raise ImproperlyConfigured(f"RECEIPT_SIGNING_KEYS {_RECEIPT_KEYS_FAULT}.")

# --- Django -----------------------------------------------------------------------------------------------

ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]", "testserver"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
ROOT_URLCONF = "payflow.urls"
WSGI_APPLICATION = "payflow.wsgi.application"
APPEND_SLASH = False
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
LANGUAGE_CODE = "en-us"

INSTALLED_APPS = [
    "payflow.apps.PayflowConfig",
    "payflow.apps.MongoAdminConfig",
    "payflow.apps.MongoAuthConfig",
    "payflow.apps.MongoContentTypesConfig",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_mongodb_backend",
    "ledger",
    "wallets",
    "accounts",
    "webhooks",
    "transfers",
]

MIDDLEWARE = [
    "payflow.api.measuring.MeasuringMiddleware",
    "payflow.correlation.CorrelationMiddleware",
    "payflow.api.middleware.ProblemMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

STATIC_URL = "static/"
STATIC_ROOT = env.str("STATIC_ROOT", default=str(BASE_DIR / "staticfiles") if IS_PRODUCTION else None)
WHITENOISE_USE_FINDERS = not IS_PRODUCTION

DATABASES = {
    "default": {
        "ENGINE": "django_mongodb_backend",
        "HOST": MONGODB_URI,
        "NAME": MONGODB_DATABASE,
        "OPTIONS": MONGODB_OPTIONS,
        "TEST": {"NAME": MONGODB_DATABASE},
    }
}
DATABASE_ROUTERS = ["django_mongodb_backend.routers.MongoRouter"]
DEFAULT_AUTO_FIELD = "django_mongodb_backend.fields.ObjectIdAutoField"
MIGRATION_MODULES = {
    "admin": "payflow.contrib_migrations.admin",
    "auth": "payflow.contrib_migrations.auth",
    "contenttypes": "payflow.contrib_migrations.contenttypes",
}
SILENCED_SYSTEM_CHECKS: list[str] = []

# The admin's sessions may be lost with Redis: staff log in again.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "payflow:cache",
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = IS_PRODUCTION
SECURE_SSL_REDIRECT = IS_PRODUCTION and env.bool("SECURE_SSL_REDIRECT", default=True)
# Asked from inside the network, where there is no TLS.
SECURE_REDIRECT_EXEMPT = [r"^health", r"^metrics$"]
SECURE_HSTS_SECONDS = 31_536_000 if IS_PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = IS_PRODUCTION
SECURE_PROXY_SSL_HEADER = (
    ("HTTP_X_FORWARDED_PROTO", "https") if env.bool("TRUST_X_FORWARDED_PROTO", default=False) else None
)
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

# --- Accounts ---------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = ["accounts.hashers.BoundedArgon2Hasher"]
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator",
        "OPTIONS": {"user_attributes": ("email", "name")},
    },
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
SESSIONS_PER_USER_MAX = env.int("SESSIONS_PER_USER_MAX", default=50)

SIMPLE_JWT = {
    "ALGORITHM": "HS256",
    "SIGNING_KEY": JWT_SIGNING_KEY,
    "ISSUER": "payflow",
    "AUDIENCE": "payflow",
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=15),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=7),
    "UPDATE_LAST_LOGIN": False,
    "USER_ID_FIELD": "id",
    "USER_ID_CLAIM": "sub",
    "TOKEN_USER_CLASS": "accounts.tokens.Caller",
}

# --- The API ----------------------------------------------------------------------------------------------

REQUEST_BODY_BYTES_MAX = env.int("REQUEST_BODY_BYTES_MAX", default=65_536)
PREFER_WAIT_SECONDS_MAX = 30
PREFER_WAITERS_MAX = env.int("PREFER_WAITERS_MAX", default=2)

# GET /metrics is for who sends this as a bearer token; without one, for nobody in production, else for all.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.authentication.BearerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["payflow.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "payflow.api.problems.handle_exception",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "payflow.api.negotiation.AlwaysJSON",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "PayFlow",
    "VERSION": VERSION,
    "DESCRIPTION": "Moves money between wallets. Every answer can be checked against the ledger.",
    "SERVE_PUBLIC": True,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# --- Money and the saga -----------------------------------------------------------------------------------

DEFAULT_CURRENCY = env.str("DEFAULT_CURRENCY", default="USD")
SAGA_BATCH_MAX = env.int("SAGA_BATCH_MAX", default=500)
SAGA_LINGER_SECONDS = env.float("SAGA_LINGER_SECONDS", default=0.03)
SAGA_STALLED_AFTER_SECONDS = env.float("SAGA_STALLED_AFTER_SECONDS", default=5.0)
SAGA_EXPIRES_AFTER_SECONDS = env.float("SAGA_EXPIRES_AFTER_SECONDS", default=900.0)
SAGA_ATTENTION_AFTER_ATTEMPTS = env.int("SAGA_ATTENTION_AFTER_ATTEMPTS", default=10)
CREDIT_TIMEOUT_SECONDS = env.float("CREDIT_TIMEOUT_SECONDS", default=3.0)
CREDIT_TIMEOUT_RETRIES_MAX = env.int("CREDIT_TIMEOUT_RETRIES_MAX", default=1)
# /health says "degraded" when a transaction has been under way for longer: most likely no worker runs.
SAGA_QUEUE_AGE_SECONDS_MAX = env.float("SAGA_QUEUE_AGE_SECONDS_MAX", default=30.0)
RECOVERY_EVERY_SECONDS = env.float("RECOVERY_EVERY_SECONDS", default=2.0)
RECOVERY_BATCH_MAX = env.int("RECOVERY_BATCH_MAX", default=500)
RECOVERY_LOCK_SECONDS = env.float("RECOVERY_LOCK_SECONDS", default=5.0)
RECOVERY_TICK_SECONDS_MAX = env.float("RECOVERY_TICK_SECONDS_MAX", default=20.0)

# --- The continuous audit ---------------------------------------------------------------------------------

AUDIT_EVERY_SECONDS = env.float("AUDIT_EVERY_SECONDS", default=10.0)
AUDIT_TICK_SECONDS_MAX = env.float("AUDIT_TICK_SECONDS_MAX", default=5.0)
AUDIT_NEW_ENTRIES_MAX = env.int("AUDIT_NEW_ENTRIES_MAX", default=5_000)
AUDIT_OLD_ENTRIES_MAX = env.int("AUDIT_OLD_ENTRIES_MAX", default=1_000)
AUDIT_WALLETS_MAX = env.int("AUDIT_WALLETS_MAX", default=500)

# --- Celery -----------------------------------------------------------------------------------------------

CELERY_BROKER_URL = REDIS_URL
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "payflow-saga"
CELERY_TASK_CREATE_MISSING_QUEUES = True
CELERY_TASK_ROUTES = {
    "transfers.*": {"queue": "payflow-saga"},
    # Reads much and hurries nobody: not beside the saga's steps.
    "transfers.audit": {"queue": "payflow-notifications"},
    "webhooks.*": {"queue": "payflow-webhooks"},
    "notifications.*": {"queue": "payflow-notifications"},
}
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = False
CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_TIME_LIMIT = 60
CELERY_TASK_SOFT_TIME_LIMIT = 45
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 3
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 400_000  # kilobytes
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# A message of a worker that died, or has stood still for so long, is delivered to another.
_VISIBILITY_TIMEOUT_SECONDS = env.int("CELERY_VISIBILITY_TIMEOUT_SECONDS", default=90)
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "global_keyprefix": "payflow:celery:",
    "visibility_timeout": _VISIBILITY_TIMEOUT_SECONDS,
    "unacked_restore_interval": max(1, min(5, _VISIBILITY_TIMEOUT_SECONDS // 4)),
    "unacked_restore_throttle": 1,
    "socket_timeout": 10,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
}
# For drills: each message is delivered twice.
DUPLICATE_MESSAGES = not IS_PRODUCTION and env.bool("PAYFLOW_DUPLICATE_MESSAGES", default=False)
# A request that finds the broker gone gives up within a second: recovery starts the saga later.
CELERY_TASK_PUBLISH_RETRY = False
CELERY_BEAT_SCHEDULE = {
    "recover-stalled-transactions": {
        "task": "transfers.recover",
        "schedule": RECOVERY_EVERY_SECONDS,
        "options": {"expires": 3 * RECOVERY_EVERY_SECONDS},
    },
    "audit-what-is-new": {
        "task": "transfers.audit",
        "schedule": AUDIT_EVERY_SECONDS,
        "options": {"expires": AUDIT_EVERY_SECONDS},
    },
}

# Posting takes no larger batch; a message that comes again while its task still runs is work done twice.
safety.refuse_out_of_range(
    [
        ("SAGA_BATCH_MAX", SAGA_BATCH_MAX, 1, 1_000),
        ("AUDIT_NEW_ENTRIES_MAX", AUDIT_NEW_ENTRIES_MAX, 1, inf),
        ("AUDIT_OLD_ENTRIES_MAX", AUDIT_OLD_ENTRIES_MAX, 1, inf),
        ("AUDIT_WALLETS_MAX", AUDIT_WALLETS_MAX, 1, inf),
        (
            "CELERY_VISIBILITY_TIMEOUT_SECONDS",
            _VISIBILITY_TIMEOUT_SECONDS,
            # Drills make it short on purpose.
            CELERY_TASK_TIME_LIMIT if IS_PRODUCTION else 1,
            inf,
        ),
    ]
)

# --- Logs -------------------------------------------------------------------------------------------------

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"correlation": {"()": "payflow.logs.CorrelationFilter"}},
    "formatters": {"json": {"()": "payflow.logs.JsonFormatter"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["correlation"]},
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        "pymongo": {"level": "WARNING"},
    },
}
