"""What pages of people, keys and invitations say."""

import json
from dataclasses import dataclass
from typing import Any

from django import template
from django.utils import timezone

from portal.accounts.credential_forms import SCOPE_NOTES
from portal.accounts.models import ApiKey, AuditEntry, Invitation, Scope

register = template.Library()


@register.simple_tag(takes_context=True)
def invitations_to_answer(context: template.Context) -> int:
    """How many invitations wait for the reader's answer. One query a page, however often it is shown."""
    request = context["request"]
    if not hasattr(request, "invitations_to_answer"):
        open_ones = Invitation.objects.filter(user=request.user.pk, answer="", expires_at__gt=timezone.now())
        request.invitations_to_answer = open_ones.count()
    return request.invitations_to_answer


@register.filter
def scope_names(key: ApiKey) -> list[Any]:
    """A key's scopes, each in a word."""
    return [SCOPE_NOTES[scope][0] for scope in Scope if scope in key.scope_set]


@register.filter
def key_state(key: ApiKey) -> str:
    """`usable`, `revoked` or `expired`."""
    if key.revoked_at:
        return "revoked"
    return "usable" if key.is_usable else "expired"


@dataclass(frozen=True)
class Change:
    """A field of an audit entry: what it was and what it became, as text; None where it was not there."""

    name: str
    before: str | None
    after: str | None

    @property
    def kind(self) -> str:
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


@register.simple_tag
def changes(entry: AuditEntry) -> list[Change]:
    """What an entry says of before and after, field by field; what stayed the same is left out."""
    return [
        Change(name, _as_text(entry.before, name), _as_text(entry.after, name))
        for name in sorted({**entry.before, **entry.after})
        if name not in entry.before or entry.before[name] != entry.after.get(name)
    ]


def _as_text(values: dict[str, Any], name: str) -> str | None:
    if name not in values:
        return None
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)


@register.filter
def words(text: str) -> list[str]:
    """The words of a text, to go over them."""
    return text.split()
