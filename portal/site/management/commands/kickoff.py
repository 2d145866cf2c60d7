"""`manage.py kickoff CREW`: a run from the command line, on an empty machine too."""

import argparse
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _

from crews.inputs import InputFile
from crews.models import Crew, CrewInput
from crews.validation import clean_inputs, require_runnable
from portal.accounts.models import User
from portal.lib.problems import Problem
from portal.lib.processes import AlreadyRunning
from portal.site.asking import described, model_named, prepared, user_named
from portal.site.here import BAD_INPUT, FAILED, STOPPED, Unstartable
from portal.site.processes import Taken
from portal.site.run_here import Request, RunHere


class Command(BaseCommand):
    requires_system_checks: list[str] = []  # `up` and the tests check; a part should start quickly
    help = (
        "Run a crew, follow it, and print its result. Starts what is missing and ends what it started. "
        "Exit code: 0 completed, 1 failed, 2 bad input, 3 waiting, 4 stopped."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("crew", metavar="CREW", help="its id, or its name if no other crew has the same")
        parser.add_argument(
            "--input", action="append", default=[], type=_name_and_value, metavar="NAME=VALUE", dest="inputs",
            help="an input of the crew, again for each; NAME=@PATH for a file",
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", help="print one event a line, then the outcome, as JSON")
        parser.add_argument("--model", metavar="ID", help="a model of the catalog for every role of this run")
        parser.add_argument(
            "--priority", type=int, choices=range(1, 10), default=5, metavar="1..9", help="9 goes first"
        )
        parser.add_argument("--user", metavar="NAME", help="who runs it (default: the first admin)")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            code = self._run(options)
        except Problem as exc:
            raise CommandError(described(exc), returncode=BAD_INPUT) from exc
        except (Unstartable, Taken, AlreadyRunning) as exc:
            raise CommandError(str(exc), returncode=FAILED) from exc
        except KeyboardInterrupt:
            raise CommandError(_("Stopped before the run began."), returncode=STOPPED) from None
        if code:
            sys.exit(code)

    def _run(self, options: dict[str, Any]) -> int:
        prepared(self)
        user = user_named(options["user"])
        crew = _crew(options["crew"], user)
        model = model_named(options["model"], "--model") if options["model"] else None
        inputs = _inputs(crew, options["inputs"])
        # All that can be refused is refused before a process is started.
        require_runnable(crew, model=model)
        clean_inputs(crew, inputs)
        request = Request(crew=crew, inputs=inputs, by=user, model=model, priority=options["priority"])
        return RunHere(request, as_json=options["json"], out=self.stdout, err=self.stderr).run()


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(_("%r is not of the form NAME=VALUE") % text)
    return name, value


def _crew(wanted: str, user: User) -> Crew:
    """The crew with this id or this name, among those that `user` may see."""
    visible = Crew.objects.visible_to(user)
    by_name = list(visible.filter(name=wanted)[:10])
    if len(by_name) == 1:
        return by_name[0]
    if by_name:
        ids = "\n".join(f"  {crew.pk}  {crew.description[:60]}" for crew in by_name)
        raise CommandError(
            _("Several crews have the name “%(name)s”; take the id of one:\n%(ids)s") % {"name": wanted, "ids": ids},
            returncode=BAD_INPUT,
        )
    with suppress(Crew.DoesNotExist, ValueError):
        return visible.get(pk=uuid.UUID(wanted))
    names = "\n".join(f"  {name}" for name in visible.order_by("name").values_list("name", flat=True)[:20])
    raise CommandError(
        _("There is no crew “%(name)s”. There are:\n%(names)s") % {"name": wanted, "names": names or "  –"},
        returncode=BAD_INPUT,
    )


def _inputs(crew: Crew, given: list[tuple[str, str]]) -> dict[str, Any]:
    """The values by name; those of file inputs are read from where `@path` points."""
    files = set(crew.inputs.filter(field_type=CrewInput.Type.FILE).values_list("field_name", flat=True))
    values: dict[str, Any] = {}
    for name, value in given:
        if name in values:
            raise CommandError(_("--input: “%s” is given twice.") % name, returncode=BAD_INPUT)
        values[name] = _file(name, value) if name in files else value
    return values


def _file(name: str, value: str) -> InputFile:
    if not value.startswith("@"):
        raise CommandError(
            _("--input: “%(name)s” is a file; write %(name)s=@PATH.") % {"name": name}, returncode=BAD_INPUT
        )
    path = Path(value[1:]).expanduser()
    try:
        return InputFile(path.name, path.read_bytes())
    except OSError as exc:
        raise CommandError(
            _("--input: cannot read %(path)s: %(why)s") % {"path": path, "why": exc.strerror}, returncode=BAD_INPUT
        ) from exc
