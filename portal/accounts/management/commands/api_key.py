"""`manage.py api_key`: keys of users and service accounts, from the machine."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from portal.accounts import keys
from portal.accounts.audit import set_origin
from portal.accounts.models import ApiKey, Scope, User
from portal.lib.problems import Problem


class Command(BaseCommand):
    help = "Make, list and revoke API keys. A new key's text is printed once, alone on standard output."
    requires_system_checks: list[str] = []  # `up` and the tests check; a script waits for its key

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
        create = commands.add_parser("create", help="make a key and print it, this once")
        create.add_argument("user", metavar="USER", help="whose key it is: the name of a user or service account")
        create.add_argument(
            "--scope", action="append", choices=Scope.values, required=True, dest="scopes", metavar="SCOPE",
            help=f"what it may be used for, again for each: {', '.join(Scope.values)}",
        )  # fmt: skip
        create.add_argument("--name", default="command line", help="what it is for (default: command line)")
        create.add_argument("--expires-days", type=int, metavar="DAYS", help="how long it is good (default: for ever)")
        create.add_argument(
            "--per-minute", type=int, default=600, metavar="N", help="requests a minute, at most (default: 600)"
        )
        listing = commands.add_parser("list", help="the keys of a user, or all; never their text")
        listing.add_argument("user", metavar="USER", nargs="?")
        revoke = commands.add_parser("revoke", help="take a key back, for good")
        revoke.add_argument("key", metavar="KEY", help="how it begins: ap_1a2b3c4d")

    def handle(self, *args: Any, **options: Any) -> None:
        set_origin(credential="command")
        try:
            getattr(self, f"_{options['command']}")(options)
        except Problem as exc:
            raise CommandError(" ".join([exc.sentence, *(error.detail for error in exc.errors)])) from exc

    def _create(self, options: dict[str, Any]) -> None:
        days = options["expires_days"]
        if days is not None and not 0 < days <= 36500:
            raise CommandError("--expires-days: give a number of days from 1 to 36500.")
        _row, text = keys.create(
            _user(options["user"]),
            name=options["name"],
            scopes=[Scope(value) for value in options["scopes"]],
            by=None,
            expires_at=timezone.now() + timedelta(days=days) if days else None,
            requests_per_minute=options["per_minute"],
        )
        self.stdout.write(text)

    def _list(self, options: dict[str, Any]) -> None:
        found = ApiKey.objects.select_related("user").order_by("user__username", "created_at")
        if options["user"]:
            found = found.filter(user=_user(options["user"]))
        for key in found:
            self.stdout.write(f"ap_{key.prefix}  {key.user}  {key.scopes}  {_state(key)}  {key.name}")

    def _revoke(self, options: dict[str, Any]) -> None:
        key = _key(options["key"])
        if not keys.revoke(key, by=None):
            raise CommandError(f"ap_{key.prefix} of {key.user} was revoked already.")
        self.stdout.write(f"ap_{key.prefix} of {key.user} opens nothing any more.")


def _user(name: str) -> User:
    try:
        return User.objects.get(username=name)
    except User.DoesNotExist:
        raise CommandError(f"There is no user {name}.") from None


def _key(wanted: str) -> ApiKey:
    prefix = keys.prefix_of(wanted)  # whoever gives the whole key does not find its secret in the answer
    key = ApiKey.objects.select_related("user").filter(prefix=prefix).first()
    if key is None:
        raise CommandError(f"There is no key ap_{prefix}.")
    return key


def _state(key: ApiKey) -> str:
    if key.revoked_at:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    if key.expires_at:
        return f"{'until' if key.is_usable else 'expired'} {key.expires_at:%Y-%m-%d}"
    return "no end"
