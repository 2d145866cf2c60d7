"""Lists, searches and pages of projects take as many queries with many rows as with few (`tests.soak.scale`)."""

import random
from typing import Any

import pytest

from crews.seed import seed_catalog
from projects.library import seed_templates
from tests.soak import scale, scale_data

pytestmark = [pytest.mark.slow, pytest.mark.django_db]


def test_the_number_of_queries_does_not_grow(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    seed_catalog()
    seed_templates()
    made = scale_data.begin(random.Random(20))
    scale_data.fill(made, scale.FEW)
    few = scale.measured(made, times_each=2)
    scale_data.fill(made, 100)
    many = scale.measured(made, times_each=2)
    grown = {name: (few[name]["queries"], many[name]["queries"]) for name in few}
    assert not {name: counts for name, counts in grown.items() if counts[0] != counts[1]}
