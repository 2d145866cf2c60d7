"""What all tests share: an environment of their own, services by marker, and the portal's real processes.

The environment is set before Django reads its settings, which is why `DJANGO_SETTINGS_MODULE` stands
here and not in pyproject.toml. What a test run may take from outside: `DATABASE_URL` and `REDIS_URL`
(where the suite runs), `PORTAL_MODEL_DIR` and `PORTAL_ENGINE_DIR` (caches), and `PORTAL_TEST_…`.
"""

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import services
from tests.fakes.idp import SECRET, FakeIdp
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

# A generated case may take as long as a busy machine makes it take.
hypothesis.settings.register_profile("portal", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("portal")

if "portal.settings" in sys.modules:
    raise RuntimeError("the settings were read before the tests could name a data folder: unset DJANGO_SETTINGS_MODULE")

# With `-n 2` the processes of the tests share servers, and each has databases of its own there.
PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "")
if PROCESS and (_redis := os.environ.get("REDIS_URL")):
    os.environ["REDIS_URL"] = f"{_redis.rpartition('/')[0]}/{int(PROCESS.removeprefix('gw')) + 1}"
DROPPED = {"SECRET_KEY", "ENCRYPTION_KEYS", "DEBUG", "ALLOWED_HOSTS", "LOG_LEVEL", "EMBEDDED_MODEL", "TIME_ZONE"}
for _name in list(os.environ):
    is_kept = _name.startswith(("PORTAL_TEST_", "PORTAL_MODEL_DIR", "PORTAL_ENGINE_DIR"))
    if _name in DROPPED or (_name.startswith(("PORTAL_", "OIDC_")) and not is_kept):
        del os.environ[_name]
DATA_DIR = Path(tempfile.mkdtemp(prefix="portal-tests-"))
atexit.register(shutil.rmtree, DATA_DIR, ignore_errors=True)
(DATA_DIR / "static").mkdir()  # nothing is collected for tests, and whitenoise would remark on it
os.environ["PORTAL_DATA_DIR"] = str(DATA_DIR)
os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"


def pytest_configure(config: pytest.Config) -> None:
    from django.conf import settings

    # Signing in is not what most tests are about; the real hasher takes half a second on purpose.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    # Nor is how often one may come; counting it would add a query to some requests and not to others.
    settings.RATE_LIMIT_USER_PER_MINUTE = settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """With `-n 2`, each process of the tests names a data folder of its own before it reads the settings."""
    del os.environ["DJANGO_SETTINGS_MODULE"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for service in services.FINDERS:
        if item.get_closest_marker(service):
            need(service)


def need(service: str) -> None:
    """Skip the test when `service` is missing here; fail it when `PORTAL_TEST_REQUIRE` names it."""
    if reason := services.why_missing(service):
        if services.required(service):
            pytest.fail(f"{reason} (PORTAL_TEST_REQUIRE)", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """SQLite's test database is a file: one in memory is shared by neither threads nor processes as a real one is."""
    from django.db import connection

    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = str(DATA_DIR / "test.sqlite3")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """On PostgreSQL, ends the connections that threads of coroutines left, so that the database can be removed."""
    yield
    from django.db import connection

    if connection.vendor == "postgresql":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


@pytest.fixture(autouse=True)
def no_refusals_counted() -> None:
    """What one test was refused is not written down in another."""
    from portal.accounts.audit import refusals

    refusals.forget()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server: the one the suite runs on, else a throw-away cluster."""
    need("postgres")
    if os.environ.get("DATABASE_URL", "").startswith("postgres"):
        yield os.environ["DATABASE_URL"]
        return
    with services.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a Redis server: the one the suite runs on, else a throw-away one."""
    need("redis")
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    with services.redis_url() as url:
        yield url


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """The browser that playwright drives."""
    need("browser")
    return services.chromium()


@pytest.fixture
def idp(settings: Any) -> Iterator[FakeIdp]:
    """An identity provider in this process, which the portal signs in with."""
    with FakeIdp() as provider:
        settings.OIDC_ISSUER = provider.issuer
        settings.OIDC_CLIENT_SECRET = SECRET
        settings.PORTAL_URL = "http://testserver"
        settings.AUTHENTICATION_BACKENDS = [
            "django.contrib.auth.backends.ModelBackend",
            "portal.accounts.oidc.backend.ProviderBackend",
        ]
        yield provider


@pytest.fixture(scope="session")
def local_model_path() -> Path:
    """The small local model's file."""
    need("model")
    return services.local_model()


@pytest.fixture(scope="session")
def fake_llm() -> Iterator[FakeLLM]:
    """The provider behind the models of `stack` and `team_stack`."""
    with FakeLLM() as fake:
        yield fake


@pytest.fixture(scope="session")
def stack(fake_llm: FakeLLM) -> Iterator[Stack]:
    """The portal's processes on SQLite, without Redis: what one person runs. Shared: leave no run behind."""
    with _stack(fake_llm) as running:
        yield running


@pytest.fixture(scope="session")
def team_stack(fake_llm: FakeLLM, postgres_server: str, redis_server: str) -> Iterator[Stack]:
    """The portal's processes on PostgreSQL and Redis: what a team runs. Shared: leave no run behind."""
    name = f"portal_stack{PROCESS}"
    url = services.create_database(postgres_server, name)
    try:
        with _stack(fake_llm, database_url=url, redis_url=redis_server) as running:
            yield running
    finally:
        services.drop_database(postgres_server, name)


@contextlib.contextmanager
def _stack(fake: FakeLLM, **options: Any) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="portal-stack-") as folder:
        Path(folder).chmod(0o711)  # engines may run as a user of their own
        with Stack(Path(folder) / "data", llm_url=fake.url, **options) as running:
            yield running
