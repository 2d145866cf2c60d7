"""Django admin without the power to change: for what only the portal itself writes."""

from typing import Any

from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline


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
