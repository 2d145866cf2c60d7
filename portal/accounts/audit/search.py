"""Looking into the audit log: the filters of its page and of its API, and the order in which it is read."""

from collections.abc import Mapping
from typing import Any

import django_filters as filters
from django import forms
from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import AuditEntry
from portal.lib import numbers


class _AddressFilter(filters.Filter):
    field_class = forms.GenericIPAddressField


class AuditFilter(filters.FilterSet):
    """`AuditFilter(request.GET, AuditEntry.objects.all())`: `form` to show, `qs` to read."""

    action = filters.CharFilter(
        method="of_action", label=_("Action"), help_text=_("user.signed_in, or only “user” for all about users.")
    )
    outcome = filters.ChoiceFilter(choices=AuditEntry.Outcome.choices, label=_("Outcome"))
    actor_id = filters.UUIDFilter(label=_("Who"))
    target_kind = filters.CharFilter(label=_("On what"), help_text=_("crew, execution, user, …"))
    target_id = filters.CharFilter(label=_("Its id"))
    address = _AddressFilter(label=_("From"))
    after = filters.IsoDateTimeFilter(field_name="at", lookup_expr="gte", label=_("At or after"))
    before = filters.IsoDateTimeFilter(field_name="at", lookup_expr="lt", label=_("Before"))
    search = filters.CharFilter(
        method="matching", label=_("Search"), help_text=_("In names, actions and credentials; or an entry's number.")
    )

    class Meta:
        model = AuditEntry
        fields: list[str] = []

    def of_action(self, rows: "QuerySet[AuditEntry]", _name: str, value: str) -> "QuerySet[AuditEntry]":
        value = value.strip().rstrip(".")
        return rows.filter(action=value) if "." in value else rows.filter(action__startswith=f"{value}.")

    def matching(self, rows: "QuerySet[AuditEntry]", _name: str, value: str) -> "QuerySet[AuditEntry]":
        value = value.strip().replace("\x00", "")
        found = Q()
        for column in ("action", "actor_name", "target_name", "target_id", "credential"):
            found |= Q(**{f"{column}__icontains": value})
        if (number := numbers.whole(value)) is not None:
            found |= Q(number=number)
        return rows.filter(found)


def search(asked: Mapping[str, Any]) -> "QuerySet[AuditEntry]":
    """The entries that match, newest first. `asked`: names of `AuditFilter`'s fields → values (a `request.GET`).

    Values that make no sense find nothing, rather than everything.
    """
    found = AuditFilter(asked, AuditEntry.objects.order_by("-id"))
    return found.qs if found.is_valid() else AuditEntry.objects.none()
