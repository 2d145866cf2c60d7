"""What the commands that run something share: whose they are, which models they name, and how they refuse."""

from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from crews.models import LLMModel
from portal.accounts.models import Role, User
from portal.lib.problems import Problem
from portal.site.here import BAD_INPUT
from portal.site.processes import prepare


def prepared(command: BaseCommand) -> None:
    """Bring the data up to date; says the password of the first admin where one was made. Raises `ConfigError`."""
    admin = prepare()
    if admin is not None and admin.password:
        command.stderr.style_func = None
        command.stderr.write(
            _("Made the first user for the portal's pages: %(name)s, password %(password)s (shown this once).")
            % {"name": admin.username, "password": admin.password}
        )


def user_named(name: str | None) -> User:
    """The active user of that name, the first admin without one. Raises `CommandError`."""
    if name is None:
        admin = User.objects.filter(role=Role.ADMIN, is_active=True).order_by("date_joined").first()
        assert admin is not None  # noqa: S101 - `prepare` saw to it
        return admin
    try:
        return User.objects.get(username=name, is_active=True)
    except User.DoesNotExist:
        raise CommandError(_("--user: there is no active user “%s”.") % name, returncode=BAD_INPUT) from None


def model_named(wanted: str, option: str) -> LLMModel:
    """The model of the catalog that `option` names. Raises `CommandError`."""
    try:
        return LLMModel.objects.select_related("provider").get(pk=wanted)
    except LLMModel.DoesNotExist:
        names = ", ".join(LLMModel.objects.order_by("pk").values_list("pk", flat=True))
        raise CommandError(
            _("%(option)s: there is no model “%(id)s”. There are: %(names)s")
            % {"option": option, "id": wanted, "names": names},
            returncode=BAD_INPUT,
        ) from None


def described(problem: Problem) -> str:
    """A problem with each of its faults on a line, as people read it."""
    lines = [problem.detail]
    lines += [f"  {error.field}: {error.detail}" if error.field else f"  {error.detail}" for error in problem.errors]
    return "\n".join(lines + ([problem.hint] if problem.hint else []))
