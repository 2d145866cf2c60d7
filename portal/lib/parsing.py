"""JSON as it may come in: not nested without end, and text that a database has a place for."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

MAX_DEPTH = 64


class BoundedJSONParser(JSONParser):
    """DRF's parser, which answers 400 where too deep JSON would exhaust the stack, here or further on."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        try:
            parsed = super().parse(stream, media_type, parser_context)
        except RecursionError:
            raise _refusal() from None
        if is_deeper(parsed, MAX_DEPTH):
            raise _refusal()
        return parsed


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in each other more than `levels` deep. Needs no stack itself."""
    level = [value]
    while level:
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, dict | list)
        ]
        if level:
            levels -= 1
            if levels <= 0:
                return True
    return False


def _refusal() -> ParseError:
    return ParseError(_("The JSON is nested more than %(levels)d levels deep.") % {"levels": MAX_DEPTH})
