"""Sending mail, where mail is set up (`EMAIL_URL`): the one way, for whoever has something to tell.

Call it outside any transaction and off the event loop: a mail server may take `EMAIL_TIMEOUT` seconds.
"""

import logging
import smtplib
from collections.abc import Iterable

from django.conf import settings
from django.core.mail import EmailMessage, get_connection

logger = logging.getLogger(__name__)


def message(to: str, subject: str, paragraphs: Iterable[str]) -> EmailMessage:
    """A plain mail; a subject of several lines, which would be refused as a header, becomes one."""
    return EmailMessage(" ".join(subject.split()), "\n\n".join(paragraphs), to=[to])


def send(messages: Iterable[EmailMessage]) -> int:
    """How many went out (0 without `EMAIL_URL`); what cannot be sent is logged.

    Each goes by itself, so that one address that is refused keeps no other mail back.
    """
    if not settings.EMAIL_URL:
        return 0
    sent = 0
    try:
        with get_connection() as server:
            for mail in messages:
                try:
                    sent += server.send_messages([mail]) or 0
                except (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError) as exc:
                    logger.warning("a mail was refused: %s", exc)
    except (OSError, smtplib.SMTPException) as exc:
        logger.warning("mail cannot be sent: %s", exc)
    return sent
