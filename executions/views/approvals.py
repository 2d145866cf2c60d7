"""Questions to people: what they may answer, one question, and the signed link that answers it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from django.contrib import messages
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from executions import actions
from executions.approvals import AlreadyAnswered, LinkDead, from_token, require_open, to_answer
from executions.forms import AnswerForm
from executions.models import Approval
from portal.accounts.audit import set_origin
from portal.accounts.models import Role, User
from portal.accounts.permissions import Action, allow, can, person, public, require
from portal.lib.differences import Piece, differences
from portal.lib.pages import page_of
from portal.lib.problems import Problem

ROUNDS = 10  # earlier ones that are shown
ANSWERED_HERE = "answered_by_link"  # in a session: the question that was answered in it by a link just now


@dataclass(frozen=True)
class Round:
    """An earlier question about the same task, with what changed in the work until the next one."""

    question: Approval
    changes: Sequence[Piece]


@allow(Role.VIEWER)
@require_GET
@never_cache
def approval_list(request: HttpRequest) -> HttpResponse:
    """What the person may answer, newest first; `?show=answered` is what has been."""
    show = "answered" if request.GET.get("show") == "answered" else "open"
    questions = to_answer(person(request)).select_related("execution", "answered_by").defer("output", "text")
    is_open = Q(status=Approval.Status.OPEN)
    questions = questions.filter(is_open if show == "open" else ~is_open)
    page = page_of(questions, request, ordering="-requested_at")
    return render(request, "executions/approval_list.html", {"page": page, "show": show})


@allow(Role.VIEWER)
@require_http_methods(["GET", "POST"])
@never_cache
def approval_detail(request: HttpRequest, pk: Any) -> HttpResponse:
    """The work, what was said about it before, and the decision; who may see the run may read it."""
    question = _found(pk)
    if question is None or not can(request.user, Action.SEE, question.execution):
        raise Http404
    form = None
    if request.method == "POST":
        require(request.user, Action.ANSWER, question.execution)
        form = AnswerForm(request.POST, question=question)
        if _answer(request, form, person(request), Approval.Via.PORTAL):
            if request.POST.get("then") == "run":
                return redirect("executions:run-detail", question.execution_id)
            return redirect("executions:approval-detail", question.pk)
    context = _context(question, form, may_answer=can(request.user, Action.ANSWER, question.execution))
    return render(request, "executions/approval_detail.html", context, status=422 if form else 200)


@public
@require_http_methods(["GET", "POST"])
@never_cache
def approval_link(request: HttpRequest, token: str) -> HttpResponse:
    """The same for whoever has a signed link, without signing in. Reading changes nothing, only sending decides.

    Once the question is answered the link shows nothing any more, except, once, to the browser that answered.
    """
    try:
        question, by = from_token(token)
    except LinkDead as problem:
        return _outside(request, {"problem": problem}, status=problem.status)
    set_origin(credential="link")  # whoever else is signed in here, it is the link that answers
    closed = _why_closed(question)
    form = None
    if request.method == "POST":
        form = AnswerForm(request.POST, question=question)
        if _answer(request, form, by, Approval.Via.LINK):
            if closed is None:
                request.session[ANSWERED_HERE] = str(question.pk)
            return redirect("executions:approval-link", token)
    if closed is not None and request.session.pop(ANSWERED_HERE, None) != str(question.pk):
        return _outside(request, {"problem": closed, "was_answered": True}, status=LinkDead.status)
    context = _context(question, form, may_answer=True) | {"by": by, "is_link": True}
    return _outside(request, context, status=422 if form else 200)


def _why_closed(question: Approval) -> AlreadyAnswered | None:
    try:
        require_open(question)
    except AlreadyAnswered as closed:
        return closed
    return None


def _outside(request: HttpRequest, context: dict[str, Any], status: int) -> HttpResponse:
    response = render(request, "executions/approval_link.html", context, status=status)
    response.headers["Referrer-Policy"] = "no-referrer"  # the address is a secret
    response.headers["X-Robots-Tag"] = "noindex"
    return response


def _found(pk: Any) -> Approval | None:
    rows = Approval.objects.select_related("execution__access__owner", "execution__crew", "answered_by")
    return rows.filter(pk=pk).first()


def _answer(request: HttpRequest, form: AnswerForm, by: User, via: str) -> bool:
    """Whether the form's decision was taken, or had been taken before; else the form says what is wrong."""
    if not form.is_valid():
        return False
    try:
        actions.answer(form.question, by, via=via, **form.cleaned_data)
    except AlreadyAnswered as problem:
        messages.info(request, problem.sentence)
    except Problem as problem:
        form.show(problem)
        return False
    else:
        messages.success(request, _("Your answer was taken."))
    return True


def _context(question: Approval, form: AnswerForm | None, *, may_answer: bool) -> dict[str, Any]:
    rounds = list(
        Approval.objects.filter(execution=question.execution_id, task=question.task, round__lte=question.round)
        .select_related("answered_by")
        .order_by("-round")[: ROUNDS + 1]
    )
    earlier = [Round(before, differences(before.result, after.output)) for after, before in pairwise(rounds)]
    is_over = bool(question.expires_at and question.expires_at <= timezone.now())
    return {
        "question": question,
        "run": question.execution,
        "earlier": earlier,
        "edits": differences(question.output, question.text) if question.status == Approval.Status.EDITED else [],
        "is_open": question.status == Approval.Status.OPEN and not is_over,
        "is_over": is_over,
        "may_answer": may_answer,
        "form": form or AnswerForm(question=question),
        "others": _others(question),
    }


def _others(question: Approval) -> int:
    """How many more questions of the same run are open."""
    rows = Approval.objects.filter(execution=question.execution_id, status=Approval.Status.OPEN)
    return rows.exclude(pk=question.pk).count()
