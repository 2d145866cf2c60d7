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

    def _map_serializer_field(self, field: Any, direction: Any, bypass_extensions: bool = False) -> Any:
        # DRF forgets of what is only read that the model lets it be empty; empty is no mail address.
        is_empty_at_times = field.read_only and _may_be_empty(field)
        if is_empty_at_times and isinstance(field, serializers.ChoiceField):
            field.allow_blank = True
        mapped = super()._map_serializer_field(field, direction, bypass_extensions)
        if is_empty_at_times and isinstance(field, serializers.EmailField | serializers.URLField):
            mapped.pop("format", None)
            field.validators = []  # the format would come back with them
        return mapped

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        bodies = super()._get_response_bodies(direction)
        for code, description in self._problems().items():
            if code not in bodies:
                answer = OpenApiResponse(ProblemSerializer, description=description)
                bodies[code] = self._get_response_for_code(answer, code, [CONTENT_TYPE], direction)
        return bodies

    def _problems(self) -> dict[str, str]:
        needs = [p.describe(self.view, self.method) for p in self.view.get_permissions() if hasattr(p, "describe")]
        found = {
            "401": "Sign in first, or send a credential that is valid.",
            "403": " ".join(filter(None, ["You may see this, but not do this.", *needs])),
            "429": "Too many requests; `Retry-After` says for how many seconds to wait.",
            "503": "What could say whether the token is good is away. Try again in a moment.",
        }
        # A view says of which actions the query or the body names something (`looks_up`).
        if "{" in self.path or getattr(self.view, "action", None) in getattr(self.view, "looks_up", ()):
            found["404"] = "There is nothing here that you may see."
        if self.method != "DELETE":
            found["400"] = "Some values cannot be used; `errors` names them."
        if self.method in {"POST", "PUT", "PATCH"}:
            found["415"] = "Send JSON, and say so: `Content-Type: application/json`."
        if self.method != "GET":
            found["409"] = "Things are not in a state in which this can be done."
        return found


def _may_be_empty(field: serializers.Field[Any, Any, Any, Any]) -> bool:
    """Whether the model that a field shows lets it be empty."""
    model = getattr(getattr(field.parent, "Meta", None), "model", None)
    known = {column.name: column for column in model._meta.fields} if model is not None else {}
    return bool(getattr(known.get(str(field.source)), "blank", False))
