"""References of the API."""

from collections.abc import Callable
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers


class IdList(serializers.ListField):
    """An ordered list of ids of rows that the person may refer to, looked up with one query.

    `rows` gives the queryset of those, from the field; `ids` gives the ids of an instance.
    """

    default_error_messages = {"does_not_exist": _("There is no “{id}” that you may use.")}

    def __init__(
        self, *, rows: Callable[["IdList"], models.QuerySet[Any]], ids: Callable[[Any], list[Any]], **kwargs: Any
    ) -> None:
        self.rows = rows
        self.ids = ids
        kwargs.setdefault("child", serializers.UUIDField())
        super().__init__(**kwargs)

    def get_attribute(self, instance: Any) -> list[Any]:
        return self.ids(instance)

    def to_internal_value(self, data: Any) -> list[Any]:
        wanted = list(dict.fromkeys(super().to_internal_value(data)))
        found = self.rows(self).in_bulk(wanted)
        for key in wanted:
            if key not in found:
                self.fail("does_not_exist", id=key)
        return [found[key] for key in wanted]
