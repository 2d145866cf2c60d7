"""What the API's views of projects have in common."""

from typing import Any

from django.db.models import Prefetch, QuerySet
from django.http import Http404
from django.utils.translation import gettext as _
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.serializers import Serializer

from portal.accounts.api import ScopeMissing, credential
from portal.accounts.models import Role, Scope
from portal.accounts.permissions import Action, find, person
from portal.lib.problems import FieldError, InvalidValues
from projects.models import Approver, Deliverable, Project, Stage, StageRun


def checked(serializer: "Serializer[Any]") -> dict[str, Any]:
    """The values that were sent. Raises DRF's `ValidationError`."""
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def require_scope(request: Request, scope: Scope) -> None:
    """Raise `ScopeMissing` when the request came with a credential that is not for `scope`."""
    shown = credential(request)
    if shown is not None and not shown.allows(scope):
        raise ScopeMissing(scope)


class OfProject:
    """Of views whose address names a project: viewers read, users work on it, and what a person may not see is
    not there."""

    read_role = Role.VIEWER
    write_role = Role.USER
    request: Any
    kwargs: Any

    def project(self, action: Action) -> Project:
        """The project, if whoever asks may do `action` with it. Raises `Http404` and `PermissionDenied`."""
        key = self.kwargs["project_id"] if "project_id" in self.kwargs else self.kwargs["pk"]
        return find(Project.objects.all(), person(self.request), action, pk=key)

    def stage(self, action: Action) -> Stage:
        """The stage of the address, by its id or its name, as `project` finds its project."""
        return named(self.project(action), self.kwargs["stage"])


def named(project: Project, stage: str) -> Stage:
    """A stage of `project` by its id or its name. Raises `Http404`. One query."""
    for one in project.stages.all():
        if stage in {one.stage_name, str(one.pk)}:
            one.project = project
            return one
    raise Http404


def referred(project: Project, stage: str, field: str) -> Stage:
    """A stage that the `field` of a body names. Raises `InvalidValues` where there is none."""
    try:
        return named(project, stage)
    except Http404 as exc:
        raise InvalidValues([FieldError(field, "does_not_exist", _("The project has no such stage."))]) from exc


def shown_stages(stages: "QuerySet[Stage]") -> "QuerySet[Stage]":
    """`stages` with all that their serializer shows: the latest run of each, who may approve, what they depend on."""
    runs = StageRun.objects.select_related("execution").only("stage_id", "cause", "execution__id", "execution__status")
    return stages.prefetch_related(
        Prefetch("runs", queryset=runs.order_by("-id")),
        Prefetch("approvers", queryset=Approver.objects.select_related("user")),
        Prefetch("depends_on", queryset=Stage.objects.only("pk", "stage_order")),
    )


def listed(deliverables: "QuerySet[Deliverable]") -> "QuerySet[Deliverable]":
    """`deliverables` without their texts, as lists show them."""
    return deliverables.select_related("stage").defer("content", "prompt", "search_text")


class AsItIs(BaseContentNegotiation):
    """Of files: they come as what they are, whatever is accepted. Errors stay JSON."""

    def select_parser(self, request: Any, parsers: Any) -> Any:
        return next(iter(parsers), None)

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type
