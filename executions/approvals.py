"""Answers to the questions of a run: one decision each, once, whoever else decides in the same moment."""

import uuid
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core import signing
from django.db import models, transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.translation import gettext as _

from executions import events
from executions.models import Approval, Execution, TaskRun
from executions.tasks import ring_soon
from portal.accounts import audit
from portal.accounts.models import User
from portal.accounts.permissions import Action, can, require
from portal.lib.problems import Conflict, FieldError, InvalidValues, Problem

MAX_TEXT = 500_000  # characters of an edited text
MAX_FEEDBACK = 20_000  # characters of what a rejection asks for
_SALT = "executions.approvals.link"


class Decision(models.TextChoices):
    """What a person may answer."""

    APPROVE = "approve", "approve"
    EDIT = "edit", "edit"
    REJECT = "reject", "reject"


_STATUS = {
    Decision.APPROVE: Approval.Status.APPROVED,
    Decision.EDIT: Approval.Status.EDITED,
    Decision.REJECT: Approval.Status.REJECTED,
}


class AlreadyAnswered(Conflict):
    """Somebody has decided differently, or the question is closed for another reason."""

    code = "already_answered"


class LinkDead(Problem):
    """A signed link that opens nothing (any more)."""

    status = 410
    code = "link_dead"


@dataclass(frozen=True)
class _Answer:
    status: Approval.Status
    text: str
    feedback: str


def answer(
    approval: Approval,
    by: User,
    decision: str,
    text: str = "",
    feedback: str = "",
    *,
    via: str = Approval.Via.PORTAL,
) -> Approval:
    """Decide a question: `approve` the work, `edit` (approve `text` instead), or `reject` it with `feedback`.

    An approved task is finished; one that is rejected is done again, and its agent is told the
    feedback. The run goes on if it waited for this. The same person may give the same answer again
    (a double click), and nothing happens.

    Raises `AlreadyAnswered` when it was decided otherwise or has closed, `InvalidValues` when the text
    or the feedback is missing or too long, `PermissionDenied` for whoever may not answer.
    """
    given = _clean(decision, text, feedback)
    with transaction.atomic():
        # The execution first, as everywhere: of two who answer at once one waits here. Rows that point
        # to it may be added meanwhile.
        execution = Execution.objects.select_for_update(no_key=True).get(pk=approval.execution_id)
        require(by, Action.ANSWER, execution)
        won = Approval.objects.filter(_in_time(), pk=approval.pk).update(
            status=given.status,
            text=given.text,
            feedback=given.feedback,
            answered_at=Now(),
            answered_by=by,
            answered_via=via,
            remind_at=None,
        )
        approval.refresh_from_db()
        if won:
            _carry_out(execution, approval, by)
            told = {"decision": approval.status, "via": via, "execution_id": approval.execution_id}
            audit.record("approval.answered", by=by, target=approval, after=told)
        elif not _is_repeated(approval, by, given):
            raise _too_late(approval)
    if won:
        ring_soon()
    return approval


def _clean(decision: str, text: str, feedback: str) -> _Answer:
    if decision not in Decision.values:
        known = ", ".join(Decision.values)
        raise InvalidValues([FieldError("decision", "invalid", _("Use one of: %(known)s.") % {"known": known})])
    # What goes with another decision may have been left in the form.
    text = text.replace("\r\n", "\n") if decision == Decision.EDIT else ""
    feedback = feedback.replace("\r\n", "\n").strip() if decision == Decision.REJECT else ""
    errors = []
    if decision == Decision.EDIT and not text.strip():
        errors.append(FieldError("text", "required", _("Give the text that you approve instead.")))
    if decision == Decision.REJECT and not feedback:
        errors.append(FieldError("feedback", "required", _("Say what should be done differently.")))
    for field, value, limit in (("text", text, MAX_TEXT), ("feedback", feedback, MAX_FEEDBACK)):
        if len(value) > limit:
            detail = _("At most %(limit)d characters, not %(n)d.") % {"limit": limit, "n": len(value)}
            errors.append(FieldError(field, "too_long", detail))
        if "\x00" in value:
            detail = _("The text holds a character that cannot be stored (NUL).")
            errors.append(FieldError(field, "not_text", detail))
    if errors:
        raise InvalidValues(errors)
    return _Answer(_STATUS[Decision(decision)], text, feedback)


def _carry_out(execution: Execution, approval: Approval, by: User) -> None:
    """What follows from a decision; the execution is locked."""
    tasks = TaskRun.objects.filter(execution=execution, task=approval.task)
    told: dict[str, Any] = {"task": approval.task, "role": approval.role, "attempt": execution.attempt}
    data: dict[str, Any] = {
        "approval_id": str(approval.pk),
        "round": approval.round,
        "decision": approval.status,
        "via": approval.answered_via,
        "by": by.get_username(),
        **({"feedback": approval.feedback} if approval.feedback else {}),
    }
    new = [events.NewEvent("approval.answered", data=data, **told)]
    if approval.status == Approval.Status.REJECTED:
        tasks.update(status=TaskRun.Status.PENDING, started_at=None, ended_at=None, output="", error="")
    else:
        tasks.update(status=TaskRun.Status.COMPLETED, ended_at=Now(), output=approval.result, error="")
        done = {"name": approval.name, "output": approval.result}
        new.append(events.NewEvent("task.completed", data=done, **told))
    events.append(execution.stream_id, new)
    execution.answered(by=by)


def _in_time() -> Q:
    """Still to be answered, by the database's clock."""
    return Q(status=Approval.Status.OPEN) & (Q(expires_at=None) | Q(expires_at__gt=Now()))


def _is_repeated(approval: Approval, by: User, given: _Answer) -> bool:
    stored = (approval.answered_by_id, approval.status, approval.text, approval.feedback)
    return stored == (by.pk, given.status, given.text, given.feedback)


def _too_late(approval: Approval) -> AlreadyAnswered:
    if approval.status in {Approval.Status.OPEN, Approval.Status.EXPIRED}:  # its time is over, and nobody has said so
        return AlreadyAnswered(
            _("The time to answer is over."), code="expired", hint=_("Retry the run to be asked again.")
        )
    if approval.status == Approval.Status.CANCELLED:
        return AlreadyAnswered(
            _("The run has ended, and with it the question."), hint=_("Retry the run to be asked again.")
        )
    named = {"name": approval.answered_by or _("Somebody"), "decision": Approval.Status(approval.status).label}
    return AlreadyAnswered(
        _("%(name)s has answered already: %(decision)s.") % named, hint=_("Read the question again.")
    )


# --- Who is asked --------------------------------------------------------------------------------------


def to_answer(user: User) -> "models.QuerySet[Approval]":
    """The questions, open and answered, that `user` may answer."""
    # Question by question: of runs there are many more.
    return Approval.objects.filter(Exists(Execution.objects.editable_by(user).filter(pk=OuterRef("execution"))))


def require_open(approval: Approval) -> None:
    """Raise `AlreadyAnswered` when it is decided or closed, or its time is over."""
    if not Approval.objects.filter(_in_time(), pk=approval.pk).exists():
        raise _too_late(approval)


# --- Signed links -----------------------------------------------------------------------------------------


def make_link(approval: Approval, user: User) -> str:
    """An absolute address at which `user` can answer without signing in, for `APPROVAL_LINK_DAYS` days.

    Whoever has it answers as `user`, this question and no other.
    """
    token = signing.dumps([approval.pk.hex, user.pk.hex], salt=_SALT)
    return settings.PORTAL_URL + reverse("executions:approval-link", args=[token])


def hand_out_link(approval: Approval, *, by: User) -> str:
    """A link of `make_link` for `by` to use or to give away; the audit log knows that there is one."""
    audit.record("approval.link_made", by=by, target=approval, after={"execution_id": approval.execution_id})
    return make_link(approval, by)


def from_token(token: str) -> tuple[Approval, User]:
    """The question of a signed link, and who answers with it; whether it is still open says `require_open`.

    Raises `LinkDead`, with a sentence for people, when the link is not ours, is too old, or was for
    somebody who may not answer any more.
    """
    try:
        found = signing.loads(token, salt=_SALT, max_age=settings.APPROVAL_LINK_DAYS * 86_400)
        approval_id, user_id = map(uuid.UUID, found)
    except signing.SignatureExpired as exc:
        raise LinkDead(_("This link is too old."), hint=_("Sign in to answer.")) from exc
    except (signing.BadSignature, ValueError, TypeError, AttributeError) as exc:
        raise LinkDead(_("This link is not valid."), hint=_("Copy the whole link, or sign in to answer.")) from exc
    approval = Approval.objects.select_related("execution__access__owner", "answered_by").filter(pk=approval_id).first()
    user = User.objects.filter(pk=user_id).first()
    if approval is None or user is None or not can(user, Action.ANSWER, approval.execution):
        raise LinkDead(_("This link does not open anything any more."), hint=_("Sign in to see what you may answer."))
    return approval, user
