"""`manage.py rotate_keys`: bring what is encrypted under the first of ENCRYPTION_KEYS."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.lib import rotation

ROUNDS = 10  # a process that still writes with the old key cannot hold us up for ever


class Command(BaseCommand):
    help = (
        "Encrypt every stored secret with the first of ENCRYPTION_KEYS. To replace a key: put the new one first, "
        "restart every process, run this, then take the old one out. Safe to repeat and to run beside the portal."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="only say what is left; exit code 1 if anything is")

    def handle(self, *args: Any, **options: Any) -> None:
        old = lost = 0
        for place in rotation.places():
            changed = 0
            if not options["check"]:
                for _round in range(ROUNDS):
                    done, _found = rotation.rotate(place)
                    changed += done
                    if not done:
                        break
            found = rotation.look(place)
            old, lost = old + found.old, lost + found.lost
            self.stdout.write(
                f"{found.label}: {found.values} stored, {changed} encrypted anew, {found.old} under an older key"
                + (f", {found.lost} under a key that is missing" if found.lost else "")
            )
        if lost:
            raise CommandError("ENCRYPTION_KEYS: some values open with none of them; put the key that wrote them back")
        if old:
            raise CommandError("Some values are still under an older key: keep it, and run this again")
        self.stdout.write("Everything is under the first key; the others can go.")
