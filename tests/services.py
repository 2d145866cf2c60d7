"""What tests need, found or started for the moment: PostgreSQL, Redis, Chromium, Keycloak, a local model, MetaGPT.

A test names what it needs by a marker (`@pytest.mark.postgres`); where that is missing the test is
skipped by name. `PORTAL_TEST_REQUIRE=all` (or a comma list: `postgres,redis`) turns such a skip
into a failure, so that nothing is skipped in silence where everything is installed.

    python -m tests.services postgres redis -- python -m pytest

starts throw-away servers, runs the command with `DATABASE_URL` and `REDIS_URL` set, and ends them.
"""

import argparse
import contextlib
import ctypes
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis

from executions.engines.registry import ENGINES
from tests.deadlines import DEADLINE, wait_for


class Missing(Exception):
    """A service is not on this machine; the message says what to install."""


def required(service: str) -> bool:
    """Whether the absence of `service` is a failure here (`PORTAL_TEST_REQUIRE`)."""
    names = {name.strip() for name in os.environ.get("PORTAL_TEST_REQUIRE", "").split(",")}
    return bool(names & {"all", service})


@functools.cache
def why_missing(service: str) -> str:
    """What is missing of `service`, in a sentence; empty when it is there."""
    try:
        FINDERS[service]()
    except Missing as exc:
        return str(exc)
    return ""


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent(sign: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """For `preexec_fn`: the child gets `sign` when the thread that started it ends, however that happens."""
    prctl = ctypes.CDLL(None).prctl

    def set_death_signal() -> None:
        prctl(1, int(sign))  # PR_SET_PDEATHSIG

    return set_death_signal


# --- Finding ----------------------------------------------------------------------------------------


def postgres_bin() -> Path:
    """The folder of the newest PostgreSQL server's programs. Raises `Missing`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    raise Missing("PostgreSQL is missing: install Debian's package postgresql")


def redis_server() -> Path:
    if found := shutil.which("redis-server"):
        return Path(found)
    raise Missing("Redis is missing: install Debian's package redis-server")


def chromium() -> Path:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    raise Missing("Chromium is missing: install Debian's package chromium")


def local_model() -> Path:
    """The small local model's file: `PORTAL_TEST_MODEL_PATH`, or as `manage.py model pull` left it."""
    if path := os.environ.get("PORTAL_TEST_MODEL_PATH"):
        if Path(path).is_file():
            return Path(path)
        raise Missing(f"the model is missing: PORTAL_TEST_MODEL_PATH names no file ({path})")
    folder = Path(os.environ.get("PORTAL_MODEL_DIR") or "~/.cache/agent-portal/models").expanduser()
    if found := sorted(folder.glob("smollm2*.gguf")):
        return found[-1]
    raise Missing(f"the small model is missing in {folder}: run EMBEDDED_MODEL=smollm2 python manage.py model pull")


def keycloak() -> Path:
    from tests import keycloak  # which needs this module

    return keycloak.find()


def metagpt() -> Path:
    """The interpreter that has MetaGPT."""
    engine = ENGINES["metagpt"]
    if engine.is_installed():
        return Path(engine.interpreter)
    raise Missing("MetaGPT is missing: run python manage.py engine install metagpt")


FINDERS: dict[str, Callable[[], Path]] = {
    "postgres": postgres_bin,
    "redis": redis_server,
    "browser": chromium,
    "model": local_model,
    "keycloak": keycloak,
    "metagpt": metagpt,
}


# --- Starting ---------------------------------------------------------------------------------------


class Server:
    """A throw-away server of its own that can be ended and started again on the same port, with the same data.

    Start and restart it in a thread that lives as long as it should: it dies with that thread.
    """

    def __init__(self, name: str, url: str, command: list[str | Path], folder: Path, **options: Any) -> None:
        self.name = name
        self.url = url
        self._command = command
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers; it may run already. Raises `AssertionError` when it ends instead."""
        if self._process is not None and self._process.poll() is None:
            return
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._options
            )
        wait_for(self._answers, f"{self.name} answers")

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """End it with a signal; after `DEADLINE` by force."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(sign)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            log = (self._folder / "log").read_text()
            raise AssertionError(f"{self.name} ended with {self._process.returncode}:\n{log}")
        try:
            if self.url.startswith("redis"):
                with redis.Redis.from_url(self.url) as client:
                    return bool(client.ping())
            psycopg.connect(self.url, connect_timeout=5).close()
        except (psycopg.OperationalError, redis.ConnectionError):
            return False
        return True


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The `postgres://` URL of a throw-away cluster. Raises `Missing`."""
    with postgres_cluster() as server:
        yield server.url


@contextlib.contextmanager
def redis_url() -> Iterator[str]:
    """The `redis://` URL of a throw-away server. Raises `Missing`."""
    with redis_instance() as server:
        yield server.url


@contextlib.contextmanager
def postgres_cluster(*, is_durable: bool = False) -> Iterator[Server]:
    """A PostgreSQL cluster of its own. Raises `Missing`.

    Its data outlive nothing, or with `is_durable` a crash of the server, though none of the machine.
    PostgreSQL refuses to run as root: then it runs as user `postgres`, in a folder that user can reach.
    """
    programs = postgres_bin()
    port = free_port()
    with _folder("portal-pg-") as folder:
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            try:
                account = pwd.getpwnam("postgres")
            except KeyError as exc:
                raise Missing("PostgreSQL cannot run as root, and there is no user postgres") from exc
            os.chown(folder, account.pw_uid, account.pw_gid)
            as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        made = subprocess.run(
            [
                programs / "initdb",
                *("-D", folder / "data"),
                *("-U", "portal"),
                *("-A", "trust"),
                *("-E", "UTF8"),
                "--locale=C.UTF-8",
                "--no-sync",
            ],
            **as_user,
            env=env,
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise AssertionError(f"initdb failed:\n{made.stdout}{made.stderr}")
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(folder),
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "on" if is_durable else "off",
            "max_connections": "200",
        }
        server = Server(
            "PostgreSQL",
            f"postgres://portal@127.0.0.1:{port}/postgres",
            [programs / "postgres", "-D", folder / "data", *(f"--{k}={v}" for k, v in options.items())],
            folder,
            **as_user,
            env=env,
            cwd=folder,
            preexec_fn=die_with_parent(signal.SIGQUIT),
        )
        try:
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)  # an immediate shutdown: the data is thrown away


@contextlib.contextmanager
def redis_instance() -> Iterator[Server]:
    """A Redis server that keeps nothing. Raises `Missing`."""
    program = redis_server()
    port = free_port()
    with _folder("portal-redis-") as folder:
        command: list[str | Path] = [
            program,
            *("--port", str(port)),
            *("--bind", "127.0.0.1"),
            *("--save", ""),
            *("--appendonly", "no"),
            *("--dir", folder),
        ]
        server = Server("Redis", f"redis://127.0.0.1:{port}/0", command, folder, preexec_fn=die_with_parent())
        try:
            server.start()
            yield server
        finally:
            server.stop()


def create_database(server_url: str, name: str) -> str:
    """Make an empty database on a PostgreSQL server (the URL of any database of it); returns its URL."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


def drop_database(server_url: str, name: str) -> None:
    """Remove a database, ending whoever is still connected to it."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(psycopg.sql.Identifier(name))
        )


@contextlib.contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    # pytest's own temporary folders are closed to other users, PostgreSQL's among them.
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_open_temporary_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open_temporary_folder() -> str:
    """The temporary folder, or /tmp when other users cannot walk into the one that TMPDIR names."""
    folder = Path(tempfile.gettempdir()).resolve()
    is_open = all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))
    return str(folder) if is_open else "/tmp"  # noqa: S108


def main() -> int:
    """Run a command beside throw-away servers; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__)
    parser.add_argument("services", nargs="+", choices=["postgres", "redis"])
    arguments, command = sys.argv[1:], []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, command = arguments[:cut], arguments[cut + 1 :]
    options = parser.parse_args(arguments)
    if not command:
        parser.error("name the command to run after --")
    env = dict(os.environ)
    try:
        with contextlib.ExitStack() as running:
            if "postgres" in options.services:
                env["DATABASE_URL"] = running.enter_context(postgres())
            if "redis" in options.services:
                env["REDIS_URL"] = running.enter_context(redis_url())
            return subprocess.run(command, env=env).returncode
    except Missing as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    sys.exit(main())
