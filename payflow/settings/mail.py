"""E-mail, and what people are told by it."""

from __future__ import annotations

from math import inf

import environ
from django.core.exceptions import ImproperlyConfigured

from payflow import safety
from payflow.settings.base import ENVIRONMENT, IS_PRODUCTION, env

# --- How it leaves ----------------------------------------------------------------------------------------

_OFF = "dummymail://"
_URLS = {"production": _OFF, "development": "consolemail://", "test": "memorymail://"}
_EMAIL_URL = env.str("EMAIL_URL", default=_URLS[ENVIRONMENT])
try:
    _EMAIL = environ.Env.email_url_config(_EMAIL_URL)
except (ValueError, ImproperlyConfigured):
    raise ImproperlyConfigured("EMAIL_URL is no address of a mail server.") from None
_IS_SMTP = _EMAIL["EMAIL_BACKEND"].endswith("smtp.EmailBackend")
# Ours tells apart what was refused and what may have been accepted.
EMAIL_BACKEND = "payflow.smtp.SmtpBackend" if _IS_SMTP else _EMAIL["EMAIL_BACKEND"]
EMAIL_HOST = _EMAIL["EMAIL_HOST"] or "localhost"
EMAIL_PORT = _EMAIL["EMAIL_PORT"] or 25
EMAIL_HOST_USER = _EMAIL["EMAIL_HOST_USER"] or ""
EMAIL_HOST_PASSWORD = _EMAIL["EMAIL_HOST_PASSWORD"] or ""
EMAIL_USE_TLS = _EMAIL.get("EMAIL_USE_TLS", False)
EMAIL_USE_SSL = _EMAIL.get("EMAIL_USE_SSL", False)
EMAIL_FILE_PATH = _EMAIL["EMAIL_FILE_PATH"]
EMAIL_TIMEOUT = env.float("EMAIL_TIMEOUT_SECONDS", default=10.0)
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="PayFlow <payflow@localhost>")

# --- Notifications ----------------------------------------------------------------------------------------

# Under which address people reach this service: links in mails begin with it.
_LOCAL_URL = f"http://localhost:{env.int('PAYFLOW_WEB_PORT', default=8000)}"
PUBLIC_URL = env.str("PUBLIC_URL", default=_LOCAL_URL).rstrip("/")
NOTIFICATIONS_ENABLED = env.bool("NOTIFICATIONS_ENABLED", default=_EMAIL_URL != _OFF)
NOTIFICATIONS_EVERY_SECONDS = env.float("NOTIFICATIONS_EVERY_SECONDS", default=2.0)
# A tick sends so many, and more while less than this share of the time to the next has gone and transfers do
# not wait: mails must not take the machine from them. And it begins nothing after TICK_SECONDS_MAX.
NOTIFICATIONS_BATCH_MAX = env.int("NOTIFICATIONS_BATCH_MAX", default=25)
NOTIFICATIONS_SHARE_MAX = env.float("NOTIFICATIONS_SHARE_MAX", default=0.25)
NOTIFICATIONS_TICK_SECONDS_MAX = env.float("NOTIFICATIONS_TICK_SECONDS_MAX", default=20.0)
# Whoever has taken a mail and not said what became of it after so long has died.
NOTIFICATIONS_CLAIM_SECONDS = env.float("NOTIFICATIONS_CLAIM_SECONDS", default=120.0)
# Of a recipient in an hour about transfers; beyond that one digest is sent.
NOTIFICATIONS_PER_HOUR_MAX = env.int("NOTIFICATIONS_PER_HOUR_MAX", default=20)
NOTIFICATIONS_ATTEMPTS_MAX = env.int("NOTIFICATIONS_ATTEMPTS_MAX", default=8)
# /health says "degraded" when a mail has been due for longer.
NOTIFICATIONS_OVERDUE_SECONDS_MAX = env.float("NOTIFICATIONS_OVERDUE_SECONDS_MAX", default=900.0)
NOTIFICATIONS_RETENTION_DAYS = env.int("NOTIFICATIONS_RETENTION_DAYS", default=30)

safety.refuse_out_of_range(
    [
        ("EMAIL_TIMEOUT_SECONDS", EMAIL_TIMEOUT, 0.1, 60),
        ("NOTIFICATIONS_BATCH_MAX", NOTIFICATIONS_BATCH_MAX, 1, 1_000),
        ("NOTIFICATIONS_PER_HOUR_MAX", NOTIFICATIONS_PER_HOUR_MAX, 1, 10_000),
        ("NOTIFICATIONS_SHARE_MAX", NOTIFICATIONS_SHARE_MAX, 0, 1),
        ("NOTIFICATIONS_ATTEMPTS_MAX", NOTIFICATIONS_ATTEMPTS_MAX, 1, 20),
        ("NOTIFICATIONS_RETENTION_DAYS", NOTIFICATIONS_RETENTION_DAYS, 1, inf),
    ]
)
if IS_PRODUCTION and NOTIFICATIONS_ENABLED:
    safety.refuse_unsafe_mail(
        is_smtp=_IS_SMTP,
        has_password=bool(EMAIL_HOST_PASSWORD),
        is_encrypted=EMAIL_USE_TLS or EMAIL_USE_SSL,
        sender=DEFAULT_FROM_EMAIL,
        public_url=PUBLIC_URL,
    )
