"""Who beside the editors decides about a stage: named approvers, those who stand in, and whom it is passed on to."""

from collections.abc import Iterable

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.http import Http404
from django.utils import timezone, translation
from django.utils.translation import gettext, gettext_noop
from django.utils.translation import gettext as _

from portal.accounts import audit, mail
from portal.accounts.models import Role, User
from portal.accounts.permissions import Action, can
from portal.lib.problems import FieldError, InvalidValues
from projects.actions.gates import require_reviewer
from projects.actions.ground import hold, hold_stage, of, tell
from projects.models import Approver, Stage
from projects.status import StageStatus

MAX_APPROVERS = 50


def check_people(stage: Stage, people: Iterable[User], *, field: str) -> None:
    """Raise `InvalidValues` for who could not review the stage if they were asked to."""
    errors = []
    for person in people:
        named = {"name": person.get_username()}
        if not (person.is_active and person.has_role(Role.USER)):
            errors.append(FieldError(field, "not_a_user", _("“%(name)s” has no role that reviews.") % named))
        elif not can(person, Action.SEE, stage.project):
            detail = _("“%(name)s” cannot see the project. Invite them first.")
            errors.append(FieldError(field, "cannot_see", detail % named))
    if errors:
        raise InvalidValues(errors)


def set_approvers(stage: Stage, by: User, people: Iterable[User]) -> list[Approver]:
    """Make `people` the named approvers of `stage`; those who stand in for somebody stay.

    Raises `InvalidValues` for who may not see the project or is not at least a `user`, `Conflict` for an archived one.
    """
    with transaction.atomic():
        hold_stage(stage)
        replace_approvers(stage, by, people)
    return list(stage.approvers.select_related("user", "delegated_by"))


def replace_approvers(stage: Stage, by: User, people: Iterable[User]) -> None:
    """As `set_approvers`, of a stage whose project is locked."""
    wanted = {person.pk: person for person in people}
    if len(wanted) > MAX_APPROVERS:
        detail = _("At most %(limit)d people.") % {"limit": MAX_APPROVERS}
        raise InvalidValues([FieldError("approvers", "too_many", detail)])
    named = stage.approvers.filter(delegated_by=None, is_escalation=False)
    before = {row.user_id: row.user for row in named.select_related("user")}
    check_people(stage, (person for pk, person in wanted.items() if pk not in before), field="approvers")
    named.exclude(user__in=wanted).delete()
    there = set(stage.approvers.values_list("user", flat=True))
    Approver.objects.bulk_create(Approver(stage=stage, user=person) for pk, person in wanted.items() if pk not in there)
    if before.keys() != wanted.keys():
        audit.record(
            "stage.approvers_changed",
            by=by,
            target=stage,
            name=f"{stage.project}: {stage.label}",
            before={"approvers": sorted(person.get_username() for person in before.values())},
            after={"approvers": sorted(person.get_username() for person in wanted.values())},
        )


def delegate(stage: Stage, by: User, *, to: User) -> Approver:
    """Let `to` review the stage too, in the name of `by`, and tell them by mail. Call it outside any transaction.

    Raises `PermissionDenied` unless `by` may review it, and what `set_approvers` raises.
    """
    with transaction.atomic():
        hold_stage(stage)
        require_reviewer(by, stage)
        check_people(stage, [to], field="user_id")  # as the API names it
        row, is_new = Approver.objects.get_or_create(stage=stage, user=to, defaults={"delegated_by": by})
        if is_new:
            audit.record(
                "stage.delegated",
                by=by,
                target=stage,
                name=f"{stage.project}: {stage.label}",
                after={"to": to.get_username()},
            )
    if is_new and stage.stage_status == StageStatus.REVIEW:
        _mail(
            stage,
            to,
            gettext_noop("%(by)s asks you to review “%(stage)s” of the project “%(project)s”."),
            by=by.get_username(),
        )
    return row


def escalate_due(most: int = 50) -> int:
    """Pass on the stages that have waited too long for a review; returns how many. A chore, safe beside itself."""
    due = Stage.objects.filter(stage_status=StageStatus.REVIEW, escalated_at=None, review_due_at__lte=Now())
    count = 0
    for stage in due.select_related("project__access__owner", "escalate_to").order_by("review_due_at")[:most]:
        count += _escalate(stage)
    return count


def _escalate(stage: Stage) -> bool:
    try:
        with transaction.atomic():
            project = hold(stage.project, archived_too=True)
            still_due = Stage.objects.filter(
                pk=stage.pk, stage_status=StageStatus.REVIEW, escalated_at=None, review_due_at__lte=Now()
            )
            now = timezone.now()
            if not still_due.update(escalated_at=now):
                return False
            stage.refresh_from_db()
            to = _whom(of(stage, project))
            Approver.objects.get_or_create(stage=stage, user=to, defaults={"is_escalation": True})
            audit.record(
                "stage.escalated",
                by=None,
                target=stage,
                name=f"{project}: {stage.label}",
                after={"to": to.get_username()},
            )
            tell(
                project,
                "progress",
                role=stage.responsible_role,
                reason="escalated",
                stage_id=str(stage.pk),
                stage_name=stage.stage_name,
                escalated_to=to.get_username(),
                progress_percentage=project.progress_percentage,
                current_stage=project.current_stage,
            )
    except Http404:  # the project was deleted in this moment
        return False
    _mail(
        stage,
        to,
        gettext_noop("“%(stage)s” of the project “%(project)s” has waited too long for a review. Please decide."),
    )
    return True


def _whom(stage: Stage) -> User:
    """Whom the stage is passed on to: the person who is named for that, while they may review it, else the owner."""
    to, project = stage.escalate_to, stage.project
    if to is not None and to.has_role(Role.USER) and can(to, Action.SEE, project):
        return to
    return project.access.owner


def _mail(stage: Stage, to: User, sentence: str, **named: str) -> None:
    """Tell a person that they are asked to review a stage; `sentence` is a message's key."""
    if not (settings.EMAIL_URL and to.email):
        return
    with translation.override(to.language or settings.LANGUAGE_CODE):
        said = {"stage": stage.label, "project": stage.project.name, **named}
        subject = _("Please review: %(stage)s (%(project)s)") % said
        lines = [
            gettext(sentence) % said,
            settings.PORTAL_URL + stage.project.get_absolute_url(),
        ]
        message = mail.message(to.email, subject, lines)
    mail.send([message])
