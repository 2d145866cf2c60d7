"""A real Keycloak for tests, with the realm file that we ship; thrown away afterwards.

    with keycloak.running(portal_url="http://127.0.0.1:8000") as server:
        olga = server.create_user("olga", roles=["user"])

It is looked for in `KEYCLOAK_HOME` (an unpacked distribution, which is left as it is), then in the user's
cache folder, and else fetched by Maven, which needs a JDK 17 and minutes:

    python -m tests.keycloak fetch

does that ahead, so that a machine can do it beside other things. Whoever comes meanwhile waits.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.deadlines import DEADLINE, wait_for
from tests.services import Missing, die_with_parent, free_port

VERSION = "26.7.3"
ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
SHA256 = "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f"
REALM_FILE = Path(__file__).resolve().parent.parent / "deploy" / "keycloak" / "realm.json"
REALM = "agents"
ADMIN, ADMIN_PASSWORD = "admin", "looks after the master realm"
PASSWORD = "a password for the moment"
# Starting creates tables and compiles much: six minutes were seen on a machine with other work to do.
PATIENCE = 5 * DEADLINE


def find() -> Path:
    """Where the prepared Keycloak stands, or will stand once it was fetched. Raises `Missing`."""
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        raise Missing("Keycloak needs Java: install Debian's package openjdk-17-jre-headless")
    prepared = _prepared()
    if not prepared.exists() and not _given() and not shutil.which("mvn"):
        raise Missing(f"Keycloak is missing: set KEYCLOAK_HOME to an unpacked {VERSION}, or install Maven to fetch it")
    return prepared


def fetch() -> Path:
    """Get Keycloak and prepare it to start quickly, unless that was done before; returns its folder."""
    prepared = find()
    prepared.parent.mkdir(parents=True, exist_ok=True)
    with (prepared.parent / f"{prepared.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not prepared.exists():
            with tempfile.TemporaryDirectory(prefix="keycloak-", dir=prepared.parent) as folder:
                home = _unpacked(Path(folder))
                _prepare(home)
                home.rename(prepared)
    return prepared


def _given() -> str:
    return os.environ.get("KEYCLOAK_HOME", "")


def _prepared() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "agent-portal"
    mark = hashlib.sha256(_given().encode()).hexdigest()[:8] if _given() else VERSION
    return cache / f"keycloak-{mark}"


def _unpacked(folder: Path) -> Path:
    """A copy of the distribution in `folder`."""
    if given := _given():
        return Path(shutil.copytree(given, folder / "home", ignore=shutil.ignore_patterns("data")))
    subprocess.run(
        ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={folder}"],
        check=True, stdin=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip
    archive = next(folder.glob("*.zip"))
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise AssertionError(f"{archive.name} is not what it should be: its SHA-256 is {found}")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    archive.unlink()
    home = folder / f"keycloak-{VERSION}"
    (home / "bin" / "kc.sh").chmod(0o755)  # zipfile drops modes
    return home


def _prepare(home: Path) -> None:
    """Build for the database that is a file, and let one start make its tables and the admin, for all later ones."""
    built = subprocess.run(
        [home / "bin" / "kc.sh", "build", "--db=dev-file"],
        env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if built.returncode:
        raise AssertionError(f"Keycloak cannot be built:\n{built.stdout}{built.stderr}")
    with _process(home, free_port(), {}):
        pass


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KC_", "KEYCLOAK_", "OIDC_"))}
    return {**kept, "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m"}


@contextlib.contextmanager
def running(portal_url: str, *, environment: Mapping[str, str] | None = None) -> Iterator["Keycloak"]:
    """A Keycloak with the realm that we ship, for the portal at `portal_url`. Raises `Missing`.

    `environment` fills in more of the realm file's placeholders.
    """
    prepared = fetch()
    with tempfile.TemporaryDirectory(prefix="keycloak-", dir=prepared.parent) as folder:
        home = Path(folder) / "home"
        # Links cost nothing; only its data are its own.
        ignored = shutil.ignore_patterns("data")
        shutil.copytree(prepared, home, copy_function=os.link, ignore=ignored)
        shutil.copytree(prepared / "data" / "h2", home / "data" / "h2")
        (home / "data" / "import").mkdir()
        shutil.copy(REALM_FILE, home / "data" / "import" / f"{REALM}-realm.json")
        port = free_port()
        server = Keycloak(f"http://127.0.0.1:{port}", secrets.token_urlsafe(24), secrets.token_urlsafe(24))
        filled_in = {
            "PORTAL_URL": portal_url,
            "OIDC_CLIENT_SECRET": server.client_secret,
            "OIDC_ROBOT_SECRET": server.robot_secret,
            "OIDC_ROBOT_ENABLED": "true",
            **(environment or {}),
        }
        with _process(home, port, filled_in, "--import-realm"), server:
            yield server


@contextlib.contextmanager
def _process(home: Path, port: int, environment: Mapping[str, str], *options: str) -> Iterator[None]:
    """Runs Keycloak while the block runs. Start it in a thread that lives as long: it dies with that thread."""
    log = home / "log"
    command = [
        *("nice", home / "bin" / "kc.sh", "start", "--optimized", "--cache=local"),
        *("--http-enabled=true", "--http-host=127.0.0.1", f"--http-port={port}", "--hostname-strict=false"),
        *options,
    ]
    admin = {"KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN, "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN_PASSWORD}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**_environment(), **admin, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # Its script starts Java as a child, and hands on this signal.
            preexec_fn=die_with_parent(signal.SIGTERM),
        )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"Keycloak ended with {process.returncode}:\n{log.read_text()}")
        realm = REALM if options else "master"
        try:
            return httpx.get(f"http://127.0.0.1:{port}/realms/{realm}", timeout=DEADLINE).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(is_ready, "Keycloak answers", PATIENCE, every=0.5, on_timeout=log.read_text)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Keycloak:
    """What an admin does there, by its REST API."""

    def __init__(self, url: str, client_secret: str, robot_secret: str) -> None:
        self.url = url
        self.issuer = f"{url}/realms/{REALM}"
        self.client_secret = client_secret
        self.robot_secret = robot_secret
        self._http = httpx.Client(base_url=url, timeout=DEADLINE)

    def __enter__(self) -> "Keycloak":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create_user(self, name: str, *, roles: Sequence[str] = (), **facts: Any) -> str:
        """A person who signs in with `PASSWORD`; returns their id there, which is the claim `sub`."""
        body = {
            "username": name,
            "enabled": True,
            "email": f"{name}@example.org",
            "emailVerified": True,
            "firstName": name.capitalize(),
            "lastName": "Park",
            "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
            **facts,
        }
        answer = self._ask("POST", "users", json=body)
        user_id = answer.headers["Location"].rsplit("/", 1)[-1]
        if roles:
            self.set_roles(user_id, roles)
        return user_id

    def set_roles(self, user_id: str, roles: Sequence[str]) -> None:
        """Give these roles of the realm, and take all others away."""
        path = f"users/{user_id}/role-mappings/realm"
        self._ask("DELETE", path, json=self._ask("GET", path).json())
        self._ask("POST", path, json=[self._ask("GET", f"roles/{role}").json() for role in roles])

    def set_enabled(self, user_id: str, is_enabled: bool) -> None:
        """Let somebody in, or no longer."""
        self._ask("PUT", f"users/{user_id}", json={"enabled": is_enabled})

    def sessions_of(self, user_id: str) -> list[str]:
        """The ids of their sessions, which are the claim `sid`."""
        return [session["id"] for session in self._ask("GET", f"users/{user_id}/sessions").json()]

    def end_session(self, session_id: str) -> None:
        """As an admin ends one; the clients are told (back-channel)."""
        self._ask("DELETE", f"sessions/{session_id}")

    def client(self, client_id: str) -> dict[str, Any]:
        """A client as Keycloak imported it."""
        return dict(self._ask("GET", "clients", params={"clientId": client_id}).json()[0])

    def change_client(self, client_id: str, **changes: Any) -> None:
        found = self.client(client_id)
        self._ask("PUT", f"clients/{found['id']}", json={**found, **changes})

    def robot_answer(self, scope: str = "") -> dict[str, Any]:
        """What the client for scripts gets for its secret (client credentials)."""
        answer = self._http.post(
            f"{self.issuer}/protocol/openid-connect/token",
            data={"grant_type": "client_credentials", **({"scope": scope} if scope else {})},
            auth=("agent-portal-robot", self.robot_secret),
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def robot_token(self) -> str:
        return str(self.robot_answer()["access_token"])

    def admin_token(self) -> str:
        """An access token of the admin, who belongs to another realm."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": ADMIN, "password": ADMIN_PASSWORD}
        answer = self._http.post("/realms/master/protocol/openid-connect/token", data=form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        # The admin's tokens are good for a minute.
        headers = {"Authorization": f"Bearer {self.admin_token()}"}
        answer = self._http.request(method, f"/admin/realms/{REALM}/{path}", headers=headers, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.keycloak", description=__doc__)
    parser.add_argument("command", choices=["fetch"])
    parser.parse_args()
    try:
        print(fetch())
    except Missing as exc:
        sys.exit(str(exc))
    return 0


if __name__ == "__main__":
    sys.exit(main())
