"""Sending by SMTP (RFC 5321) in a way that says what became of a mail.

What must stay true: OutcomeUnknown is raised whenever the server may have accepted the mail without our
hearing so, and never when it said no, or was not given the mail at all.
"""

from __future__ import annotations

import smtplib
from email.header import Header
from typing import Any

from django.core.mail.backends.smtp import EmailBackend


def subject_text(text: str) -> str:
    """Return what stands in the header Subject so that decoding it gives exactly `text`.

    Text that looks like an encoded word (RFC 2047) is encoded itself, or programs would decode it.
    """
    is_plain = text.isascii() and text.isprintable() and "=?" not in text
    # With its name the first encoded word fits on the first line: an empty line would be read as a space.
    return text if is_plain else Header(text, "utf-8", header_name="Subject").encode(linesep="")


class OutcomeUnknown(Exception):  # noqa: N818 - it reads as what happened
    """The connection ended between the handing over of a mail and the server's answer to it."""


class _Telling(smtplib.SMTP):
    _may_send = False

    def getreply(self) -> tuple[int, bytes]:
        """Note the server's word that the mail itself may come now: 354 (RFC 5321, 4.3.2)."""
        code, said = super().getreply()
        self._may_send = self._may_send or code == 354
        return code, said

    def data(self, msg: Any) -> tuple[int, bytes]:
        """Send the mail itself. Until the server asks for it, it is certain that it has nothing to accept."""
        self._may_send = False
        try:
            code, said = super().data(msg)
        except smtplib.SMTPDataError:
            raise  # it would not take the mail
        except OSError as error:  # smtplib's own errors are of this kind, too
            if not self._may_send:
                raise
            raise OutcomeUnknown from error
        # 250 is a yes, 4yz and 5yz are a no (RFC 5321, 4.2.1); what else it says here, nobody can tell.
        if code != 250 and not 400 <= code <= 599:
            raise OutcomeUnknown
        return code, said


class _TellingTls(_Telling, smtplib.SMTP_SSL):
    pass


class SmtpBackend(EmailBackend):
    """Django's SMTP backend, which also raises OutcomeUnknown."""

    @property
    def connection_class(self) -> type[smtplib.SMTP]:
        """Return the protocol's client, with TLS from the first byte or not."""
        return _TellingTls if self.use_ssl else _Telling
