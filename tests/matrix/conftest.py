"""One world a module, in one transaction that is rolled back at its end."""

from collections.abc import Iterator
from typing import Any

import pytest


class NoSchema:
    """In the place of the schema's generator."""

    def __init__(self, **_: Any) -> None:
        pass

    def get_schema(self, **_: Any) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def asker(django_db_setup: None, django_db_blocker: Any) -> "Iterator[Any]":
    """Asks questions of a world that lives as long as the module's tests.

    The module is marked `django_db`, and has an empty `_django_db_helper`.
    """
    from django.db import transaction
    from django.test import override_settings

    from portal.site.api_views import SchemaView
    from tests.fakes.idp import SECRET, FakeIdp
    from tests.matrix.asking import Asker
    from tests.matrix.things import World

    patch = pytest.MonkeyPatch()
    # Who may read the schema is asked here, not what stands in it: that takes a second each time.
    patch.setattr(SchemaView, "generator_class", NoSchema)
    # Icons give nothing away, and drawing them takes a fifth of the time.
    patch.setattr("lucide.templatetags.lucide._render_icon", lambda *_, **__: "")
    try:
        with django_db_blocker.unblock(), transaction.atomic():
            with FakeIdp() as idp, override_settings(OIDC_ISSUER=idp.issuer, OIDC_CLIENT_SECRET=SECRET):
                asker = Asker(World(idp))
                asker.remember_tables()
                with asker.listening():
                    yield asker
            transaction.set_rollback(True)
    finally:
        patch.undo()
