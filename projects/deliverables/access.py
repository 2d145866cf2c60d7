"""The access log of deliverables, what a role may be given, and letting somebody see them.

A role in the log is a label: it says who asked, and grants nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from executions.events import plain
from portal.accounts import invitations
from portal.accounts.models import AccessGrant, Invitation, User
from portal.accounts.permissions import Action, can, require
from portal.lib.problems import FieldError, InvalidValues
from projects.models import Deliverable, DeliverableAccess, Project, Stage

_LABEL = 100  # characters of a role
Kind = DeliverableAccess.Kind


@dataclass(frozen=True)
class Shared:
    """What came of sharing: the invitation (None when they may see it already), and the link to hand over
    (None when it was mailed)."""

    invitation: Invitation | None
    link: str | None


def log(deliverable: Deliverable, by: User | None, kind: str, role: str = "", **details: Any) -> DeliverableAccess:
    """Say that `by`, or a run of `role`, read, edited, downloaded or shared a version. One INSERT."""
    return log_all([deliverable], by, kind, role, **details)[0]


def log_all(
    deliverables: Iterable[Deliverable], by: User | None, kind: str, role: str = "", **details: Any
) -> list[DeliverableAccess]:
    """As `log`, of several versions at once. One INSERT."""
    return DeliverableAccess.objects.bulk_create(
        DeliverableAccess(
            deliverable=deliverable,
            project_id=deliverable.project_id,
            accessed_by=by,
            accessed_by_role=plain(role)[:_LABEL],
            access_type=Kind(kind),
            access_details=plain(details),
        )
        for deliverable in deliverables
    )


def log_unread(deliverables: Sequence[Deliverable], by: User) -> None:
    """Say that `by` read those of these versions that they had not read before. Two queries at most."""
    known = set(
        DeliverableAccess.objects.filter(deliverable__in=deliverables, accessed_by=by, access_type=Kind.READ)
        .order_by()
        .values_list("deliverable", flat=True)
        .distinct()
    )
    log_all([one for one in deliverables if one.pk not in known], by, Kind.READ)


def of(thing: Deliverable | Project) -> QuerySet[DeliverableAccess]:
    """The log of all versions of a deliverable, or of a project, the newest first."""
    rows = DeliverableAccess.objects.select_related("accessed_by", "deliverable")
    rows = rows.defer(*(f"deliverable__{name}" for name in Deliverable.HEAVY))
    if isinstance(thing, Project):
        return rows.filter(project=thing)
    return rows.filter(deliverable__in=Deliverable.objects.filter(lineage=thing.lineage).values("pk"))


def accessible(project: Project, role: str) -> QuerySet[Deliverable]:
    """The latest versions of what `role` may build on: of the stages that come before its own, and its own.

    A stage comes before another that depends on it, by however many steps. Raises `InvalidValues` for a role
    that the project does not have. Three queries, and the queryset's.
    """
    stages = list(Stage.objects.filter(project=project).only("pk", "responsible_role"))
    named = {stage.responsible_role for stage in stages} | {*project.mappings.values_list("role_name", flat=True)}
    wanted = _plain_name(role)
    names = {name for name in named if _plain_name(name) == wanted}
    if not names:
        known = ", ".join(sorted(named))
        detail = _("The project has no role “%(role)s”; it has: %(known)s.") % {"role": role[:_LABEL], "known": known}
        raise InvalidValues([FieldError("role", "unknown_role", detail)])
    own = {stage.pk for stage in stages if stage.responsible_role in names}
    return Deliverable.objects.filter(
        Q(stage__in=own | _before(project, own)) | Q(created_by_role__in=names), project=project, is_latest=True
    )


def share(deliverable: Deliverable, by: User, *, user: User | None = None, email: str = "") -> Shared:
    """Let `user`, or whoever gets mail at `email`, see the project that the deliverable belongs to.

    Who may see it already is not invited again. Tells them by mail, so call it outside any transaction.
    Raises `PermissionDenied` unless `by` is the owner or an admin, and what `invitations.invite` raises.
    """
    project = deliverable.project
    require(by, Action.SHARE, project)
    page = settings.PORTAL_URL + deliverable.get_absolute_url()
    if user is not None and can(user, Action.SEE, project):
        log(deliverable, by, Kind.SHARE, user_id=str(user.pk), username=user.get_username())
        return Shared(None, page)
    invitation, token = invitations.invite(
        project, level=AccessGrant.Level.VIEWER, by=by, user=user, email="" if user else email
    )
    whom = {"user_id": str(user.pk), "username": user.get_username()} if user else {"email": email}
    log(deliverable, by, Kind.SHARE, invitation_id=str(invitation.pk), **whom)
    return Shared(invitation, None if invitations.tell(invitation, token) else invitations.link_of(token))


def _plain_name(role: str) -> str:
    """A role's name in one form: “Product Manager”, “product manager” and “product_manager” are one role."""
    return " ".join(role.casefold().replace("_", " ").replace("-", " ").split())


def _before(project: Project, stages: set[Any]) -> set[Any]:
    """The stages that `stages` depend on, by however many steps. One query."""
    links = Stage.depends_on.through.objects.filter(from_stage__project=project)
    sources: dict[Any, set[Any]] = {}
    for later, earlier in links.values_list("from_stage_id", "to_stage_id"):
        sources.setdefault(later, set()).add(earlier)
    found: set[Any] = set()
    open_ones = set(stages)
    while open_ones:
        open_ones = {earlier for stage in open_ones for earlier in sources.get(stage, ())} - found
        found |= open_ones
    return found
