"""Pages that look across everything."""

from django import forms
from django.db.models import F, OuterRef, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET

from crews.models import Crew
from crews.views.catalog import embedded
from crews.views.crews import AVATARS, with_counts
from executions.models import Execution, Worker
from executions.status import Status
from executions.views.lists import HEAVY
from portal.accounts.models import Role
from portal.accounts.permissions import allow
from portal.lib.forms import Styled
from projects.models import Project
from projects.views.lists import with_stages

RUNS = 8
CREWS = 6
PROJECTS = 4


@allow(Role.VIEWER)
@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """Where one starts: the newest projects, what waits for a decision, crews to run (the person's latest first),
    the last runs, and whether the machine is ready."""
    seen = Execution.objects.visible_to(request.user)
    runs = seen.select_related("created_by").defer(*HEAVY)
    crews = with_counts(Crew.objects.visible_to(request.user).filter(status=Crew.Status.ACTIVE))
    projects = with_stages(Project.objects.visible_to(request.user).current())
    context = {
        "projects": list(projects.order_by("-created_at", "-id")[:PROJECTS]),
        "runs": list(runs[:RUNS]),
        "crews": list(
            crews.annotate(ran_at=_last_run(request)).order_by(F("ran_at").desc(nulls_last=True), "name")[:CREWS]
        ),
        "avatars": AVATARS,
        "workers": list(Worker.objects.alive()),
        "embedded": embedded(),
        "waiting": seen.filter(status=Status.PENDING).count(),
        "running": seen.filter(status=Status.RUNNING).count(),
    }
    return render(request, "site/home.html", context)


def _last_run(request: HttpRequest) -> Subquery:
    """When the person last ran a crew."""
    own = Execution.objects.filter(crew=OuterRef("pk"), created_by=request.user.pk)
    return Subquery(own.order_by("-created_at").values("created_at")[:1])


class _Sample(Styled, forms.Form):
    """A field of each kind; always sent, so that faults show."""

    text = forms.CharField(help_text=_("A help text stands below."))
    fault = forms.IntegerField()
    choice = forms.ChoiceField(choices=[("a", "A"), ("b", "B")], required=False)
    paragraph = forms.CharField(widget=forms.Textarea, required=False)
    tick = forms.BooleanField(required=False, help_text=_("A help text stands below."))
    file = forms.FileField(required=False)


@allow(Role.ADMIN)
@require_GET
def components(request: HttpRequest) -> HttpResponse:
    """The gallery: every component of the design system on one page."""
    context = {
        "statuses": list(Status),
        "tones": ["neutral", "info", "success", "warning", "danger"],
        "names": ["Researcher", "Writer", "Planner", "Analyst", "조사원", "작가", "기획자"],
        "form": _Sample({"text": "Text", "fault": "x"}),
        "sample": "## Heading\n\nText with **bold**, `code` and a [link](https://example.com).\n\n"
        "- one\n- two\n\n| A | B |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n```\ncode\n```",
    }
    return render(request, "site/components.html", context)
