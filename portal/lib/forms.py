"""How forms of pages look and report: the design system's classes on widgets, domain errors on fields."""

from typing import Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError

CLASSES: list[tuple[type[forms.Widget], str]] = [
    (forms.CheckboxInput, ""),
    (forms.CheckboxSelectMultiple, ""),
    (forms.RadioSelect, ""),
    (forms.Textarea, "textarea"),
    (forms.Select, "select"),
    (forms.Widget, "input"),
]


class Styled:
    """Mixin for forms: widgets get their class, text areas a sensible height, the first faulty field the focus."""

    fields: dict[str, forms.Field]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            style(field)


def style(field: forms.Field) -> forms.Field:
    """Give a field's widget the classes of the design system; returns the field."""
    widget = field.widget
    name = next(name for kind, name in CLASSES if isinstance(widget, kind))
    if name:
        widget.attrs["class"] = f"{name} {widget.attrs.get('class', '')}".strip()
    if isinstance(widget, forms.Textarea):
        widget.attrs["rows"] = widget.attrs.get("data-rows", 3)
        widget.attrs.pop("cols", None)
    return field


def add_errors(form: forms.BaseForm, error: ValidationError) -> None:
    """Show a domain's `ValidationError` on the form's fields; what has no field stands above them all."""
    if not hasattr(error, "error_dict"):
        form.add_error(None, error)
        return
    for name, errors in error.error_dict.items():
        form.add_error(name if name in form.fields and name != NON_FIELD_ERRORS else None, errors)
