"""What granian serves: the web front (payflow/front/) before the WSGI application."""

from __future__ import annotations

import contextlib
import resource
import sys

from django.conf import settings

# The first of these sets Django up.
from payflow import wsgi
from payflow.front.front import Front, Shape


def _allow_connections() -> None:
    """Raise the number of open files to what the system allows: each connection of a client is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


_allow_connections()
# The event loop must not wait for long for threads that compute, or refusing would be slow when it matters.
sys.setswitchinterval(0.0005)
application = Front(
    wsgi.application,
    Shape(
        threads=settings.WEB_THREADS,
        waiting_max=settings.WEB_WAITING_MAX,
        per_caller_max=settings.WEB_WAITING_PER_CALLER_MAX,
        wait_seconds_max=settings.WEB_WAIT_SECONDS_MAX,
        body_seconds_max=settings.WEB_BODY_SECONDS_MAX,
    ),
)
