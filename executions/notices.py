"""Telling people that a run asks them something: by mail, where mail is set up.

Call these outside any transaction and off the event loop: a mail server may take `EMAIL_TIMEOUT`
seconds a person. Whatever it does, no run is harmed; the question stands in the portal in any case.
"""

from datetime import timedelta

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone, translation
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from executions import approvals, events
from executions.models import Approval, Execution
from portal.accounts import mail
from portal.accounts.models import AccessGrant, Role, User

MAX_PEOPLE = 20  # told of one question
EXCERPT = 1_500  # characters of the work that stand in a mail


def asked(approval: Approval) -> int:
    """Tell who may answer that a question has come. Returns how many mails went out."""
    return _mail(approval, is_reminder=False)


def remind(approval: Approval) -> int:
    """Tell them again that it is still open, and say so in the run's log. Returns how many mails went out."""
    sent = _mail(approval, is_reminder=True)
    data = {
        "kind": "reminder",
        "message": _("“%(name)s” still waits for an answer.") % {"name": approval.name},
        "approval_id": str(approval.pk),
        "mails": sent,
    }
    told = events.NewEvent("log", data=data, task=approval.task, role=approval.role, attempt=approval.attempt)
    with transaction.atomic():
        # The mail may have taken its time: the log of a run rests once it has ended.
        run = Execution.objects.active().select_for_update(no_key=True).filter(pk=approval.execution_id)
        if run.values_list("pk").first():
            events.append(approval.execution.stream_id, [told])
    return sent


def remind_due(most: int = 50) -> int:
    """Send the reminders whose time has come, by the database's clock; returns how many questions.

    Safe to run beside another one: each reminder belongs to whoever moves its question's next one.
    """
    count = 0
    due = Approval.objects.filter(status=Approval.Status.OPEN, remind_at__lte=Now()).order_by("remind_at")
    for approval in due.select_related("execution__access")[:most]:
        every = approval.execution.snapshot.get("limits", {}).get("approval_reminder_seconds")
        following = Now() + timedelta(seconds=every) if every else None
        still_due = Approval.objects.filter(pk=approval.pk, status=Approval.Status.OPEN, remind_at=approval.remind_at)
        if still_due.update(remind_at=following):
            remind(approval)
            count += 1
    return count


def people(approval: Approval) -> list[User]:
    """Who is told: the run's owner and its editors; all admins when nobody of those may answer."""
    access = approval.execution.access
    editors = AccessGrant.objects.filter(access=access, level=AccessGrant.Level.EDITOR).values("user")
    may_use = Q(role__in=[Role.USER, Role.ADMIN], is_active=True)
    found = list(User.objects.filter(may_use, Q(pk=access.owner_id) | Q(pk__in=editors)).distinct()[:MAX_PEOPLE])
    return found or list(User.objects.filter(role=Role.ADMIN, is_active=True)[:MAX_PEOPLE])


def _mail(approval: Approval, *, is_reminder: bool) -> int:
    if not settings.EMAIL_URL:
        return 0
    messages = [_message(approval, person, is_reminder) for person in people(approval) if person.email]
    return mail.send(messages)


def _message(approval: Approval, person: User, is_reminder: bool) -> EmailMessage:
    with translation.override(person.language or settings.LANGUAGE_CODE):
        named = {"task": approval.name, "run": approval.execution.name, "role": approval.role}
        subject = (
            _("Still waiting for your answer: %(task)s (%(run)s)") if is_reminder else _("%(task)s (%(run)s) asks you")
        )
        excerpt = approval.output[:EXCERPT] + ("\n…" if len(approval.output) > EXCERPT else "")
        lines = [
            _("The run “%(run)s” waits for you: is this work of “%(task)s” good as it is?") % named,
            excerpt,
            _("Approve it, change it, or send it back here, without signing in:"),
            approvals.make_link(approval, person),
            _("The link is yours alone and good for %(n)d days. Whoever has it answers as you.")
            % {"n": settings.APPROVAL_LINK_DAYS},
        ]
        if approval.expires_at is not None:
            until = date_format(timezone.localtime(approval.expires_at), "DATETIME_FORMAT")
            lines.append(_("Without an answer until %(until)s the run fails.") % {"until": until})
        return mail.message(person.email, subject % named, lines)
