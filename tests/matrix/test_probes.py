"""Lists, references in bodies, and second lines: `lists.py`, `deep.py`, `deep_projects.py`."""

import pytest

from tests.matrix import deep, deep_projects, lists  # noqa: F401 - they fill PROBES
from tests.matrix.asking import Asker
from tests.matrix.probes import PROBES

pytestmark = pytest.mark.django_db


@pytest.fixture
def _django_db_helper() -> None:
    """In the place of pytest-django's: no transaction for each test, since the module's world has one of its own."""


@pytest.mark.parametrize("name", sorted(PROBES))
def test_a_probe(asker: Asker, name: str) -> None:
    PROBES[name](asker)
