"""`manage.py model pull|serve|status`: the local model that comes with the portal."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _

from crews.embedded import fetch, serve
from crews.embedded.files import ModelUnavailable
from portal.lib.processes import AlreadyRunning
from portal.lib.progress import Progress


class Command(BaseCommand):
    requires_system_checks: list[str] = []  # `up` and the tests check; a part should start quickly
    help = "The embedded local model: fetch its file, serve it, or say what it is."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        pull = actions.add_parser("pull", help="fetch the file if it is not here yet, and check it")
        run = actions.add_parser("serve", help="fetch it if need be, and answer on PORTAL_MODEL_PORT until stopped")
        for action in (pull, run):
            # For the commands that start this one and draw the bar themselves.
            action.add_argument("--marked-progress", action="store_true", help="print progress for programs")
        status = actions.add_parser("status", help="name, source, licence, checksum, and whether it runs")
        status.add_argument("--json", action="store_true", help="as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["action"] == "status":
            self._status(as_json=options["json"])
            return
        report = Progress(marked=options["marked_progress"])
        try:
            if options["action"] == "serve":
                serve.run(report)
            else:
                found = fetch.ensure(report)
                report.clear()
                self.stdout.write(_("%(name)s is in %(path)s.") % {"name": found.spec.name, "path": found.path})
        except (ModelUnavailable, AlreadyRunning) as exc:
            report.clear()
            raise CommandError(str(exc)) from exc
        except KeyboardInterrupt:
            report.clear()
            raise CommandError(_("Stopped. The next time goes on from here."), returncode=130) from None

    def _status(self, *, as_json: bool) -> None:
        facts = serve.status()
        if as_json:
            self.stdout.write(json.dumps(facts, ensure_ascii=False))
            return
        running = facts["serving"]
        rows = {
            _("Model"): facts["name"],
            _("Source"): facts["source"],
            _("Licence"): facts["licence"],
            "SHA-256": facts["sha256"],
            _("File"): f"{facts['path']} ({facts['size'] / 1e6:,.0f} MB)",
            _("Checked"): _("yes, fetched from: %s") % facts["fetched_from"]
            if facts["verified"]
            else _("not here yet"),
            _("Serving"): f"{running['state']}, 127.0.0.1:{running['port']}" if running else _("no"),
            _("Good for"): facts["can"],
            _("Not for"): facts["cannot"],
        }
        if facts["problem"]:
            rows[_("Problem")] = facts["problem"]
        width = max(map(len, rows))
        for name, value in rows.items():
            self.stdout.write(f"{name.ljust(width)}  {value}")
