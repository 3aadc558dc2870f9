"""Django, accounts and the API."""

from __future__ import annotations

from datetime import timedelta

from payflow import safety
from payflow.settings.base import (
    BASE_DIR,
    ENVIRONMENT,
    IS_PRODUCTION,
    MONGODB_DATABASE,
    MONGODB_OPTIONS,
    MONGODB_URI,
    REDIS_TIMEOUT_SECONDS,
    REDIS_URL,
    env,
)
from payflow.settings.edge import TRUSTED_PROXY_HOPS

# --- Django -----------------------------------------------------------------------------------------------

ALLOWED_HOSTS = env.list(
    "ALLOWED_HOSTS",
    default=["localhost", "127.0.0.1", "[::1]", "testserver", env.str("PAYFLOW_HOST", default="127.0.0.1")],
)
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
    "corsheaders",
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

# From the outside in. Whoever may answer stands inside of all who add headers to answers.
MIDDLEWARE = [
    # Sees every answer, and how long the others took.
    "payflow.api.measuring.MeasuringMiddleware",
    # Before anything that logs or tells an error.
    "payflow.correlation.CorrelationMiddleware",
    # Before anything that asks a server.
    "payflow.api.budgets.BudgetMiddleware",
    # Headers for all that comes from within, errors and refusals included. The third may answer itself.
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "payflow.api.headers.PolicyMiddleware",
    "payflow.api.headers.HeadersMiddleware",
    # Answers preflights, which carry no credentials and are nobody's requests yet.
    "corsheaders.middleware.CorsMiddleware",
    # Counts also what the next one refuses unread.
    "payflow.api.limits.LimitsMiddleware",
    # Outside of all that lets an exception or a page of Django's own escape.
    "payflow.api.middleware.ProblemMiddleware",
    # Before anything that may write.
    "payflow.api.storage.StorageMiddleware",
    # Files need no session.
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
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
        "ENGINE": "payflow.mongodb_backend",
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
# The admin's sessions may be lost with Redis: staff log in again.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "payflow:cache",
        "OPTIONS": {
            "pool_class": "payflow.redisdb.Pool",
            "serializer": "payflow.json_cache.JsonSerializer",
            # Left to itself the client would wait for 5 seconds.
            **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), REDIS_TIMEOUT_SECONDS),
        },
    },
    "limits": {"BACKEND": "payflow.api.counters.Counters"},
}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = IS_PRODUCTION
SECURE_SSL_REDIRECT = IS_PRODUCTION and env.bool("SECURE_SSL_REDIRECT", default=True)
# Asked from inside the network, by address and without TLS.
SECURE_REDIRECT_EXEMPT = [r"^health(/live|/ready)?\Z", r"^metrics\Z"]
SECURE_HSTS_SECONDS = 31_536_000 if IS_PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = IS_PRODUCTION
_TRUST_X_FORWARDED_PROTO = env.bool("TRUST_X_FORWARDED_PROTO", default=False)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _TRUST_X_FORWARDED_PROTO else None

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
safety.refuse_out_of_range([("SESSIONS_PER_USER_MAX", SESSIONS_PER_USER_MAX, 1, 1_000)])

# Keys and algorithm are those of accounts/signing_keys.py.
SIMPLE_JWT = {
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
_BATCH_BODY_BYTES_MAX = env.int("BATCH_BODY_BYTES_MAX", default=1_048_576)
BODY_BYTES_MAX_BY_PATH = {"/transactions/batch": _BATCH_BODY_BYTES_MAX}
safety.refuse_out_of_range(
    [
        # The admin's forms must fit in.
        ("REQUEST_BODY_BYTES_MAX", REQUEST_BODY_BYTES_MAX, 16_384, 2**20),
        # What is stored of a batch must stay below the 16 MiB of a document.
        ("BATCH_BODY_BYTES_MAX", _BATCH_BODY_BYTES_MAX, 16_384, 4 * 2**20),
    ]
)
PREFER_WAIT_SECONDS_MAX = 30
PREFER_WAITERS_MAX = env.int("PREFER_WAITERS_MAX", default=2)

# A request's claim on its idempotency key is renewed while it runs, and ends so long after its process died.
IDEMPOTENCY_LEASE_SECONDS = env.float("IDEMPOTENCY_LEASE_SECONDS", default=5.0)
# How long an answer can be replayed from Redis, and how large it may be to be kept there. Larger ones are
# batches, which MongoDB keeps.
IDEMPOTENCY_STORED_SECONDS = env.int("IDEMPOTENCY_STORED_SECONDS", default=86_400)
IDEMPOTENCY_ANSWER_BYTES_MAX = env.int("IDEMPOTENCY_ANSWER_BYTES_MAX", default=16_384)
safety.refuse_out_of_range(
    [
        ("IDEMPOTENCY_LEASE_SECONDS", IDEMPOTENCY_LEASE_SECONDS, 1, 60),
        ("IDEMPOTENCY_STORED_SECONDS", IDEMPOTENCY_STORED_SECONDS, 1, 30 * 86_400),
        ("IDEMPOTENCY_ANSWER_BYTES_MAX", IDEMPOTENCY_ANSWER_BYTES_MAX, 0, 16 * 2**20),
    ]
)

# A health check gives up on a dependency after so long, and its outcome counts for so long. Tests ask anew.
HEALTH_SECONDS_MAX = 0.7
HEALTH_FRESH_SECONDS = 0.0 if ENVIRONMENT == "test" else 1.0

# GET /metrics is for who sends this as a bearer token; without one, for nobody in production, else for all.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
_METRICS_TOKEN_FAULT = safety.fault_of_secret(METRICS_TOKEN, length_min=16)
if IS_PRODUCTION:
    safety.refuse_in_production(
        {
            f"METRICS_TOKEN {_METRICS_TOKEN_FAULT}": bool(METRICS_TOKEN and _METRICS_TOKEN_FAULT),
            "CSRF_TRUSTED_ORIGINS holds what is no https origin": safety.has_unsafe_origin(
                CSRF_TRUSTED_ORIGINS
            ),
            # Either proxies stand in front, or clients write these headers themselves.
            "TRUST_X_FORWARDED_PROTO is on while TRUSTED_PROXY_HOPS is 0": (
                _TRUST_X_FORWARDED_PROTO and not TRUSTED_PROXY_HOPS
            ),
        }
    )

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.authentication.BearerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_THROTTLE_CLASSES": ["payflow.api.limits.GroupLimits"],
    "DEFAULT_PARSER_CLASSES": ["payflow.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "payflow.api.schema.PayflowSchema",
    "EXCEPTION_HANDLER": "payflow.api.problems.handle_exception",
    "UNAUTHENTICATED_USER": None,
    # For views that have not named their methods (payflow/api/viewsets.py).
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "payflow.api.negotiation.AlwaysJSON",
}
