"""`manage.py project …`: from a requirement to approved deliverables on the command line, on an empty machine too."""

import argparse
import json
import sys
import uuid
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _

from crews.inputs import InputFile
from portal.accounts.models import User
from portal.accounts.permissions import Action, can
from portal.lib.problems import Problem
from portal.lib.processes import AlreadyRunning
from portal.site.asking import described, model_named, prepared, user_named
from portal.site.here import BAD_INPUT, FAILED, STOPPED, Unstartable
from portal.site.processes import Taken
from portal.site.project_here import ProjectHere, facts_of
from projects import actions, export
from projects.models import Project, Review, Stage, Template

LISTED = 50


class Command(BaseCommand):
    requires_system_checks: list[str] = []  # `up` and the tests check; a part should start quickly
    help = (
        "Make a project and carry it out, stage by stage. Starts what is missing and ends what it started. "
        "Exit code: 0 completed, 1 failed, 2 bad input, 3 waiting for somebody, 4 stopped."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="action", required=True)
        new = commands.add_parser("new", help="make a project; with --run carry it out")
        new.add_argument("--template", metavar="ID", help="web_app, mobile_app, api, data_analysis, ml, or one's own")
        new.add_argument("--name", help="default: the template's")
        new.add_argument("--requirement", metavar="TEXT", help="what is to be made; default: the template's outline")
        new.add_argument("--requirement-file", metavar="PATH", help="a text file that says it; - for standard input")
        new.add_argument("--attach", action="append", default=[], metavar="PATH", help="a text file, again for each")
        new.add_argument("--audience", metavar="TEXT", help="for whom it is")
        new.add_argument("--engine", choices=Project.Engine.values, help="default: the template's, else crew-ai")
        new.add_argument("--type", choices=Project.Type.values, help="default: the template's, else web_app")
        new.add_argument("--language", choices=Project.Language.values, help="of the documents; default: en")
        new.add_argument(
            "--map", action="append", default=[], type=_role_and_model, metavar="ROLE=MODEL", dest="mappings",
            help="a role's model, again for each; the others get the recommended one",
        )  # fmt: skip
        new.add_argument("--budget-usd", type=_amount, metavar="US$", help="what all its runs may cost together")
        new.add_argument("--run", action="store_true", help="start it, and follow it until it ends or waits")
        start = commands.add_parser("start", help="start a project or let it go on, and follow it")
        for one in (new, start):
            one.add_argument("--approve-all", action="store_true", help="approve every stage as it comes to review")
        approve = commands.add_parser("approve", help="approve what a stage has in review")
        reject = commands.add_parser("reject", help="send back what a stage has in review")
        for one in (approve, reject):
            one.add_argument("--comments", default="", metavar="TEXT", required=one is reject)
        show = commands.add_parser("show", help="say where a project stands, and what it has produced")
        zipped = commands.add_parser("export", help="write a project as a zip that runs without the portal")
        zipped.add_argument("--output", type=Path, metavar="PATH", help="default: its name, here")
        for one in (start, approve, reject, show, zipped):
            one.add_argument("project", metavar="PROJECT", help="its id, or its name if no other has the same")
        for one in (approve, reject):
            one.add_argument("stage", choices=Stage.Name.values, metavar="STAGE", help="for one: requirement")
        listed = commands.add_parser("list", help="the newest projects")
        for one in (new, start, show, listed):
            one.add_argument("--json", action="store_true", help="for programs: JSON, one thing a line")
        for one in (new, start, approve, reject, show, zipped, listed):
            one.add_argument("--user", metavar="NAME", help="who does it (default: the first admin)")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            prepared(self)
            code = getattr(self, f"_{options['action']}")(user_named(options["user"]), options)
        except Problem as exc:
            raise CommandError(described(exc), returncode=BAD_INPUT) from exc
        except PermissionDenied as exc:
            raise CommandError(str(exc) or _("You may not do this."), returncode=BAD_INPUT) from exc
        except (Unstartable, Taken, AlreadyRunning) as exc:
            raise CommandError(str(exc), returncode=FAILED) from exc
        except KeyboardInterrupt:
            raise CommandError(_("Stopped before the run began."), returncode=STOPPED) from None
        if code:
            sys.exit(code)

    # --- One function an action; each returns the exit code ----------------------------------------

    def _new(self, user: User, options: dict[str, Any]) -> int:
        template = _template(options["template"], user) if options["template"] else None
        name = options["name"] or (template.name if template else "")
        if not name:
            raise CommandError(_("Give the project a --name, or take a --template."), returncode=BAD_INPUT)
        fields = {
            "selected_ai": options["engine"],
            "project_type": options["type"],
            "language": options["language"],
            "target_audience": options["audience"],
            "requirement": _requirement(options),
            "budget_usd": options["budget_usd"],
        }
        project = actions.create(
            by=user,
            name=name,
            template=template,
            mappings=_mappings(options["mappings"]),
            files=[_file(path, "--attach") for path in options["attach"]],
            **{field: value for field, value in fields.items() if value is not None},
        )
        if options["run"]:
            return self._carry(project, user, options)
        if options["json"]:
            self._print(facts_of(project))
        else:
            self.stdout.write(str(project.pk))
        return 0

    def _start(self, user: User, options: dict[str, Any]) -> int:
        return self._carry(_project(options["project"], user, Action.CHANGE), user, options)

    def _carry(self, project: Project, user: User, options: dict[str, Any]) -> int:
        return ProjectHere(
            project,
            by=user,
            approve_all=options["approve_all"],
            as_json=options["json"],
            out=self.stdout,
            err=self.stderr,
        ).run()

    def _approve(self, user: User, options: dict[str, Any]) -> int:
        return self._decide(user, options, Review.Decision.APPROVED)

    def _reject(self, user: User, options: dict[str, Any]) -> int:
        return self._decide(user, options, Review.Decision.REJECTED)

    def _decide(self, user: User, options: dict[str, Any], decision: str) -> int:
        project = _project(options["project"], user, Action.SEE)
        try:
            stage = project.stages.get(stage_name=options["stage"])
        except Stage.DoesNotExist:
            names = ", ".join(project.stages.order_by("stage_order").values_list("stage_name", flat=True))
            raise CommandError(
                _("The project has no stage %(name)s. It has: %(names)s") % {"name": options["stage"], "names": names},
                returncode=BAD_INPUT,
            ) from None
        stage = actions.review_stage(stage, user, decision=decision, comments=options["comments"])
        stage.refresh_from_db()
        self.stdout.write(f"{stage.label}: {stage.get_stage_status_display()}")
        return 0

    def _show(self, user: User, options: dict[str, Any]) -> int:
        project = _project(options["project"], user, Action.SEE)
        facts = facts_of(project)
        if options["json"]:
            self._print(facts)
            return 0
        self.stdout.write(f"{project.name}: {project.get_status_display()}, {project.progress_percentage} %")
        self.stdout.write(settings.PORTAL_URL + project.get_absolute_url())
        for stage in project.stages.order_by("stage_order"):
            state = stage.get_stage_status_display() + (f" ({_('out of date')})" if stage.is_stale else "")
            self.stdout.write(f"  {stage.label:16}{stage.responsible_role:20}{state}")
            for one in facts["deliverables"]:
                if one["stage_name"] == stage.stage_name:
                    self.stdout.write(f"    {one['title']} {one['version']} ({one['status']})")
        return 0

    def _list(self, user: User, options: dict[str, Any]) -> int:
        for project in Project.objects.visible_to(user).current().order_by("-created_at")[:LISTED]:
            if options["json"]:
                kept = ("name", "selected_ai", "status", "progress_percentage")
                self._print({"project": str(project.pk), **{name: getattr(project, name) for name in kept}})
            else:
                state = f"{project.get_status_display()}, {project.progress_percentage} %"
                self.stdout.write(f"{project.pk}  {project.get_selected_ai_display():9}{state:20}  {project.name}")
        return 0

    def _export(self, user: User, options: dict[str, Any]) -> int:
        project = _project(options["project"], user, Action.SEE)
        path = options["output"] or Path(export.file_name(project))
        content = export.archive(project, by=user)
        try:
            path.write_bytes(content)
        except OSError as exc:
            raise CommandError(
                _("--output: cannot write %(path)s: %(why)s") % {"path": path, "why": exc.strerror},
                returncode=BAD_INPUT,
            ) from exc
        self.stdout.write(str(path))
        return 0

    def _print(self, value: dict[str, Any]) -> None:
        self.stdout.write(json.dumps(value, ensure_ascii=False))


# --- What the arguments mean --------------------------------------------------------------------------


def _role_and_model(text: str) -> tuple[str, str]:
    role, equals, model = text.partition("=")
    if not equals or not role.strip() or not model.strip():
        raise argparse.ArgumentTypeError(_("%r is not of the form ROLE=MODEL") % text)
    return role.strip(), model.strip()


def _amount(text: str) -> Decimal:
    with suppress(InvalidOperation):
        amount = Decimal(text)
        if amount.is_finite() and amount >= 0:
            return amount
    raise argparse.ArgumentTypeError(_("%r is no amount of money") % text)


def _mappings(given: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"role_name": role, "llm_model": model_named(model, "--map")} for role, model in given]


def _template(wanted: str, user: User) -> Template:
    visible = Template.objects.visible_to(user)
    try:
        return visible.get(pk=wanted)
    except Template.DoesNotExist:
        ids = ", ".join(visible.order_by("pk").values_list("pk", flat=True))
        raise CommandError(
            _("--template: there is no template “%(id)s”. There are: %(ids)s") % {"id": wanted, "ids": ids},
            returncode=BAD_INPUT,
        ) from None


def _requirement(options: dict[str, Any]) -> str | None:
    """The requirement that was given, by text or by file."""
    path = options["requirement_file"]
    if path is None:
        return options["requirement"]
    if options["requirement"] is not None:
        raise CommandError(_("Give --requirement or --requirement-file, not both."), returncode=BAD_INPUT)
    content = sys.stdin.buffer.read() if path == "-" else _file(path, "--requirement-file").content
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise CommandError(_("--requirement-file: %s is no text in UTF-8.") % path, returncode=BAD_INPUT) from None


def _file(given: str, option: str) -> InputFile:
    path = Path(given).expanduser()
    try:
        return InputFile(path.name, path.read_bytes())
    except OSError as exc:
        raise CommandError(
            _("%(option)s: cannot read %(path)s: %(why)s") % {"option": option, "path": path, "why": exc.strerror},
            returncode=BAD_INPUT,
        ) from exc


def _project(wanted: str, user: User, action: Action) -> Project:
    """The project with this id or this name, among those that `user` may see and, if need be, change."""
    visible = Project.objects.visible_to(user)
    by_name = list(visible.filter(name=wanted)[:10])
    if len(by_name) > 1:
        ids = "\n".join(f"  {project.pk}  {project.get_status_display()}" for project in by_name)
        raise CommandError(
            _("Several projects have the name “%(name)s”; take the id of one:\n%(ids)s") % {"name": wanted, "ids": ids},
            returncode=BAD_INPUT,
        )
    found = by_name[0] if by_name else None
    if found is None:
        with suppress(Project.DoesNotExist, ValueError):
            found = visible.get(pk=uuid.UUID(wanted))
    if found is None:
        names = "\n".join(f"  {name}" for name in visible.order_by("name").values_list("name", flat=True)[:20])
        raise CommandError(
            _("There is no project “%(name)s”. There are:\n%(names)s") % {"name": wanted, "names": names or "  –"},
            returncode=BAD_INPUT,
        )
    if not can(user, action, found):
        raise CommandError(_("%(user)s may not change this project.") % {"user": user}, returncode=BAD_INPUT)
    return found
