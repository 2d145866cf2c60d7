"""Taking away any one guard turns some cell of the matrix wrong."""

from typing import Any

import pytest

from tests.matrix.asking import Asker
from tests.matrix.guards import guards
from tests.matrix.mutants import Mutant, at_call_sites, call_sites, declarations, prove, reached, silent

pytestmark = pytest.mark.django_db

# What no answer can tell from what it was, and why.
EQUIVALENT = {
    "portal/accounts/invitations.py invite: require: asks nothing": "`sharing.lock` asks again, of the locked row",
    "portal/accounts/rest/keys.py ApiKeyViewSet.create: require_role: asks nothing": "`keys.create` asks again",
    **dict.fromkeys(
        (
            "projects/api/projects.py AdminProjectViewSet.force_complete: find: asks nothing",
            "projects/api/projects.py AdminProjectViewSet.force_complete: find: asks for seeing alone",
        ),
        "only admins come to it, and they may change everything",
    ),
    **dict.fromkeys(
        ("projects/api/projects.py ProjectExecutionsViewSet.get_queryset: visible_to: gives all",),
        "`project` has asked, and who sees it sees its runs",
    ),
}
# Call sites that no request comes to; test_sockets.py takes these away.
ELSEWHERE = {
    "executions/consumers.py ExecutionConsumer.find: find",
    "projects/consumers.py ProjectConsumer.find: find",
}
# Of the many, so many stand between two that the quick suite takes.
EVERY = 60


@pytest.fixture
def _django_db_helper() -> None:
    """In the place of pytest-django's: no transaction for each test, since the module's world has one of its own."""


def _prove(asker: Asker, mutants: list[Mutant], record_property: Any) -> None:
    with silent(asker):
        report = prove(asker, mutants)
    record_property("mutants", str(report))
    print(report)
    assert mutants
    unexplained = [name for name in report.survived if name not in EQUIVALENT]
    assert not unexplained, str(report)


def test_a_sample(asker: Asker, record_property: Any) -> None:
    _prove(asker, [*declarations()[::EVERY], *guards()[::6]], record_property)


@pytest.mark.slow
def test_declarations(asker: Asker, record_property: Any) -> None:
    _prove(asker, declarations(), record_property)


@pytest.mark.slow
def test_call_sites(asker: Asker, record_property: Any) -> None:
    sites = reached(asker)
    assert {str(site) for site in call_sites() if site not in sites} == ELSEWHERE
    _prove(asker, at_call_sites(sites), record_property)


@pytest.mark.slow
def test_guards(asker: Asker, record_property: Any) -> None:
    _prove(asker, guards(), record_property)
