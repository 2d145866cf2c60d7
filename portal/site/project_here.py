"""A whole project carried out from the command line: its stages, one run after the other or side by side."""

import asyncio
import uuid
from collections import defaultdict
from contextlib import suppress
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.core.management.base import OutputWrapper
from django.db.models import Q, QuerySet, Sum
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from executions import actions as runs
from executions import events
from executions.errors import InvalidTransition
from executions.models import EventStream, Execution, LLMCall
from executions.status import Status, WaitingFor
from portal.accounts.models import User
from portal.lib.problems import Conflict, Problem
from portal.site import run_here
from portal.site.here import (
    COMPLETED,
    FAILED,
    FOLLOW_EVERY,
    STOPPED,
    WAITING,
    Here,
    may_call_embedded,
    when_nothing_runs,
)
from projects import actions
from projects.models import Deliverable, Project, Review, Stage, StageRun
from projects.status import ProjectStatus, StageStatus

EXIT_CODES = {
    ProjectStatus.COMPLETED: COMPLETED,
    ProjectStatus.FAILED: FAILED,
    ProjectStatus.CANCELLED: STOPPED,
}


class ProjectHere(Here):
    """A project, until it has ended or waits for somebody. With `approve_all` nothing waits for an approval."""

    def __init__(
        self, project: Project, *, by: User, approve_all: bool, as_json: bool, out: OutputWrapper, err: OutputWrapper
    ) -> None:
        super().__init__(as_json=as_json, out=out, err=err)
        self.project, self.by, self.approve_all = project, by, approve_all
        self._begun = False
        self._seen: dict[uuid.UUID, int] = {}  # the last event that was read, by stream
        self._refused: dict[uuid.UUID, str] = {}  # stages that this person may not approve, and why

    def needs_model(self) -> bool:
        mapped = self.project.mappings.filter(is_active=True).values("llm_model")
        return may_call_embedded(Q(pk__in=mapped))

    def engine(self) -> str:
        return self.project.engine

    def has_begun(self) -> bool:
        return self._begun

    async def carry(self) -> int:
        """Raises what `projects.actions.start` raises."""
        if self.project.status != ProjectStatus.PLANNING:
            await sync_to_async(self._news)()  # what was before is no news
        starting = asyncio.ensure_future(sync_to_async(self._start)())
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting  # Ctrl-C in this very moment: it may have begun already, and nobody would stop it
            await self.stop()
            raise
        self.say(_("Project %(id)s “%(name)s”") % {"id": self.project.pk, "name": self.project.name})
        await self.until_rest(self._follow())
        return await sync_to_async(self._outcome)()

    def _start(self) -> None:
        try:
            actions.start(self.project, self.by)
        except Conflict:
            self.project.refresh_from_db()
            # Where it is under way already, or waits for a person, it is followed.
            if self.project.is_archived or not self._is_under_way():
                raise
        self._begun = True

    async def stop(self) -> None:
        """Hold the project, so that nothing more starts, and stop what is at work; `start` goes on from there."""
        await sync_to_async(self._hold)()

    def _hold(self) -> None:
        with suppress(Conflict):  # it has ended by itself, or is held already
            actions.pause(self.project, self.by)
        for execution in self._active_runs():
            with suppress(InvalidTransition):
                runs.stop(execution=execution, by=self.by)

    # --- Following -------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Print what happens until the project rests: one that somebody helps on in that moment is followed on."""
        while True:
            rests = await sync_to_async(self._rests)()
            news = await sync_to_async(self._news)()
            for stage, event in news:
                self._show(stage, event)
            if rests and not news:
                return
            await asyncio.sleep(FOLLOW_EVERY)

    def _rests(self) -> bool:
        """Whether nothing happens until somebody does something. Approves what is in review, where that is wanted."""
        if self.approve_all and not self.is_stopping:
            for stage in self.project.stages.filter(stage_status=StageStatus.REVIEW).exclude(pk__in=self._refused):
                self._approve(stage)
        return not (self._active_runs().exists() if self.is_stopping else self._is_at_work())

    def _active_runs(self) -> QuerySet[Execution]:
        return Execution.objects.active().filter(stage_run__stage__project=self.project)

    def _is_at_work(self) -> bool:
        return self.project.stages.filter(stage_status=StageStatus.IN_PROGRESS).exists()

    def _is_under_way(self) -> bool:
        under_way = [StageStatus.IN_PROGRESS, StageStatus.REVIEW, StageStatus.BLOCKED]
        return self.project.stages.filter(stage_status__in=under_way).exists()

    def _approve(self, stage: Stage) -> None:
        label = stage.label
        try:
            actions.review_stage(
                stage, self.by, decision=Review.Decision.APPROVED, comments=_("Approved by --approve-all.")
            )
        except (Problem, PermissionDenied) as exc:
            stage.refresh_from_db()
            if stage.stage_status == StageStatus.REVIEW:  # nobody else has decided in this moment
                self._refused[stage.pk] = str(exc)
                self.say(_("%(stage)s: not approved. %(why)s") % {"stage": label, "why": exc})
            return
        stage.refresh_from_db()
        if stage.stage_status == StageStatus.REVIEW:
            self._refused[stage.pk] = _("It needs the approval of more people.")
        if not self.as_json:
            self.say(_("%s: approved, as --approve-all says") % label)

    def _news(self) -> list[tuple[str, dict[str, Any]]]:
        """What has happened since the last look: events, each with the stage whose run it is of, if of any."""
        of_runs = StageRun.objects.filter(stage__project=self.project).order_by("pk")
        streams = [
            (self.project.stream_id, "", EventStream.objects.get(pk=self.project.stream_id).last_seq),
            *of_runs.values_list("execution__stream_id", "stage__stage_name", "execution__stream__last_seq"),
        ]
        found = []
        for stream, stage, last in streams:
            if last > self._seen.get(stream, 0):
                found += [(stage, event) for event in self._read(stream, last)]
        return sorted(found, key=lambda one: one[1]["at"])

    def _read(self, stream: uuid.UUID, last: int) -> list[dict[str, Any]]:
        """The events of a stream that were not read before, up to `last`."""
        key = "project" if stream == self.project.stream_id else "execution"
        found = []
        while (after := self._seen.get(stream, 0)) < last:
            found += [{key: str(stream), **event} for event in events.read(stream, after)]
            self._seen[stream] = found[-1]["seq"]
        return found

    # --- Words -----------------------------------------------------------------------------------

    def _show(self, stage: str, event: dict[str, Any]) -> None:
        if self.as_json:
            self.print({**event, "stage_name": stage} if stage else event)
        elif stage:
            self._tell_of_stage(event)
        else:
            self._tell(event)

    def _tell_of_stage(self, event: dict[str, Any]) -> None:
        """Of a stage's run only what its stage does not say itself."""
        if event["type"] == "log" and event["data"].get("message"):
            self.say(f"{event['at'][11:19]}      {event['data']['message']}")
        elif event["type"] in {"execution.recovered", "tool.started", "llm.failed"}:
            self.tell_of_run(event)

    def _tell(self, event: dict[str, Any]) -> None:
        data = event["data"]
        name = str(Stage.Name(data["stage_name"]).label) if data.get("stage_name") in Stage.Name.values else ""
        words = {
            "stage_started": _("%(stage)s: %(role)s is at work"),
            "stage_completed": _("%(stage)s: done"),
            "stage_failed": _("%(stage)s: failed. %(problem)s"),
            "stage_rejected": _("%(stage)s: sent back"),
            "stage_stale": _("%(stage)s: out of date"),
            "deliverable_created": _("    %(title)s %(version)s"),
        }.get(event["type"])
        if words:
            told = {"stage": name, "role": data.get("responsible_role") or event.get("role", ""), **_texts(data)}
            self.say(f"{event['at'][11:19]}  {words % defaultdict(str, told)}")

    def _outcome(self) -> int:
        """Print what has become of it; the exit code."""
        project = self.project
        project.refresh_from_db()
        waits = waiting_for(project)
        code = STOPPED if self.is_stopping else EXIT_CODES.get(ProjectStatus(project.status), WAITING)
        if self.as_json:
            self.print(facts_of(project) | (waits if code == WAITING else {}))
            return code
        self.say(_("Stopped") if self.is_stopping else str(project.get_status_display()))
        for stage in project.stages.filter(stage_status=StageStatus.FAILED):
            self.say(f"{stage.label}: {stage.problem}")
        for one in project.deliverables.filter(is_latest=True).order_by("stage__stage_order", "created_at"):
            self.out.write(
                f"{one.title} {one.version} ({one.get_status_display()}): {settings.PORTAL_URL}{one.get_absolute_url()}"
            )
        if code == WAITING:
            self.say(_WAITS[waits["waiting_for"]] % {"where": ", ".join(waits["continue_at"])})
            for line in when_nothing_runs():
                self.say(line)
        elif code != COMPLETED:
            self.say(_("Go on with: python manage.py project start %s") % project.pk)
        return code


_WAITS = {
    "approval": gettext_lazy("It waits for approval. Approve at %(where)s"),
    "budget": gettext_lazy("It waits for a larger budget. Raise it at %(where)s"),
    "answer": gettext_lazy("It waits for an answer. Answer at %(where)s"),
    "resume": gettext_lazy("It was paused. Let it go on at %(where)s"),
    "start": gettext_lazy("Its next stage waits to be started, at %(where)s"),
}


def waiting_for(project: Project) -> dict[str, Any]:
    """For what a project that rests waits, and where it can be helped on."""
    page = [settings.PORTAL_URL + project.get_absolute_url()]
    in_review = list(
        project.deliverables.filter(is_latest=True, status=Deliverable.Status.REVIEW).order_by("stage__stage_order")
    )
    if in_review:
        where = [settings.PORTAL_URL + one.get_absolute_url() for one in in_review]
        return {"waiting_for": "approval", "continue_at": where}
    resting = Execution.objects.filter(
        stage_run__stage__project=project,
        stage_run__stage__stage_status=StageStatus.BLOCKED,
        status__in=[Status.WAITING, Status.PAUSED],
    )
    for execution in resting.order_by("created_at"):
        what = {WaitingFor.BUDGET: "budget", WaitingFor.APPROVAL: "answer"}
        waits = what.get(WaitingFor(execution.waiting_for), "resume") if execution.waiting_for else "resume"
        return {"waiting_for": waits, "continue_at": run_here.addresses(execution)}
    waits = "resume" if project.status == ProjectStatus.PAUSED else "start"
    return {"waiting_for": waits, "continue_at": page}


def facts_of(project: Project) -> dict[str, Any]:
    """A project for programs: where it stands, what it has produced, and what its runs have used."""
    calls = LLMCall.objects.filter(execution__stage_run__stage__project=project)
    used = Execution.objects.filter(stage_run__stage__project=project).aggregate(
        prompt_tokens=Sum("prompt_tokens", default=0),
        completion_tokens=Sum("completion_tokens", default=0),
        cost_usd=Sum("cost_usd", default=0),
        unpriced=Sum("unpriced_calls", default=0),
    )
    latest = project.deliverables.filter(is_latest=True).select_related("stage")
    return {
        "project": str(project.pk),
        "name": project.name,
        "selected_ai": project.selected_ai,
        "status": project.status,
        "progress_percentage": project.progress_percentage,
        "stages": [
            {
                "stage_name": stage.stage_name,
                "stage_status": stage.stage_status,
                "is_stale": stage.is_stale,
                "responsible_role": stage.responsible_role,
                "problem": stage.problem,
            }
            for stage in project.stages.order_by("stage_order")
        ],
        "deliverables": [
            {
                "id": str(one.pk),
                "stage_name": one.stage.stage_name,
                "deliverable_type": one.deliverable_type,
                "title": one.title,
                "version": one.version,
                "status": one.status,
                "created_by_role": one.created_by_role,
                "llm_model": one.llm_model,
                "sha256": one.sha256,
                "checks": one.metadata.get("checks", {}),
            }
            for one in latest.order_by("stage__stage_order", "created_at", "id")
        ],
        "llm_calls": calls.count(),
        "prompt_tokens": used["prompt_tokens"],
        "completion_tokens": used["completion_tokens"],
        # A sum that leaves out calls without a known price would look like a price.
        "cost_usd": None if used["unpriced"] else float(used["cost_usd"]),
    }


def _texts(data: dict[str, Any]) -> dict[str, str]:
    return {name: " ".join(value.split()) for name, value in data.items() if isinstance(value, str)}
