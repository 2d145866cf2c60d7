"""`manage.py engine install|status|remove`: the interpreters of engines that cannot share the portal's."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _

from executions import installation
from executions.engines.registry import ENGINES
from executions.installation import CannotInstall
from portal.lib.progress import Progress

OWN = sorted(key for key, engine in ENGINES.items() if engine.environment)


class Command(BaseCommand):
    requires_system_checks: list[str] = []  # a worker starts it; `up` and the tests check
    help = "Engines with an interpreter of their own: install one, say what is here, or remove one."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        install = actions.add_parser("install", help="fetch its packages, pinned by hash, into PORTAL_ENGINE_DIR")
        # For the commands that start this one and draw the bar themselves.
        install.add_argument("--marked-progress", action="store_true", help="print progress for programs")
        remove = actions.add_parser("remove", help="delete them, and those of earlier versions")
        for action in (install, remove):
            action.add_argument("engine", nargs="?", choices=OWN, default=OWN[0], help="default: %(default)s")
        status = actions.add_parser("status", help="which engines are installed here, and where")
        status.add_argument("engine", nargs="?", choices=sorted(ENGINES), help="default: all")
        status.add_argument("--json", action="store_true", help="as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        {"install": self._install, "remove": self._remove, "status": self._status}[options["action"]](options)

    def _install(self, options: dict[str, Any]) -> None:
        label = ENGINES[options["engine"]].label
        report = Progress(marked=options["marked_progress"])
        try:
            folder = installation.ensure(options["engine"], report)
        except CannotInstall as exc:
            report.clear()
            raise CommandError(
                _("%(engine)s could not be installed: %(reason)s") % {"engine": label, "reason": exc}
            ) from exc
        except KeyboardInterrupt:
            report.clear()
            raise CommandError(_("Stopped; nothing is left of it."), returncode=130) from None
        report.clear()
        version = ENGINES[options["engine"]].version()
        self.stdout.write(f"{label} {version}: {folder}")

    def _remove(self, options: dict[str, Any]) -> None:
        try:
            gone = installation.remove(options["engine"])
        except CannotInstall as exc:
            raise CommandError(str(exc)) from exc
        if not gone:
            self.stdout.write(_("Nothing to remove."))
        for folder in gone:
            self.stdout.write(_("Removed %s.") % folder)

    def _status(self, options: dict[str, Any]) -> None:
        """Exits with 1 when an engine that was named is not installed."""
        keys = [options["engine"]] if options["engine"] else list(ENGINES)
        facts = [self._facts(key) for key in keys]
        if options["json"]:
            self.stdout.write(json.dumps(facts, ensure_ascii=False))
        else:
            for fact in facts:
                self.stdout.write(f"{fact['name']:10}{fact['version'] or fact['problem']:28}{fact['interpreter']}")
        if options["engine"] and not facts[0]["version"]:
            raise SystemExit(1)

    def _facts(self, key: str) -> dict[str, Any]:
        engine = ENGINES[key]
        version, problem = engine.version(), ""
        if version is None:
            problem = _("being installed") if installation.is_under_way(engine) else _("not installed")
        folder = engine.environment.folder if engine.environment and version else None
        return {
            "engine": key,
            "name": engine.label,
            "version": version,
            "interpreter": engine.interpreter if version else "",
            "megabytes": installation.size_of(folder) // installation.MEGABYTE if folder else None,
            "install": installation.command(key) if engine.environment else None,
            "problem": problem,
        }
