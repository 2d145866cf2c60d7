"""What templates of every app use: icons' companions, times, numbers, Markdown."""

import zlib
from datetime import datetime
from decimal import Decimal
from typing import Any

from django import template
from django.contrib.auth.models import AnonymousUser
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from portal.accounts.models import Role, User
from portal.lib.browsers import browser_of
from portal.lib.markdown import render

register = template.Library()

HUES = 6
JUST_NOW_SECONDS = 45


@register.filter
def has_role(user: User | AnonymousUser, role: str) -> bool:
    """Whether who looks at the page acts as `role` or above it (`User.has_role`): what to show them."""
    return isinstance(user, User) and user.has_role(Role(role))


@register.filter
def browser(user_agent: str) -> str:
    """Which browser on which system, in words: `Firefox on Windows`."""
    found = browser_of(user_agent or "")
    if found.name and found.system:
        return _("%(browser)s on %(system)s") % {"browser": found.name, "system": found.system}
    return found.name or found.system or _("Unknown browser")


@register.filter
def is_handheld(user_agent: str) -> bool:
    """Whether a telephone or tablet sent `user_agent`."""
    return browser_of(user_agent or "").is_handheld


@register.filter
def markdown(text: str) -> SafeString:
    """Sanitized HTML of Markdown."""
    return render(text or "")


@register.simple_tag
def avatar(name: str, size: str = "") -> SafeString:
    """A small tile with the first letter of a name; the colour follows from the name."""
    letter = next((char for char in str(name) if char.isalnum()), "·").upper()
    hue = zlib.crc32(str(name).encode()) % HUES + 1
    return format_html('<span class="avatar {}" data-hue="{}" aria-hidden="true">{}</span>', size, hue, letter)


@register.simple_tag
def ago(at: datetime | None) -> SafeString:
    """How long ago a moment was, as `<time>`; the exact moment stands in its title, in the reader's zone by time.js."""
    if at is None:
        return SafeString("–")
    seconds = (timezone.now() - at).total_seconds()
    text = _("just now") if seconds < JUST_NOW_SECONDS else _("%(time)s ago") % {"time": timesince(at, depth=1)}
    title = formats.date_format(timezone.localtime(at), "DATETIME_FORMAT")
    return format_html('<time datetime="{}" title="{}" data-moment>{}</time>', at.isoformat(), title, text)


@register.simple_tag
def moment(at: datetime | None, to: str = "minute") -> SafeString:
    """A day and time `to` the minute or the second, as `<time>`; in the reader's zone by time.js."""
    if at is None:
        return SafeString("–")
    text = formats.date_format(timezone.localtime(at), "SHORT_DATETIME_FORMAT")
    return format_html('<time datetime="{}" data-full="{}">{}</time>', at.isoformat(), to, text)


@register.simple_tag
def due(at: datetime) -> SafeString:
    """How much time is left until a moment, as `<time>`; the exact moment stands in its title, as in `ago`."""
    now = timezone.now()
    text = _("%(time)s left") % {"time": timeuntil(at, now, depth=1)} if at > now else _("time is over")
    title = formats.date_format(timezone.localtime(at), "DATETIME_FORMAT")
    return format_html('<time datetime="{}" title="{}" data-due>{}</time>', at.isoformat(), title, text)


@register.simple_tag
def clock(at: datetime) -> SafeString:
    """The time of day of a moment, in the reader's zone by time.js."""
    text = timezone.localtime(at).strftime("%H:%M:%S")
    return format_html('<time datetime="{}" data-clock>{}</time>', at.isoformat(), text)


@register.filter
def duration(seconds: float | None) -> str:
    """Seconds for people: `0.4 s`, `12 s`, `3:05`, `1:02:05`; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return _("%(n)s s") % {"n": f"{max(seconds, 0):.1f}"}
    whole = int(seconds)
    if whole < 60:
        return _("%(n)s s") % {"n": whole}
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@register.filter
def spell_seconds(seconds: int) -> str:
    """A limit in words: `30 minutes`, `1 hour`, `90 seconds`."""
    if seconds % 3600 == 0:
        return ngettext("%(n)s hour", "%(n)s hours", seconds // 3600) % {"n": seconds // 3600}
    if seconds % 60 == 0:
        return ngettext("%(n)s minute", "%(n)s minutes", seconds // 60) % {"n": seconds // 60}
    return ngettext("%(n)s second", "%(n)s seconds", seconds) % {"n": seconds}


@register.simple_tag
def elapsed(started_at: datetime | None, ended_at: datetime | None = None) -> SafeString:
    """How long something took, or takes: while it is open, time.js counts on."""
    if started_at is None:
        return SafeString("–")
    seconds = ((ended_at or timezone.now()) - started_at).total_seconds()
    if ended_at is not None:
        return format_html('<span class="num">{}</span>', duration(seconds))
    return format_html('<span class="num" data-since data-seconds="{}">{}</span>', int(seconds), duration(seconds))


@register.filter
def number(value: int | None) -> str:
    """A whole number with its thousands apart."""
    return "–" if value is None else f"{value:,}"


@register.filter
def compact(value: int | None) -> str:
    """A token count as models are described by: `8K`, `128K`, `1M`."""
    if value is None:
        return "–"
    for size, unit in ((1_000_000, "M"), (1_000, "K")):
        if value >= size:
            return f"{value / size:.1f}".removesuffix(".0") + unit
    return str(value)


@register.filter
def milliseconds(value: int | None) -> str:
    """`240 ms`, `1.2 s`; a dash for None."""
    if value is None:
        return "–"
    return f"{value} ms" if value < 1000 else f"{value / 1000:.1f} s"


@register.filter
def dollars(value: Decimal | None) -> str:
    """US dollars with as many digits as say something: `$0.0012`, `$1.25`."""
    if value is None:
        return "–"
    value = Decimal(value)
    if not value:
        return "$0"
    if value < Decimal("0.0001"):
        return "< $0.0001"
    return f"${value:.4f}" if value < 1 else f"${value:,.2f}"


@register.filter
def amount(value: Decimal | int | None, unit: str) -> str:
    """Money (`usd`) or tokens."""
    return dollars(None if value is None else Decimal(value)) if unit == "usd" else number(value)  # type: ignore[arg-type]


@register.filter
def get(mapping: Any, key: Any) -> Any:
    """An entry of a dict by a key that is a variable."""
    return mapping.get(key) if mapping else None
