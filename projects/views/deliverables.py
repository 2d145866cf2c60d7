"""The page of a deliverable: one version of a document or code bundle, with all that is known about it."""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from crews.views.crews import status_of
from portal.accounts.forms import WhoForm
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, can, find, person, require
from portal.accounts.views.access import invited
from portal.lib.forms import errors_on
from portal.lib.pages import asked_for, page_of
from portal.lib.problems import Conflict, Problem
from projects import actions
from projects.deliverables import access, bundle, comments, diffs
from projects.forms import CommentForm, EditDeliverableForm, ReviewForm
from projects.models import Deliverable, DeliverableAccess, Project
from projects.views.gates import DECISIONS
from projects.views.shown import review_form

Kind = DeliverableAccess.Kind
VERSIONS = 50
COMMENTS = 100


def deliverable_of(request: HttpRequest, pk: Any, action: Action = Action.SEE) -> Deliverable:
    """The deliverable of an address, if the person may do `action` with its project."""
    project = find(Project.objects.select_related("stream"), request.user, action, deliverables__pk=pk)
    rows = Deliverable.objects.select_related("stage", "created_by", "execution", "parent_deliverable")
    deliverable = rows.get(pk=pk)
    deliverable.project = deliverable.stage.project = project
    return deliverable


@allow(Role.VIEWER)
@require_GET
@never_cache
def deliverable_detail(request: HttpRequest, pk: Any) -> HttpResponse:
    """What it says, its versions, who made it and who decided, comments; `?file=` shows a file of a bundle."""
    deliverable = deliverable_of(request, pk)
    access.log(deliverable, person(request), Kind.READ)
    return render(request, "projects/deliverable_detail.html", context_of(request, deliverable))


def context_of(request: HttpRequest, deliverable: Deliverable, form: ReviewForm | None = None) -> dict[str, Any]:
    """All that the page shows; the number of queries does not grow with it."""
    user, stage = person(request), deliverable.stage
    files = list(deliverable.files.defer("content"))
    lineage = Deliverable.objects.filter(lineage=deliverable.lineage).select_related("created_by")
    in_review = deliverable.is_latest and deliverable.status == Deliverable.Status.REVIEW
    reviews = list(deliverable.reviews.select_related("reviewer"))
    has_decided = any(review.reviewer_id == user.pk for review in reviews)
    is_open = in_review and not has_decided and not deliverable.project.is_archived
    may_review = is_open and actions.may_review(user, stage)
    refused = form
    if may_review and form is None:
        form = review_form(stage, user, [deliverable], key="review")
    may_change = can(user, Action.CHANGE, deliverable.project) and not deliverable.project.is_archived
    return {
        "project": deliverable.project,
        "deliverable": deliverable,
        "stage": stage,
        "files": files,
        "tree": bundle.tree(deliverable) if files else [],
        "shown": file_of(deliverable, asked_for(request, "file")) if files else None,
        "versions": list(lineage.defer(*Deliverable.HEAVY).order_by("-created_at", "-id")[:VERSIONS]),
        "newer": newer_of(deliverable),
        "reviews": reviews,
        "comments": list(deliverable.comments.select_related("author")[:COMMENTS]),
        "comment_form": CommentForm() if user.has_role(Role.USER) else None,
        "accesses": list(deliverable.accesses.select_related("accessed_by")[:8]),
        "form": form if may_review else None,
        "overtaken": refused if not may_review else None,
        "in_review": in_review,
        "has_decided": has_decided,
        "may_share": can(user, Action.SHARE, deliverable.project),
        "may_edit": may_change and deliverable.is_latest and not deliverable.upload,
    }


@dataclass(frozen=True)
class ShownFile:
    """A file of a bundle as the page shows it."""

    path: str
    size: int
    html: str


def file_of(deliverable: Deliverable, path: str) -> ShownFile | None:
    """The file of that path, coloured; without one, the first that a reader would look at."""
    rows = deliverable.files.all()
    row = rows.filter(path=path).first() if path else None
    if path and row is None:
        raise Http404
    row = row or rows.filter(path__in=["main.py", "README.md"]).first() or rows.first()
    return ShownFile(row.path, row.size, bundle.highlighted(row)) if row else None


def newer_of(deliverable: Deliverable) -> Deliverable | None:
    """The latest version, where this is not it."""
    if deliverable.is_latest:
        return None
    return Deliverable.objects.filter(lineage=deliverable.lineage, is_latest=True).defer(*Deliverable.HEAVY).first()


@allow(Role.VIEWER)
@require_GET
@never_cache
def deliverable_changes(request: HttpRequest, pk: Any) -> HttpResponse:
    """What changed since another version (`?against=`; the one before, if none is named)."""
    deliverable = deliverable_of(request, pk)
    every = Deliverable.objects.filter(lineage=deliverable.lineage).exclude(pk=deliverable.pk).defer(*Deliverable.HEAVY)
    others = list(every.order_by("-created_at", "-id")[:VERSIONS])
    against = _against(request, deliverable, others)
    if against is not None and against not in others:
        others.append(against)
    access.log(deliverable, person(request), Kind.READ)
    context = {
        "project": deliverable.project,
        "deliverable": deliverable,
        "others": others,
        "against": against,
        "difference": diffs.between(against, deliverable) if against else None,
    }
    return render(request, "projects/deliverable_changes.html", context)


def _against(request: HttpRequest, deliverable: Deliverable, others: list[Deliverable]) -> Deliverable | None:
    wanted = request.GET.get("against", "")
    if not wanted:
        return deliverable.parent_deliverable or next(iter(others), None)
    try:
        found = Deliverable.objects.filter(lineage=deliverable.lineage, pk=wanted).first()
    except ValidationError:
        found = None
    if found is None:
        raise Http404
    return found


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
@never_cache
def deliverable_edit(request: HttpRequest, pk: Any) -> HttpResponse:
    """Write a new version by hand. Who was overtaken by another edit is told so, and keeps what they wrote."""
    deliverable = deliverable_of(request, pk, Action.CHANGE)
    files = dict(deliverable.files.values_list("path", "content"))
    form = EditDeliverableForm(request.POST or None, deliverable=deliverable, files=files)
    newest = newer_of(deliverable)
    if request.method == "GET":
        access.log(deliverable, person(request), Kind.READ)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        try:
            with errors_on(form):
                made = actions.edit_deliverable(
                    deliverable,
                    person(request),
                    content=given["content"].replace("\r\n", "\n"),
                    files=form.given_files(),
                    title=given["title"],
                    tags=form.tag_list(),
                    if_match=given["if_match"],
                )
                messages.success(request, _("Version %(version)s was saved.") % {"version": made.version})
                return redirect(made)
        except Conflict as conflict:
            form.add_error(None, conflict.sentence)
        newest = newer_of(Deliverable.objects.defer(*Deliverable.HEAVY).get(pk=deliverable.pk))
    context = {"project": deliverable.project, "deliverable": deliverable, "form": form, "newest": newest}
    return render(request, "projects/deliverable_edit.html", context, status=status_of(request))


@allow(Role.USER)
@require_POST
def deliverable_review(request: HttpRequest, pk: Any) -> HttpResponse:
    """Decide about it."""
    deliverable = deliverable_of(request, pk)
    user = person(request)
    if not actions.may_review(user, deliverable.stage):
        require(user, Action.ANSWER, deliverable.project)
    form = review_form(deliverable.stage, user, [deliverable], request.POST, key="review")
    if form.is_valid():
        given = form.cleaned_data
        try:
            decided = actions.review(
                deliverable,
                user,
                decision=DECISIONS[given["decision"]],
                comments=given["comments"],
                content=given["content"] if given["decision"] == "edit" else None,
                sha256=given["seen"],
            )
        except Problem as problem:
            form.show(problem)
        else:
            messages.success(request, _("Your decision was taken."))
            return redirect(decided)
    return render(request, "projects/deliverable_detail.html", context_of(request, deliverable, form), status=422)


@allow(Role.USER)
@require_POST
def deliverable_comment(request: HttpRequest, pk: Any) -> HttpResponse:
    """Say something about it."""
    deliverable = deliverable_of(request, pk, Action.RUN)
    form = CommentForm(request.POST)
    if form.is_valid():
        with errors_on(form):
            comments.add(deliverable, person(request), form.cleaned_data["text"])
            messages.success(request, _("Your comment was added."))
            return redirect(f"{deliverable.get_absolute_url()}#comments")
    context = context_of(request, deliverable) | {"comment_form": form}
    return render(request, "projects/deliverable_detail.html", context, status=422)


@allow(Role.VIEWER)
@require_GET
@never_cache
def deliverable_accesses(request: HttpRequest, pk: Any) -> HttpResponse:
    """Who read, edited, downloaded or shared it, newest first."""
    deliverable = deliverable_of(request, pk)
    rows = deliverable.accesses.select_related("accessed_by")
    context = {
        "project": deliverable.project,
        "deliverable": deliverable,
        "page": page_of(rows, request, ordering="-id", size=50),
    }
    return render(request, "projects/deliverable_accesses.html", context)


@allow(Role.USER)
@never_cache
@require_http_methods(["GET", "POST"])
def deliverable_share(request: HttpRequest, pk: Any) -> HttpResponse:
    """Show it to somebody. Without mail, the link to hand over stands in the answer, this once."""
    deliverable = deliverable_of(request, pk, Action.SHARE)
    form = WhoForm(request.POST or None)
    address = deliverable.get_absolute_url()
    context = {"project": deliverable.project, "deliverable": deliverable, "form": form}
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            shared = access.share(deliverable, person(request), **form.whom)
            if shared.invitation is not None:
                return invited(request, shared.invitation, shared.link or "", thing=deliverable, back=address)
            said = _("%(name)s can see it already: send them the address of this page.")
            messages.success(request, said % {"name": form.cleaned_data["who"]})
            return redirect(address)
    return render(request, "projects/deliverable_share.html", context, status=status_of(request))


@allow(Role.VIEWER)
@require_GET
def deliverable_download(request: HttpRequest, pk: Any) -> HttpResponseBase:
    """The document as a file, the bundle as a zip; `?file=` is one file of a bundle."""
    return bundle.download(deliverable_of(request, pk), person(request), path=request.GET.get("file", ""))
