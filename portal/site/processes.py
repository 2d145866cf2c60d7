"""The processes of a portal on one machine: preparing its data, and how `up` and `kickoff` start its parts."""

import os
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils.translation import gettext as _

from crews.seed import seed_catalog, seed_demo
from portal.accounts import people
from portal.accounts.models import Role, User
from portal.lib.env import ConfigError
from portal.lib.processes import RunLock, free_port, holder, is_free, lock_file
from portal.lib.supervisor import Part, manage
from projects.library import seed_templates

LOOPBACK = "127.0.0.1"
FIRST_ADMIN = "admin"
# The longest socket under RUN_DIR, and what the kernel takes for a socket's path.
_LONGEST_SOCKET = len("/host-metagpt.sock")
_SOCKET_PATH_LIMIT = 107


# --- Data -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FirstAdmin:
    """The admin that `prepare` has just made. `password` is empty when PORTAL_ADMIN_PASSWORD gave it."""

    username: str
    password: str


def check_settings() -> None:
    """What can only be seen when processes start. Raises `ConfigError`."""
    if len(str(settings.RUN_DIR).encode()) + _LONGEST_SOCKET > _SOCKET_PATH_LIMIT:
        raise ConfigError(
            f"PORTAL_DATA_DIR: {settings.PORTAL_DATA_DIR} is too long a path for sockets; use a shorter one"
        )
    try:
        Path(settings.RUN_DIR).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise ConfigError(f"PORTAL_DATA_DIR: cannot write to {settings.PORTAL_DATA_DIR}: {exc.strerror}") from exc


def prepare() -> FirstAdmin | None:
    """Bring the database up to date, with an admin, the catalog, the templates and the demo crews.

    Safe beside others and to repeat. Returns the admin when there was none before. Raises `ConfigError`.
    """
    check_settings()
    with RunLock(lock_file("prepare")).acquire(lambda: time.sleep(0.1)):
        if _has_migrations_to_apply():
            call_command("migrate", interactive=False, verbosity=0)
        with transaction.atomic():
            made = _first_admin()
            seed_catalog()
            seed_templates()
            if made:  # only once: a demo crew that was deleted stays deleted
                seed_demo(made[0])
    connections.close_all()
    return FirstAdmin(made[0].username, made[1]) if made else None


def _has_migrations_to_apply() -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _first_admin() -> tuple[User, str] | None:
    """(the new admin, the password to show), or None when there is an admin already."""
    if User.objects.filter(role=Role.ADMIN, is_active=True).exists():
        return None
    given = os.environ.get("PORTAL_ADMIN_PASSWORD", "")
    password = given or secrets.token_urlsafe(12)
    name, number = FIRST_ADMIN, 1
    while User.objects.filter(username__iexact=name).exists():
        number += 1
        name = f"{FIRST_ADMIN}{number}"
    try:
        user = people.create_person(username=name, by=None, role=Role.ADMIN, password=password)
    except ValidationError as exc:
        raise ConfigError(f"PORTAL_ADMIN_PASSWORD: {' '.join(exc.messages)}") from exc
    return user, "" if given else password


# --- Parts ------------------------------------------------------------------------------------------


class Taken(Exception):
    """A port that must be this one is taken; the message names the setting."""


@dataclass(frozen=True)
class Ports:
    """Where web, gateway and model listen."""

    host: str
    web: int
    gateway: int
    model: int

    def environment(self) -> dict[str, str]:
        """What a part gets to see: all that this process does, and the addresses."""
        return {
            **os.environ,
            "PORTAL_HOST": self.host,
            "PORTAL_PORT": str(self.web),
            "PORTAL_GATEWAY_PORT": str(self.gateway),
            "PORTAL_MODEL_PORT": str(self.model),
            "PYTHONUNBUFFERED": "1",
        }


def choose_ports(host: str, web: int, *, with_web: bool = True) -> Ports:
    """The ports of this start: those that run already keep theirs, the rest take the wanted or else free ones.

    Raises `Taken` for a port that somebody chose (web's, or one set in the environment) and another program has.
    """
    if with_web and not is_free(host, web):
        raise Taken(_("Port %d is taken by another program. Choose one with --port.") % web)
    chosen = [web]
    for name, offset in (("gateway", 1), ("model", 2)):
        chosen.append(_inner_port(name, web + offset, avoid=chosen))
    return Ports(host, *chosen)


def _inner_port(name: str, wanted: int, avoid: Collection[int]) -> int:
    if (facts := running(name)) and "port" in facts:
        return int(facts["port"])
    variable = f"PORTAL_{name.upper()}_PORT"
    if variable in os.environ:
        port = int({"gateway": settings.GATEWAY_PORT, "model": settings.MODEL_PORT}[name])
        if not is_free(LOOPBACK, port):
            raise Taken(
                _("%(variable)s: port %(port)d is taken by another program.") % {"variable": variable, "port": port}
            )
        return port
    return free_port(LOOPBACK, min(wanted, 65535), avoid=tuple(avoid))


def running(name: str) -> Mapping[str, Any] | None:
    """What the process `name` of this data folder says about itself; None when it does not run."""
    return holder(lock_file(name))


def part(name: str, ports: Ports) -> Part:
    """One of the portal's processes, ready to be started."""
    command = manage("model", "serve", "--marked-progress") if name == "model" else manage(name)
    # A worker hands its runs back; a model that cannot be had is not asked for every few seconds.
    grace = {"worker": 20.0, "web": 8.0}.get(name, 5.0)
    return Part(name, command, ports.environment(), grace, 300.0 if name == "model" else 30.0)


def wait_for_leftovers(names: Collection[str], seconds: float = 5.0) -> list[str]:
    """Those of `names` that still run after a moment: parts of a start that was just killed are dying."""
    end = time.monotonic() + seconds
    while (left := [name for name in names if running(name) is not None]) and time.monotonic() < end:
        time.sleep(0.1)
    return left
