"""Every route of the site × method × who asks × on what: pages, API and Django admin."""

import pytest

from tests.matrix.asking import Asker, questions
from tests.matrix.table import ROUTES
from tests.matrix.walk import http_routes

pytestmark = pytest.mark.django_db

HINT = (
    "{names}: not in the matrix. Add a row to the table_….py of tests/matrix that it belongs to, which says for each "
    "method the least role, what it does to the thing of its address, and which statuses only come to who was let in."
)


@pytest.fixture
def _django_db_helper() -> None:
    """In the place of pytest-django's: no transaction for each test, since the module's world has one of its own."""


def test_every_route_stands_in_the_table() -> None:
    found = {route.name for route in http_routes()}
    missing = sorted(found - set(ROUTES))
    assert not missing, HINT.format(names=", ".join(missing))
    gone = sorted(set(ROUTES) - found)
    assert not gone, f"{', '.join(gone)}: rows of tests/matrix without a route; take them away."


def test_no_two_routes_share_a_name() -> None:
    names = [route.name for route in http_routes()]
    assert sorted(names) == sorted(set(names)), sorted({name for name in names if names.count(name) > 1})


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_a_route(asker: Asker, name: str) -> None:
    found = asker.row(name, ROUTES[name], everything=False)
    assert found.cells >= 15
    assert not found.wrong, "\n".join([f"{len(found.wrong)} of {found.cells} cells:", *found.wrong[:25]])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ROUTES))
def test_a_route_whole(asker: Asker, name: str) -> None:
    found = asker.row(name, ROUTES[name], everything=True)
    assert not found.wrong, "\n".join([f"{len(found.wrong)} of {found.cells} cells:", *found.wrong[:25]])


def test_the_matrix_is_large() -> None:
    assert sum(len(list(questions(route, True))) for route in ROUTES.values()) > 50_000
