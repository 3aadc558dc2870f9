#!/usr/bin/env python
"""Django's command line for PayFlow."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import DatabaseError
from pymongo.errors import PyMongoError
from redis import RedisError

from payflow.errors import Transient

REASON_LENGTH_MAX = 300


def main() -> None:
    """Run one management command; where a setting, a server or a file fails it, say so and exit with 1."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "payflow.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"manage.py: {error}")
    except Transient as error:
        sys.exit(f"manage.py: {error.detail}")
    except (PyMongoError, DatabaseError, RedisError) as error:
        server = "Redis" if isinstance(error, RedisError) else "MongoDB"
        sys.exit(f"manage.py: {server} refused or did not answer ({_reason(error)}).")
    except OSError as error:
        sys.exit(f"manage.py: {_reason(error)}.")


def _reason(error: Exception) -> str:
    """Return the error in one line, without the whole answer that the driver appends."""
    text = str(error).partition(", full error:")[0].partition(", Topology Description:")[0]
    return f"{type(error).__name__}: {' '.join(text.split())[:REASON_LENGTH_MAX]}"


if __name__ == "__main__":
    main()
