"""What the API's views of runs have in common."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from executions.models import Execution
from portal.accounts.models import Role, Scope
from portal.accounts.permissions import Action, find, person
from portal.lib.pagination import CursorPages

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key", OpenApiTypes.STR, OpenApiParameter.HEADER, description="The same key and body: the same run."
)


def idempotency_key(request: Request, route: str) -> str:
    """The key that came with a request, for this `route` alone; empty without one."""
    key = request.headers.get("Idempotency-Key", "")
    return f"{route}:{key}"[:200] if key else ""


class OfRun:
    """Of views whose `pk` is a run's: viewers read, users steer it, and what a person may not see is not there."""

    read_role = Role.VIEWER
    write_role = Role.USER
    write_scope = Scope.RUN
    request: Any
    kwargs: Any

    def found(self, action: Action) -> Execution:
        """The run, if whoever asks may do `action` with it. Raises `Http404` and `PermissionDenied`."""
        return find(Execution.objects.all(), person(self.request), action, pk=self.kwargs["pk"])


class NewestQuestionsFirst(CursorPages):
    ordering = "-requested_at"
