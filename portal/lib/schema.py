"""How the API describes itself: what every operation has in common is said here once."""

from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers

from portal.lib.problems import CONTENT_TYPE

_VERBS = {
    "list": "List",
    "create": "Create",
    "retrieve": "Read",
    "update": "Replace",
    "partial_update": "Update",
    "destroy": "Delete",
}


class FieldErrorSerializer(serializers.Serializer[Any]):
    """What is wrong with one field."""

    field = serializers.CharField(help_text="A dotted path; empty for the whole.")
    code = serializers.CharField()
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """An RFC 9457 problem document: what went wrong, and what to do."""

    type = serializers.CharField(default="about:blank")
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField(help_text="Stable, for programs.")
    detail = serializers.CharField(help_text="One plain sentence.")
    hint = serializers.CharField(required=False, help_text="What to do next.")
    errors = FieldErrorSerializer(many=True, required=False)  # type: ignore[assignment]


class Schema(AutoSchema):
    """Adds the problem answers and a summary to every operation."""

    def get_summary(self) -> str | None:
        action = getattr(self.view, "action", None)
        serializer = self.view.__class__
        noun = getattr(serializer, "noun", None)
        if noun and action in _VERBS:
            return f"{_VERBS[action]} {getattr(serializer, 'nouns', f'{noun}s') if action == 'list' else noun}"
        return super().get_summary()

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        bodies = super()._get_response_bodies(direction)
        for code, description in self._problems().items():
            if code not in bodies:
                answer = OpenApiResponse(ProblemSerializer, description=description)
                bodies[code] = self._get_response_for_code(answer, code, [CONTENT_TYPE], direction)
        return bodies

    def _problems(self) -> dict[str, str]:
        found = {"401": "Sign in first.", "403": "You may see this, but not do this."}
        if "{" in self.path:
            found["404"] = "There is nothing here that you may see."
        if self.method != "DELETE":
            found["400"] = "Some values cannot be used; `errors` names them."
        if self.method != "GET":
            found["409"] = "Things are not in a state in which this can be done."
        return found
