"""Requests made up from the API's schema, as everybody: no failure, and no answer that the schema does not name.

Each request runs in a savepoint of its own, so that one that deletes everything ruins nothing. Half of the
addresses are of things that there are. The quick suite takes a few requests of each operation as one
person; `python -m tests.matrix schema` takes many, as everybody.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import pytest
import schemathesis
from django.core import signals
from django.core.handlers.wsgi import WSGIHandler
from django.db import close_old_connections, transaction
from django.urls import Resolver404, resolve
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.matrix.asking import Asker
from tests.matrix.people import BY_NAME, Who
from tests.matrix.table import ROUTES

pytestmark = pytest.mark.django_db

CHECKS = (
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
)
AS = ["anonymous", "viewer", "user", "admin", "key: read", "key: run", "key: write", "key: admin", "bearer"]
EXAMPLES = int(os.environ.get("PORTAL_TEST_SCHEMA_EXAMPLES", "12"))
SOME = 2  # of the quick suite


@pytest.fixture
def _django_db_helper() -> None:
    """In the place of pytest-django's: no transaction for each test, since the module's world has one of its own."""


@pytest.fixture(scope="module")
def operations(asker: Asker) -> dict[str, Any]:
    """Every operation of the schema by its name, as an admin reads it."""
    from drf_spectacular.generators import SchemaGenerator

    document = SchemaGenerator().get_schema(public=True)
    schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig())
    schema.app = WSGIHandler()
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


def try_out(asker: Asker, operation: Any, who: Who, examples: int) -> None:
    """Make up `examples` requests of an operation, send them as `who`, and check each answer."""
    sent = {"Cookie": "HTTP_COOKIE", "Authorization": "HTTP_AUTHORIZATION"}
    headers = {name: value for name, key in sent.items() if (value := asker.world.headers_of(who).get(key))}
    if "Cookie" in headers:
        headers["Cookie"] += f"; csrftoken={TOKEN}"
        headers["X-CSRFToken"] = TOKEN

    @hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    @hypothesis.given(case=_requests(operation), thing=st.sampled_from(THINGS))
    def send(case: Any, thing: str | None) -> None:
        _aim(asker, case, thing)
        with _one_connection(), transaction.atomic():
            response = case.call(headers=headers)
            transaction.set_rollback(True)
        case.validate_response(response, checks=list(CHECKS), headers=headers)

    send()


THINGS = [None, "own", "shared", "private"]
TOKEN = "a" * 32


@contextmanager
def _one_connection() -> Iterator[None]:
    """The end of a request closes no connection, as with Django's own test client."""
    ends = (signals.request_started, signals.request_finished)
    for signal in ends:
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in ends:
            signal.connect(close_old_connections)


def _requests(operation: Any) -> st.SearchStrategy[Any]:
    """Requests that the schema allows, and for who takes values, such that it does not."""
    allowed = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    takes_values = bool(list(operation.query) or list(operation.body))
    return allowed | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE) if takes_values else allowed


def _aim(asker: Asker, case: Any, thing: str | None) -> None:
    """Let the address of a request name a thing that there is."""
    if thing is None or not case.path_parameters:
        return
    try:
        match = resolve(case.formatted_path)
    except (Resolver404, ValueError):
        return
    route = ROUTES.get(match.view_name)
    if route is None:
        return
    parts = {**asker.world.parts(route.path.values(), thing), **asker.world.catalog}
    for name, part in route.path.items():
        if part in parts:
            wanted = next(key for key in case.path_parameters if key in {name, "id", "pk"} or key == name)
            case.path_parameters[wanted] = str(parts[part])


def _of(operations: dict[str, Any]) -> list[Any]:
    return [operations[name] for name in sorted(operations)]


def _faults(asker: Asker, operations: dict[str, Any], who: str, examples: int) -> list[str]:
    wrong = []
    for operation in _of(operations):
        try:
            try_out(asker, operation, BY_NAME[who], examples)
        except (AssertionError, BaseExceptionGroup, Exception) as exc:  # noqa: BLE001 - whatever it is, all are told
            wrong.append(f"{operation.label} as {who}: {type(exc).__name__}: {exc}")
    return wrong


def test_some_requests(asker: Asker, operations: dict[str, Any]) -> None:
    assert len(operations) > 80
    wrong = _faults(asker, operations, "key: admin", SOME)
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("who", AS)
def test_many_requests(asker: Asker, operations: dict[str, Any], who: str) -> None:
    wrong = _faults(asker, operations, who, EXAMPLES)
    print(f"{who}: {len(operations)} operations × {EXAMPLES}, {len(wrong)} wrong")
    assert not wrong, "\n\n".join(wrong)
