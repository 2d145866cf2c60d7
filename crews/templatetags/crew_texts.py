"""Texts of definitions, with the names of inputs in them set apart."""

import re

from django import template
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext_lazy as _

from crews.models import Agent, CrewInput, Task

register = template.Library()

_PLACEHOLDER = re.compile(r"(\{[A-Za-z_][A-Za-z0-9_]*\})")


@register.simple_tag
def placeholders(text: str) -> SafeString:
    """`text`, escaped, with each `{field_name}` in a mark of its own."""
    pieces = _PLACEHOLDER.split(text)
    marked = [
        format_html('<span class="placeholder">{}</span>', piece) if place % 2 else conditional_escape(piece)
        for place, piece in enumerate(pieces)
    ]
    return mark_safe("".join(marked))  # noqa: S308 - every piece was escaped


@register.filter
def anchor(part: Task | Agent | CrewInput) -> str:
    """The element id of a part's card, as `crews.views.crews.anchor_of` names it."""
    kind = {Task: "task", Agent: "agent", CrewInput: "input"}[type(part)]
    return f"{kind}-{part.pk}"


@register.filter
def in_braces(name: str) -> str:
    """How texts write an input: `{topic}`."""
    return f"{{{name}}}"


PURPOSES = {"research": _("research"), "code": _("code"), "documents": _("documents"), "fast": _("fast answers")}


@register.filter
def purposes(words: list[str]) -> str:
    """What a model is good for, in the reader's language; words that we do not know stay as they are."""
    return ", ".join(str(PURPOSES.get(word, word)) for word in words)
