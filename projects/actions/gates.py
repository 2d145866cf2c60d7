"""The gate of a stage: who may decide about its deliverables, and what a decision does."""

from collections.abc import Collection, Iterable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from portal.accounts import audit
from portal.accounts.models import AccessGrant, Role, User
from portal.accounts.permissions import NOT_ALLOWED, Action, can
from portal.lib.problems import Conflict, FieldError, InvalidValues, Problem
from projects.actions.ground import hold_deliverable, hold_stage, of, tell, tell_created
from projects.actions.progress import BY_PEOPLE, follow
from projects.actions.putback import mark_stale
from projects.actions.runs import complete
from projects.actions.starting import start_by_itself
from projects.deliverables import versions
from projects.models import Deliverable, Review, Stage, StageRun
from projects.status import StageStatus

Decision = Review.Decision
Status = Deliverable.Status
MAX_COMMENTS = 20_000  # characters
_LABEL = 100  # characters of a role


# --- Who -----------------------------------------------------------------------------------------


def may_review(user: User, stage: Stage) -> bool:
    """Whether `user` may review deliverables of `stage`: who may answer for the project, or was named.

    Three queries at most.
    """
    if can(user, Action.ANSWER, stage.project):
        return True
    is_named = user.has_role(Role.USER) and stage.approvers.filter(user=user).exists()
    return is_named and can(user, Action.SEE, stage.project)


def reviewers(stage: Stage) -> QuerySet[User]:
    """Everybody (but admins) who may review `stage`: owner, editors, named approvers. One query."""
    access = stage.project.access
    editors = AccessGrant.objects.filter(access=access, level=AccessGrant.Level.EDITOR).values("user")
    theirs = Q(pk=access.owner_id) | Q(pk__in=editors) | Q(pk__in=stage.approvers.values("user"))
    return User.objects.filter(theirs, role__in=[Role.USER, Role.ADMIN], is_active=True).order_by("username")


def require_reviewer(user: User, stage: Stage) -> None:
    """Raise `PermissionDenied` unless `user` may review `stage`."""
    if not may_review(user, stage):
        raise PermissionDenied(NOT_ALLOWED)


def authors(deliverables: Iterable[Deliverable]) -> set[Any]:
    """The ids of those whose work some of these versions is: who edited it since a role made it, and who started
    that run. Two queries."""
    found: set[Any] = set()
    made_by: set[Any] = set()
    wanted = {deliverable.lineage: deliverable.created_at for deliverable in deliverables}
    rows = Deliverable.objects.filter(lineage__in=wanted).order_by("-created_at", "-pk")
    for lineage, at, person, execution in rows.values_list("lineage", "created_at", "created_by", "execution"):
        if lineage not in wanted or at > wanted[lineage]:
            continue
        if person is not None:
            found.add(person)
        else:
            made_by.add(execution)
            del wanted[lineage]
    starters = StageRun.objects.filter(execution__in=made_by).exclude(started_by=None)
    return found | set(starters.values_list("started_by", flat=True))


def _require_other_eyes(deliverable: Deliverable, by: User, *, edits: bool) -> None:
    if deliverable.stage.excludes_author and (edits or by.pk in authors([deliverable])):
        raise Problem(
            _("This stage wants a second pair of eyes: its author may not approve it."),
            status=403,
            code="author_excluded",
            hint=_("Ask somebody else who may review it, or delegate the review."),
        )


# --- Deciding ------------------------------------------------------------------------------------


def review(
    deliverable: Deliverable,
    by: User,
    *,
    decision: str,
    comments: str = "",
    role: str = "",
    content: str | None = None,
    sha256: str = "",
) -> Deliverable:
    """Decide about a version: `approved` or `rejected` (“sent back”). Returns the version that was decided about.

    With `content`, a new version with that text is made and approved. `role` labels the decision. `sha256`: what the
    person has seen, where the caller knows it.

    An approval counts for this version alone. When every deliverable in review has as many as the stage's quorum, the
    stage is completed and what depends on it may start. Sending back takes all deliverables in review back, and the
    role works again with the comments.

    Raises `PermissionDenied` for who may not review the stage, `Problem` 403 `author_excluded` for an author where
    the stage wants a second pair of eyes, `Conflict` for a version that is not the latest, is decided, was decided
    by this person already, or is not what they have seen, and `InvalidValues` for a rejection without comments.
    """
    _check(decision, comments, content)
    with transaction.atomic():
        hold_deliverable(deliverable)
        require_reviewer(by, deliverable.stage)
        decided = _decide(deliverable, by, decision, comments.strip(), role.strip()[:_LABEL], content, sha256)
        _go_on(deliverable.stage)
        follow(deliverable.project)
    return decided


def review_stage(
    stage: Stage, by: User, *, decision: str, comments: str = "", role: str = "", seen: Collection[str] = ()
) -> Stage:
    """Decide about all deliverables of `stage` that are in review, but those that `by` has approved already.

    `seen`: the SHA-256 of each that the person has read, where the caller knows them. Raises what `review` raises.
    """
    _check(decision, comments, None)
    with transaction.atomic():
        hold_stage(stage)
        require_reviewer(by, stage)
        waiting = list(in_review(stage).exclude(reviews__reviewer=by))
        if not waiting:
            raise _nothing_to_review(stage, by)
        if seen and any(deliverable.sha256 not in seen for deliverable in waiting):
            raise _content_changed()
        for deliverable in waiting[:1] if decision == Decision.REJECTED else waiting:
            deliverable.stage, deliverable.project = stage, stage.project
            _decide(deliverable, by, decision, comments.strip(), role.strip()[:_LABEL], None, "")
        _go_on(stage)
        follow(stage.project)
    return stage


def in_review(stage: Stage) -> QuerySet[Deliverable]:
    """The stage's deliverables that wait for a decision."""
    latest = stage.deliverables.filter(is_latest=True, status=Status.REVIEW)
    return latest.order_by("deliverable_type", "created_at", "pk")


def _nothing_to_review(stage: Stage, by: User) -> Conflict:
    if in_review(stage).exists():
        return _reviewed_already()
    return Conflict(_("Nothing of “%(stage)s” is in review.") % {"stage": stage.label}, code="nothing_to_review")


def _content_changed() -> Conflict:
    return Conflict(_("This is not what you have read."), code="content_changed", hint=_("Read it again, then decide."))


def _reviewed_already() -> Conflict:
    return Conflict(
        _("You have decided about this version already."),
        code="reviewed_already",
        hint=_("It takes others to decide what is left."),
    )


def _check(decision: str, comments: str, content: str | None) -> None:
    errors = []
    if decision not in Decision.values:
        errors.append(FieldError("status", "invalid_choice", _("Say “approved” or “rejected”.")))
    if decision == Decision.REJECTED and not comments.strip():
        detail = _("Say what should be different: the role works again with it.")
        errors.append(FieldError("review_comments", "required", detail))
    if decision == Decision.REJECTED and content is not None:
        detail = _("A text can only be given with an approval.")
        errors.append(FieldError("content", "not_allowed", detail))
    if len(comments) > MAX_COMMENTS:
        detail = _("At most %(limit)d characters, not %(n)d.") % {"limit": MAX_COMMENTS, "n": len(comments)}
        errors.append(FieldError("review_comments", "too_long", detail))
    if errors:
        raise InvalidValues(errors)


def _decide(
    deliverable: Deliverable, by: User, decision: str, comments: str, role: str, content: str | None, sha256: str
) -> Deliverable:
    """Write one decision down and do what it means for its version; the stage is brought in line by the caller."""
    _require_decidable(deliverable, by, sha256)
    if decision == Decision.APPROVED:
        edits = content is not None and content != deliverable.content
        _require_other_eyes(deliverable, by, edits=edits)
        if edits:
            stage, project = deliverable.stage, deliverable.project
            deliverable = versions.edit(deliverable, by, content=content, status=Status.REVIEW)
            deliverable.stage, deliverable.project = stage, project
            tell_created(deliverable)
    given = Review.objects.create(
        deliverable=deliverable,
        reviewer=by,
        role=role,
        decision=decision,
        comments=comments,
        sha256=deliverable.sha256,
    )
    if decision == Decision.APPROVED:
        _approve(deliverable, comments=comments, role=role)
    else:
        _send_back(deliverable, comments=comments, role=role)
    _tell(deliverable, given)
    return deliverable


def _require_decidable(deliverable: Deliverable, by: User, sha256: str) -> None:
    if not deliverable.is_latest:
        raise Conflict(
            _("There is a newer version of this."), code="not_latest", hint=_("Decide about the latest version.")
        )
    if deliverable.status in {Status.APPROVED, Status.REJECTED}:
        raise Conflict(
            _("This version is decided already."), code="decided_already", hint=_("Edit it to make a new version.")
        )
    if deliverable.reviews.filter(reviewer=by).exists():
        raise _reviewed_already()
    if (sha256 and sha256 != deliverable.sha256) or not versions.is_whole(deliverable):
        raise _content_changed()


def approvals_of(deliverable: Deliverable) -> int:
    """How many people have approved what this version holds. One query."""
    return deliverable.reviews.filter(decision=Decision.APPROVED, sha256=deliverable.sha256).count()


def _approve(deliverable: Deliverable, *, comments: str, role: str) -> None:
    """One more approval; the version is approved once there are as many as the stage wants."""
    changes: dict[str, Any] = {"reviewed_by_role": role, "review_comments": comments or deliverable.review_comments}
    if approvals_of(deliverable) >= deliverable.stage.quorum:
        changes |= {"status": Status.APPROVED, "approved_by_role": role}
    _write(deliverable, changes)
    is_later = deliverable.stage.stage_status == StageStatus.COMPLETED
    earlier = versions.of(deliverable).exclude(pk=deliverable.pk).filter(status=Status.APPROVED)
    if deliverable.status == Status.APPROVED and is_later and earlier.exists():
        mark_stale(deliverable.stage)


def _send_back(deliverable: Deliverable, *, comments: str, role: str) -> None:
    """The version is rejected; where its stage is in review, so is all that waits with it, and the role works again."""
    stage = deliverable.stage
    changes = {"status": Status.REJECTED, "reviewed_by_role": role, "review_comments": comments}
    _write(deliverable, changes)
    if stage.stage_status != StageStatus.REVIEW:
        return
    for other in in_review(stage):
        _write(other, changes)
    tell(
        stage.project,
        "stage_rejected",
        role=stage.responsible_role,
        stage_id=str(stage.pk),
        stage_name=stage.stage_name,
        responsible_role=stage.responsible_role,
        comments=comments,
    )


def _go_on(stage: Stage) -> None:
    """After decisions: a stage in review is done, works again, or waits for more of them."""
    if stage.stage_status != StageStatus.REVIEW:
        return
    latest = stage.deliverables.filter(is_latest=True)
    if latest.filter(status=Status.REVIEW).exists():
        return
    # What a person made is made anew by a person: no run of the role replaces it.
    of_the_role = Deliverable.objects.filter(stage=stage, created_by=None).exclude(created_by_role="")
    if not latest.filter(status=Status.REJECTED, lineage__in=of_the_role.values("lineage")).exists():
        complete(stage)
    elif stage.project.status in BY_PEOPLE:
        stage.move_to(StageStatus.PENDING, review_since=None, review_due_at=None, escalated_at=None, end_date=None)
    else:
        start_by_itself(stage)


def settle_quorum(stage: Stage) -> None:
    """The stage wants another number of approvals: some versions may have enough now. Its project is locked."""
    for deliverable in in_review(stage):
        deliverable.stage, deliverable.project = stage, stage.project
        given = approvals_of(deliverable)
        if given and given >= stage.quorum:
            last = deliverable.reviews.filter(decision=Decision.APPROVED).order_by("-created_at").first()
            _write(deliverable, {"status": Status.APPROVED, "approved_by_role": last.role if last else ""})
    _go_on(stage)


def _write(deliverable: Deliverable, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        setattr(deliverable, name, value)
    deliverable.save(update_fields=list(changes))


def _tell(deliverable: Deliverable, given: Review) -> None:
    stage, by = deliverable.stage, given.reviewer
    audit.record(
        f"deliverable.{given.decision}",
        by=by,
        target=deliverable,
        after={"sha256": given.sha256, "status": deliverable.status, "comments": given.comments, "role": given.role},
    )
    tell(
        deliverable.project,
        "deliverable_reviewed",
        role=deliverable.created_by_role,
        deliverable_id=str(deliverable.pk),
        deliverable_type=deliverable.deliverable_type,
        title=deliverable.title,
        version=deliverable.version,
        stage_name=stage.stage_name,
        decision=str(given.decision),
        status=str(deliverable.status),
        reviewed_by=by.get_username() if by else "",
        reviewed_by_role=given.role,
        approvals=approvals_of(deliverable),
        needed=stage.quorum,
    )


# --- Versions by hand ----------------------------------------------------------------------------


def add_deliverable(stage: Stage, by: User, **values: Any) -> Deliverable:
    """A deliverable of `stage` that a person made, with a lineage of its own; `values` as `versions.make` takes them.

    Raises `InvalidValues`, and `Conflict` for an archived project.
    """
    with transaction.atomic():
        hold_stage(stage)
        made = versions.add(project=stage.project, stage=stage, by=by, **values)
        made.stage, made.project = stage, stage.project
        tell_created(made)
    return made


def edit_deliverable(deliverable: Deliverable, by: User, **changes: Any) -> Deliverable:
    """The next version of a deliverable, by hand; `changes` as `versions.edit` takes them.

    Approvals of the version before do not count for it. Raises `EditConflict` where that is not the latest,
    `InvalidValues`, and `Conflict` for an archived project.
    """
    with transaction.atomic():
        hold_deliverable(deliverable)
        made = versions.edit(deliverable, by, **changes)
        made.stage, made.project = of(deliverable.stage, deliverable.project), deliverable.project
        tell_created(made)
    return made
