"""The parts of a crew, edited on its page: agents, tasks, inputs.

Each has a form that takes the place of its card, and plain POSTs to remove and move it. All of
them answer with a redirect to the crew page, which htmx turns into a new editor.
"""

from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from crews import actions
from crews.forms import AgentForm, InputForm, TaskForm, members_of
from crews.models import Agent, Crew, CrewInput, Task
from crews.views.crews import OpenForm, show
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, find, person
from portal.lib.problems import Problem

NEW = "new"
CHOICES = 200  # agents offered to choose from


def _crew(request: HttpRequest, pk: Any) -> Crew:
    return find(Crew.objects.all(), request.user, Action.CHANGE, pk=pk)


def _part(rows: Any, pk: Any) -> Any:
    try:
        return rows.get(pk=pk)
    except rows.model.DoesNotExist as exc:
        raise Http404 from exc


def _back(crew: Crew, anchor: str = "") -> HttpResponse:
    response = redirect("crews:crew-detail", crew.pk)
    if anchor:
        response["Location"] += f"#{anchor}"
    return response


# --- Agents ---------------------------------------------------------------------------------------


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def agent_add(request: HttpRequest, pk: Any) -> HttpResponse:
    """A new agent in the crew, or one that exists (`agent`)."""
    crew, user = _crew(request, pk), person(request)
    others = Agent.objects.exclude(memberships__crew=crew)
    if chosen := request.POST.get("agent"):
        agent = find(others, user, Action.SEE, pk=chosen)
        try:
            actions.set_members(crew=crew, agents=[*members_of(crew), agent])
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return _back(crew, "agents")
        messages.success(request, _("%(role)s joined the crew.") % {"role": agent.role})
        return _back(crew, f"agent-{agent.pk}")
    form = AgentForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            made = form.create(by=user, crew=crew)
            if made is None:
                transaction.set_rollback(True)
        if made is not None:
            messages.success(request, _("%(role)s joined the crew.") % {"role": made.role})
            return _back(crew, f"agent-{made.pk}")
    return show(request, crew, OpenForm(f"agent-{NEW}", form, existing=others.visible_to(user)[:CHOICES]))


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def agent_edit(request: HttpRequest, pk: Any, part: Any) -> HttpResponse:
    """Change an agent; where it works in other crews, it changes there too."""
    crew = _crew(request, pk)
    agent = find(Agent.objects.filter(memberships__crew=crew), request.user, Action.CHANGE, pk=part)
    form = AgentForm(request.POST or None, instance=agent)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, _("Saved."))
        return _back(crew, f"agent-{agent.pk}")
    return show(request, crew, OpenForm(f"agent-{agent.pk}", form))


@allow(Role.USER)
@require_POST
def agent_remove(request: HttpRequest, pk: Any, part: Any) -> HttpResponse:
    """Take an agent out of the crew; it stays in the library."""
    crew = _crew(request, pk)
    agent = _part(crew.agents, part)
    try:
        actions.set_members(crew=crew, agents=[other for other in members_of(crew) if other.pk != agent.pk])
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        messages.success(request, _("%(role)s left the crew.") % {"role": agent.role})
    return _back(crew, "agents")


@allow(Role.USER)
@require_POST
def agent_move(request: HttpRequest, pk: Any, part: Any) -> HttpResponse:
    """Move an agent up or down (`direction`)."""
    crew = _crew(request, pk)
    members = list(crew.members.all())
    member = next((member for member in members if member.agent_id == part), None)
    if member is None:
        raise Http404
    _move(members, member, "position", request)
    return _back(crew, f"agent-{part}")


# --- Tasks ----------------------------------------------------------------------------------------


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def task_add(request: HttpRequest, pk: Any) -> HttpResponse:
    """A new task at the end of the crew's list."""
    return _task_form(request, _crew(request, pk), None)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def task_edit(request: HttpRequest, pk: Any, part: Any) -> HttpResponse:
    """Change a task."""
    crew = _crew(request, pk)
    return _task_form(request, crew, _part(crew.tasks, part))


def _task_form(request: HttpRequest, crew: Crew, task: Task | None) -> HttpResponse:
    key = str(task.pk) if task else NEW
    form = TaskForm(request.POST or None, instance=task, crew=crew)
    if request.method == "POST" and form.is_valid() and (saved := form.save_task()):
        messages.success(request, _("Saved."))
        return _back(crew, f"task-{saved.pk}")
    return show(request, crew, OpenForm(f"task-{key}", form))


@allow(Role.USER)
@require_POST
def task_remove(request: HttpRequest, pk: Any, part: Any) -> HttpResponse:
    """Delete a task; other tasks no longer take its output."""
    crew = _crew(request, pk)
    task = _part(crew.tasks, part)
    task.delete()
    messages.success(request, _("The task “%(name)s” was deleted.") % {"name": task.name})
    return _back(crew, "tasks")


@allow(Role.USER)
@require_POST
def task_move(request: HttpRequest, pk: Any, part: Any) -> HttpResponse:
    """Move a task up or down (`direction`)."""
    crew = _crew(request, pk)
    _move(list(crew.tasks.all()), _part(crew.tasks, part), "execution_order", request)
    return _back(crew, f"task-{part}")


# --- Inputs ---------------------------------------------------------------------------------------


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def input_add(request: HttpRequest, pk: Any) -> HttpResponse:
    """A new field of the crew's run form."""
    return _input_form(request, _crew(request, pk), None)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def input_edit(request: HttpRequest, pk: Any, part: Any) -> HttpResponse:
    """Change a field of the crew's run form."""
    crew = _crew(request, pk)
    return _input_form(request, crew, _part(crew.inputs, part))


def _input_form(request: HttpRequest, crew: Crew, definition: CrewInput | None) -> HttpResponse:
    key = str(definition.pk) if definition else NEW
    form = InputForm(request.POST or None, instance=definition, crew=crew)
    if request.method == "POST" and form.is_valid():
        messages.success(request, _("Saved."))
        return _back(crew, f"input-{form.save_input().pk}")
    return show(request, crew, OpenForm(f"input-{key}", form))


@allow(Role.USER)
@require_POST
def input_remove(request: HttpRequest, pk: Any, part: Any) -> HttpResponse:
    """Delete a field of the run form, if no text uses it any more."""
    crew = _crew(request, pk)
    definition = _part(crew.inputs, part)
    try:
        actions.delete_input(definition=definition)
    except Problem as problem:
        messages.error(request, problem.sentence)
    else:
        messages.success(request, _("The input “%(name)s” was deleted.") % {"name": definition.label})
    return _back(crew, "inputs")


@allow(Role.USER)
@require_POST
def input_move(request: HttpRequest, pk: Any, part: Any) -> HttpResponse:
    """Move a field of the run form up or down (`direction`)."""
    crew = _crew(request, pk)
    _move(list(crew.inputs.all()), _part(crew.inputs, part), "display_order", request)
    return _back(crew, f"input-{part}")


def _move(rows: list[Any], row: Model, field: str, request: HttpRequest) -> None:
    """Change places with the neighbour; the rows are numbered from 1 afresh."""
    place = next(index for index, other in enumerate(rows) if other.pk == row.pk)
    goal = place + (1 if request.POST.get("direction") == "down" else -1)
    if 0 <= goal < len(rows):
        rows[place], rows[goal] = rows[goal], rows[place]
    with transaction.atomic():
        for number, other in enumerate(rows, start=1):
            if getattr(other, field) != number:
                setattr(other, field, number)
                other.save(update_fields=[field])
