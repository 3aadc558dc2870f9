"""A mail server on loopback that speaks SMTP and answers as it is told to, and the postman as a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from django.conf import settings

from payflow import clock
from payflow.mongodb import collection
from payflow.stack.embedded import free_port
from transfers.documents import Notice


class _Server(SMTP):
    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 - aiosmtpd's name
        """Take the mail, unless it is to hang up on the command, before it has asked for the mail."""
        if self.event_handler.asks_for_mail():
            await super().smtp_DATA(arg)
        else:
            self.transport.close()


class _Controller(Controller):
    def factory(self) -> SMTP:
        return _Server(self.handler, **self.SMTP_kwargs)


class Sink:
    """What it was given, and what it says: each list of answers from its start, then yes.

    "close" closes the connection instead; in `data` "close early" does so before the mail has been sent.
    It thinks about each mail for so many seconds.
    """

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.port = free_port()
        self.rcpt: list[str] = []
        self.data: list[str] = []
        self.thinks_seconds = 0.0
        self._controller: Controller | None = None

    def start(self) -> None:
        self._controller = _Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    @property
    def ids(self) -> list[str]:
        """The mails' Message-IDs, which name their notices."""
        return [mail["Message-ID"].removeprefix("<").partition("@")[0] for mail in self.mails]

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def asks_for_mail(self) -> bool:
        """Say whether it goes on after the command DATA."""
        if self.data and self.data[0] == "close early":
            self.data.pop(0)
            return False
        return True

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        answer = self.rcpt.pop(0) if self.rcpt else "250 OK"
        if answer == "close":
            server.transport.close()
        elif answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        await asyncio.sleep(self.thinks_seconds)
        answer = self.data.pop(0) if self.data else "250 OK"
        if not answer.startswith(("4", "5")):
            self.recipients += envelope.rcpt_tos
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        if answer == "close":
            server.transport.close()
        return answer


@contextmanager
def listening_sink() -> Iterator[Sink]:
    sink = Sink()
    sink.start()
    try:
        yield sink
    finally:
        sink.stop()


def postman_process(sink: Sink, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """One round of the postman in a process group of its own."""
    script = "import django; django.setup(); from transfers import postman; postman.send_due()"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=settings.BASE_DIR,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "payflow.settings",
            "EMAIL_URL": sink.url,
            "NOTIFICATIONS_ENABLED": "true",
            **(env or {}),
        },
        start_new_session=True,
    )


def stored() -> list[dict[str, Any]]:
    """Return all notices."""
    return list(collection(Notice).find().sort("kind", 1))


def only() -> dict[str, Any]:
    """Return the one notice there is."""
    (notice,) = stored()
    return notice


def make_due() -> None:
    """Let the time of every notice that is still to be sent, or is being sent, be over."""
    past = clock.now() - timedelta(seconds=1)
    collection(Notice).update_many(
        {"next_attempt_at": {"$exists": True}}, {"$set": {"next_attempt_at": past}}
    )
