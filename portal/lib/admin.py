"""Django admin of what only the portal itself writes, and of what an action deletes."""

from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from portal.lib.problems import Conflict


class _Unchangeable:
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyAdmin(_Unchangeable, ModelAdmin):
    """Rows to look at. The count of all rows is not asked for: these tables only grow."""

    list_per_page = 50
    show_full_result_count = False


class ReadOnlyInline(_Unchangeable, TabularInline):
    """Rows beside the one they belong to, to look at."""

    extra = 0
    show_change_link = True


class RefusingAdmin(ModelAdmin):
    """Base of what an action deletes: what it would refuse is shown before, as Django shows what is protected."""

    def why_not_deletable(self, thing: Any, request: HttpRequest) -> str:
        """The sentence with which the action would refuse; empty when it would not. Deletes nothing."""
        try:
            with transaction.atomic():
                self.remove(thing, request)
                transaction.set_rollback(True)
        except Conflict as conflict:
            return conflict.detail
        return ""

    def remove(self, thing: Any, request: HttpRequest) -> None:
        """Delete `thing` by its action. Every subclass names its own; raises `Conflict` when the action refuses."""
        raise NotImplementedError

    def get_deleted_objects(self, objs: Iterable[Any], request: HttpRequest) -> tuple[Any, Any, Any, Any]:
        to_delete, count, perms, protected = super().get_deleted_objects(list(objs), request)
        for thing in list(objs):
            if why := self.why_not_deletable(type(thing).objects.get(pk=thing.pk), request):
                protected = [*protected, why]
        return to_delete, count, perms, protected

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.remove(obj, request)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        with transaction.atomic():
            for thing in queryset:
                self.remove(thing, request)
