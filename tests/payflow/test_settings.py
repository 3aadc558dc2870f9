"""Production refuses to start with anything unsafe, says all of it in one sentence, and repeats no secret."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from payflow import safety, signing
from payflow.settings import base
from tests import dotenv

SECRET = "s3cr3t-value-that-must-never-be-printed-a"
OTHER_SECRET = "s3cr3t-value-that-must-never-be-printed-b"
SEALING_KEY = "s3cr3tOfHooksZg5vX2k9Lr0QmTqW7eYbH3JuNcD4aE="
LEDGER_KEY = "s3cr3tOfTheLedgerZg5vX2k9Lr0QmTqW7eYbH3JuNE"
SAFE = {
    "PAYFLOW_ENV": "production",
    "DJANGO_SECRET_KEY": SECRET,
    "JWT_SIGNING_KEY": OTHER_SECRET,
    "RECEIPT_SIGNING_KEYS": "receipts-1:wDdODzL8yqv_JMSJV6ir3oG113ea0qxoaRE2RAu-rRs",
    "LEDGER_KEYS": f"ledger-1:{LEDGER_KEY}",
    "WEBHOOK_SECRET_KEYS": SEALING_KEY,
    "MONGODB_URI": "mongodb://ledger:s3cr3t-password@db.example/payflow?replicaSet=rs0&tls=true",
    "REDIS_URL": "rediss://:s3cr3t-password@cache.example:6379/0",
    "ALLOWED_HOSTS": "pay.example",
}
CHECK = f"""{dotenv.WITHOUT}
import runpy, sys
sys.argv = ["manage.py", "check"]
runpy.run_path("manage.py", run_name="__main__")
"""
PUBLISHED = "development-only-secret-never-use-it-where-money-is-real"
PUBLISHED_LEDGER_KEY = signing.to_base64url(hashlib.sha256(f"{PUBLISHED}-ledger".encode()).digest())
PUBLISHED_SEALING_KEY = safety.read_sealing_keys([], is_production=True)[0][0]


def check(environment: dict[str, str | None]) -> subprocess.CompletedProcess[str]:
    """Run `manage.py check` with these settings and nothing of this process's own."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=settings.BASE_DIR,
        env=inherited | {name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_starts_with_safe_settings() -> None:
    done = check(SAFE)
    assert done.returncode == 0, done.stderr
    assert "s3cr3t" not in done.stdout + done.stderr


def test_starts_with_any_secret_that_may_be_random() -> None:
    done = check(
        {**SAFE, "JWT_SIGNING_KEY": f"{'01234567' * 3}76543210", "DJANGO_SECRET_KEY": f"{'1234567890' * 3}01"}
    )
    assert done.returncode == 0, done.stderr


def test_starts_with_safe_mail() -> None:
    mail = {
        "EMAIL_URL": "smtp+tls://payflow:s3cr3t@mail.example:587",
        "DEFAULT_FROM_EMAIL": "PayFlow <payments@pay.example>",
        "PUBLIC_URL": "https://pay.example",
    }
    done = check({**SAFE, **mail})
    assert done.returncode == 0, done.stderr
    assert "s3cr3t" not in done.stdout + done.stderr


UNSAFE: list[tuple[dict[str, str | None], str]] = [
    ({"DJANGO_SECRET_KEY": None}, "DJANGO_SECRET_KEY is not set"),
    ({"DJANGO_SECRET_KEY": ""}, "DJANGO_SECRET_KEY is not set"),
    ({"DJANGO_SECRET_KEY": "s3cr3t-but-short"}, "DJANGO_SECRET_KEY is shorter than 32 characters"),
    ({"DJANGO_SECRET_KEY": PUBLISHED}, "DJANGO_SECRET_KEY is the published development value"),
    ({"DJANGO_SECRET_KEY": "change-me-" + "x" * 40}, "DJANGO_SECRET_KEY is the published development value"),
    ({"DJANGO_SECRET_KEY": "abcdefg" * 6}, "DJANGO_SECRET_KEY is weak: it is not random"),
    ({"JWT_SIGNING_KEY": "0123456789abcdef" * 3}, "JWT_SIGNING_KEY is weak: it is not random"),
    ({"RECEIPT_SIGNING_KEYS": f"r:{'A' * 43}"}, "RECEIPT_SIGNING_KEYS is weak: key 1 is not random"),
    ({"RATE_LIMIT_UNKNOWN_RECEIVERS": "999999999/s"}, "RATE_LIMIT_UNKNOWN_RECEIVERS allows more than 10000"),
    ({"AUDIT_TICK_SECONDS_MAX": "0"}, "AUDIT_TICK_SECONDS_MAX must be from 0.1 to 30"),
    ({"JWT_SIGNING_KEY": "a" * 64}, "JWT_SIGNING_KEY is weak: it is not random"),
    ({"JWT_SIGNING_KEY": None}, "JWT_SIGNING_KEY is not set"),
    ({"JWT_SIGNING_KEY": "s3cr3t"}, "JWT_SIGNING_KEY is shorter than 32 characters"),
    ({"JWT_SIGNING_KEY": PUBLISHED + "-jwt"}, "JWT_SIGNING_KEY is the published development value"),
    ({"JWT_SIGNING_KEY": SECRET}, "DJANGO_SECRET_KEY and JWT_SIGNING_KEY are the same"),
    ({"JWT_SIGNING_KEY_FALLBACKS": "s3cr3t"}, "FALLBACKS (1) is shorter than 32 characters"),
    (
        {"JWT_SIGNING_KEY_FALLBACKS": f"{SECRET}-too,{PUBLISHED}-jwt"},
        "JWT_SIGNING_KEY_FALLBACKS (2) is the published development value",
    ),
    (
        {"JWT_SIGNING_KEY_FALLBACKS": OTHER_SECRET},
        "JWT_SIGNING_KEY and JWT_SIGNING_KEY_FALLBACKS (1) are the same",
    ),
    (
        {"JWT_SIGNING_KEY_FALLBACKS": SECRET},
        "DJANGO_SECRET_KEY and JWT_SIGNING_KEY_FALLBACKS (1) are the same",
    ),
    ({"JWT_LEEWAY_SECONDS": "61"}, "JWT_LEEWAY_SECONDS must be from 0 to 60"),
    ({"JWT_LEEWAY_SECONDS": "-1"}, "JWT_LEEWAY_SECONDS must be from 0 to 60"),
    ({"MONGODB_URI": None}, "MONGODB_URI is not set"),
    ({"REDIS_URL": None}, "REDIS_URL is not set"),
    ({"PAYFLOW_DEBUG": "true"}, "PAYFLOW_DEBUG is on"),
    ({"DEPOSITS_OPEN": "true"}, "DEPOSITS_OPEN is on"),
    ({"WEBHOOK_SECRET_KEYS": None}, "WEBHOOK_SECRET_KEYS is not set"),
    (
        {"WEBHOOK_SECRET_KEYS": "s3cr3t"},
        "WEBHOOK_SECRET_KEYS cannot be used: key 1 is not 32 bytes in base64url",
    ),
    ({"WEBHOOK_SECRET_KEYS": f"{SEALING_KEY},s3cr3t"}, "WEBHOOK_SECRET_KEYS cannot be used: key 2 is not 32"),
    ({"WEBHOOK_SECRET_KEYS": f"{SEALING_KEY},{SEALING_KEY}"}, "WEBHOOK_SECRET_KEYS names one key twice"),
    ({"WEBHOOK_SECRET_KEYS": "A" * 43 + "="}, "WEBHOOK_SECRET_KEYS is weak: key 1 is not random"),
    (
        {"WEBHOOK_SECRET_KEYS": f"{SEALING_KEY},{PUBLISHED_SEALING_KEY}"},
        "WEBHOOK_SECRET_KEYS holds the published development key",
    ),
    ({"LEDGER_KEYS": None}, "LEDGER_KEYS is not set"),
    ({"LEDGER_KEYS": LEDGER_KEY}, "LEDGER_KEYS cannot be used: key 1 does not have the form key_id:key"),
    ({"LEDGER_KEYS": "a:s3cr3t"}, "LEDGER_KEYS cannot be used: key 1 is not 32 bytes in base64url"),
    ({"LEDGER_KEYS": f"a:{LEDGER_KEY}="}, "LEDGER_KEYS cannot be used: key 1 is not 32 bytes in base64url"),
    ({"LEDGER_KEYS": f"a:{LEDGER_KEY},b:{LEDGER_KEY}"}, "LEDGER_KEYS cannot be used: one key has two names"),
    ({"LEDGER_KEYS": f"a:{LEDGER_KEY},a:{PUBLISHED_LEDGER_KEY}"}, "two keys have the same name"),
    (
        {"LEDGER_KEYS": f"a:{LEDGER_KEY},b:{PUBLISHED_LEDGER_KEY}"},
        "LEDGER_KEYS holds the published development key",
    ),
    ({"LEDGER_KEYS": f"a:{'A' * 43}"}, "LEDGER_KEYS is weak: key 1 is not random"),
    (
        {"LEDGER_KEYS": f"a:{LEDGER_KEY},b:{SEALING_KEY.rstrip('=')}"},
        "LEDGER_KEYS cannot be used: key 2 is a secret of WEBHOOK_SECRET_KEYS, too",
    ),
    (
        {"LEDGER_KEYS": f"a:{LEDGER_KEY}", "RECEIPT_SIGNING_KEYS": f"receipts-1:{LEDGER_KEY}"},
        "LEDGER_KEYS cannot be used: key 1 is a secret of RECEIPT_SIGNING_KEYS, too",
    ),
    (
        {"DJANGO_SECRET_KEY_FALLBACKS": LEDGER_KEY},
        "LEDGER_KEYS cannot be used: key 1 is a secret of DJANGO_SECRET_KEY, too",
    ),
    (
        {"JWT_SIGNING_KEY": LEDGER_KEY},
        "LEDGER_KEYS cannot be used: key 1 is a secret of JWT_SIGNING_KEY, too",
    ),
    ({"WEBHOOK_ALLOW_LOCALHOST": "true"}, "WEBHOOK_ALLOW_LOCALHOST is on"),
    ({"WEBHOOK_ALLOW_HTTP": "true"}, "WEBHOOK_ALLOW_HTTP is on"),
    ({"WEBHOOKS_PER_USER_MAX": "0"}, "WEBHOOKS_PER_USER_MAX must be from 1 to 1000"),
    ({"ALLOWED_HOSTS": None}, "ALLOWED_HOSTS does not name"),
    ({"ALLOWED_HOSTS": "*"}, "ALLOWED_HOSTS does not name"),
    ({"ALLOWED_HOSTS": "pay.example,*"}, "ALLOWED_HOSTS does not name"),
    ({"SAGA_BATCH_MAX": "1001"}, "SAGA_BATCH_MAX must be from 1 to 1000"),
    ({"SAGA_BATCH_MAX": "0"}, "SAGA_BATCH_MAX must be from 1 to 1000"),
    ({"AUDIT_WALLETS_MAX": "0"}, "AUDIT_WALLETS_MAX must be at least 10"),
    ({"AUDIT_NEW_ENTRIES_MAX": "-5"}, "AUDIT_NEW_ENTRIES_MAX must be at least 100"),
    ({"AUDIT_OLD_ENTRIES_MAX": "0"}, "AUDIT_OLD_ENTRIES_MAX must be at least 10"),
    ({"CELERY_VISIBILITY_TIMEOUT_SECONDS": "69"}, "CELERY_VISIBILITY_TIMEOUT_SECONDS must be at least 70"),
    ({"EMAIL_URL": "smtp://payflow:s3cr3t@mail.example"}, "EMAIL_URL would send its password unencrypted"),
    ({"EMAIL_URL": "smtp+tls://mail.example:s3cr3t"}, "EMAIL_URL is no address of a mail server"),
    ({"EMAIL_URL": "smtp://mail.example", "PUBLIC_URL": "http://pay.example"}, "PUBLIC_URL is not the https"),
    ({"EMAIL_URL": "smtp://mail.example"}, "DEFAULT_FROM_EMAIL does not say who sends"),
    ({"NOTIFICATIONS_ENABLED": "true"}, "EMAIL_URL does not name an SMTP server"),
    # Each leaves room for clocks that differ.
    ({"NOTIFICATIONS_CLAIM_SECONDS": "39"}, "NOTIFICATIONS_CLAIM_SECONDS must be at least 40"),
    ({"WEBHOOK_CLAIM_SECONDS": "16"}, "WEBHOOK_CLAIM_SECONDS must be from 17 to 3600"),
    ({"SAGA_EXPIRES_AFTER_SECONDS": "99"}, "SAGA_EXPIRES_AFTER_SECONDS must be at least 100"),
    ({"SAGA_QUEUE_AGE_SECONDS_MAX": "19"}, "SAGA_QUEUE_AGE_SECONDS_MAX must be at least 20"),
    ({"CLOCK_SKEW_SECONDS_MAX": "16"}, "CLOCK_SKEW_SECONDS_MAX must be from 0 to 15"),
    # MongoDB gives up before its client does, in the web processes too.
    ({"MONGODB_TIMEOUT_MS": "2000", "QUERY_MS_MAX": "1001"}, "QUERY_MS_MAX must be from 1 to 1000"),
    ({"MONGODB_TIMEOUT_MS": "s3cr3t"}, "MONGODB_TIMEOUT_MS is not a number"),
    ({"REDIS_TIMEOUT_SECONDS": "s3cr3t"}, "REDIS_TIMEOUT_SECONDS is not a number"),
    ({"RATE_LIMIT_TRANSACTIONS": "s3cr3t"}, "RATE_LIMIT_TRANSACTIONS must be a rate such as 300/m"),
    ({"RATE_LIMIT_AUTH": "0/m"}, "RATE_LIMIT_AUTH must be a rate such as 300/m"),
    ({"TRUSTED_PROXY_HOPS": "-1"}, "TRUSTED_PROXY_HOPS must be from 0 to 10"),
    ({"TRUSTED_PROXY_HOPS": "s3cr3t"}, "TRUSTED_PROXY_HOPS is not a number"),
    ({"DJANGO_SECRET_KEY_FALLBACKS": "s3cr3t"}, "SECRET_KEY_FALLBACKS (1) is shorter than 32 characters"),
    (
        {"DJANGO_SECRET_KEY_FALLBACKS": PUBLISHED},
        "DJANGO_SECRET_KEY_FALLBACKS (1) is the published development value",
    ),
    (
        {"DJANGO_SECRET_KEY_FALLBACKS": SECRET},
        "DJANGO_SECRET_KEY and DJANGO_SECRET_KEY_FALLBACKS (1) are the same",
    ),
    ({"RATE_LIMIT_AUTH": "off"}, "RATE_LIMIT_AUTH is off"),
    ({"RATE_LIMIT_AUTH_EMAIL": ""}, "RATE_LIMIT_AUTH_EMAIL is off"),
    ({"METRICS_TOKEN": "s3cr3t"}, "METRICS_TOKEN is shorter than 16 characters"),
    ({"METRICS_TOKEN": "a" * 16}, "METRICS_TOKEN is weak: it is not random"),
    ({"RATE_LIMIT_AUTH": "100000/s"}, "RATE_LIMIT_AUTH allows more than 1000000 attempts a day"),
    ({"RATE_LIMIT_AUTH_EMAIL": "10/s"}, "RATE_LIMIT_AUTH_EMAIL allows more than 20000 attempts a day"),
    ({"ALLOWED_HOSTS": "pay.example,.com"}, "ALLOWED_HOSTS does not name"),
    ({"CSRF_TRUSTED_ORIGINS": "https://*.example"}, "CSRF_TRUSTED_ORIGINS holds what is no https origin"),
    ({"CORS_ALLOWED_ORIGINS": "https://app.example,null"}, "CORS_ALLOWED_ORIGINS holds what is no https"),
    ({"DEPOSITS_PER_DAY_MAX": "off"}, "DEPOSITS_PER_DAY_MAX is off"),
    ({"DEPOSITS_PER_DAY_MAX": "0"}, "DEPOSITS_PER_DAY_MAX must be from 1 to 1000000000, or off"),
    (
        {"MONGODB_URI": "mongodb://db.example/?replicaSet=rs0&tls=true"},
        "MONGODB_URI has no user and password",
    ),
    ({"REDIS_URL": "redis://:s3cr3t@cache.example:6379/0"}, "REDIS_URL is not encrypted"),
    ({"UNENCRYPTED_SERVERS": "*"}, "UNENCRYPTED_SERVERS entry 1 is no host"),
    ({"REDIS_TIMEOUT_SECONDS": "0"}, "REDIS_TIMEOUT_SECONDS must be from 0.05 to 30"),
    ({"REDIS_SPARED_SECONDS": "-1"}, "REDIS_SPARED_SECONDS must be from 0 to 60"),
    ({"STORAGE_FREE_MIN_MB": "63"}, "STORAGE_FREE_MIN_MB must be from 64 to 1000000"),
    ({"REQUEST_BODY_BYTES_MAX": "-1"}, "REQUEST_BODY_BYTES_MAX must be from 16384 to 1048576"),
    ({"BATCH_BODY_BYTES_MAX": "9000000"}, "BATCH_BODY_BYTES_MAX must be from 16384 to 4194304"),
    ({"SESSIONS_PER_USER_MAX": "0"}, "SESSIONS_PER_USER_MAX must be from 1 to 1000"),
    ({"TRUST_X_FORWARDED_PROTO": "true"}, "TRUST_X_FORWARDED_PROTO is on while TRUSTED_PROXY_HOPS is 0"),
    # Nobody says which environment this is: that is production.
    ({"PAYFLOW_ENV": None, "DJANGO_SECRET_KEY": None}, "DJANGO_SECRET_KEY is not set"),
    ({"PAYFLOW_ENV": "prod"}, "PAYFLOW_ENV is 'prod'; it must be one of"),
]


@pytest.mark.parametrize(("changes", "reason"), UNSAFE, ids=[reason for _, reason in UNSAFE])
def test_refuses_an_unsafe_setting_and_names_it(changes: dict[str, str | None], reason: str) -> None:
    done = check({**SAFE, **changes})
    assert done.returncode != 0
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cr3t" not in done.stdout + done.stderr


def test_a_drill_may_have_messages_come_again_early() -> None:
    done = check({"PAYFLOW_ENV": "development", "CELERY_VISIBILITY_TIMEOUT_SECONDS": "4"})
    assert done.returncode == 0, done.stderr


def test_names_every_reason_at_once() -> None:
    done = check({"PAYFLOW_ENV": "production", "PAYFLOW_DEBUG": "1"})
    names = (
        "DJANGO_SECRET_KEY",
        "JWT_SIGNING_KEY",
        "LEDGER_KEYS",
        "MONGODB_URI",
        "REDIS_URL",
        "PAYFLOW_DEBUG",
        "ALLOWED_HOSTS",
    )
    assert [name for name in names if name not in done.stderr] == []
    assert len(done.stderr.strip().splitlines()) == 1


MISREAD = [
    ("AUDIT_WALLETS_MAX", "\uff11\uff12", "is not a number"),
    ("AUDIT_WALLETS_MAX", "1_000", "is not a number"),
    ("AUDIT_WALLETS_MAX", " 5 ", "is not a number"),
    ("REDIS_TIMEOUT_SECONDS", "1e0", "is not a number"),
    ("REDIS_TIMEOUT_SECONDS", "nan", "is not a number"),
    ("WEBHOOK_RETRY_SECONDS", "5,1_0", "is not a number"),
    ("PAYFLOW_DEBUG", "flase", "is neither true nor false"),
    ("PAYFLOW_DEBUG", "2", "is neither true nor false"),
]


@pytest.mark.parametrize(("variable", "value", "reason"), MISREAD)
def test_a_value_that_two_readers_would_read_otherwise_is_refused(
    variable: str, value: str, reason: str
) -> None:
    cast = {"WEBHOOK_RETRY_SECONDS": [float], "REDIS_TIMEOUT_SECONDS": float, "PAYFLOW_DEBUG": bool}
    reader = base._Env()
    reader.ENVIRON = {variable: value}
    with pytest.raises(ImproperlyConfigured, match=f"^{variable} {reason}"):
        reader.get_value(variable, cast=cast.get(variable, int), default=1)


@pytest.mark.parametrize(
    ("sender", "is_one"),
    [
        ("PayFlow <payments@pay.example>", True),
        ("payments@pay.example", True),
        ("Zahlungen \u00fcber PayFlow <payments@pay.example>", True),
        ('"Pay, Flow" <payments@pay.example>', True),
        ("Pay, Flow <payments@pay.example>", False),
        ("=?utf-8?q?Bank?= <payments@pay.example>", False),
        ("PayFlow <=?utf-8?q?bank?=@pay.example>", False),
        ("PayFlow <payments@localhost>", False),
        ("\u202ewolFyaP <payments@pay.example>", False),
        ("PayFlow <payments@pay.example>, x@pay.example", False),
        ("payments", False),
        ("", False),
    ],
)
def test_the_sender_of_mails_is_read_in_one_way(sender: str, is_one: bool) -> None:
    assert safety.is_sender(sender) is is_one
