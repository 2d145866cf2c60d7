"""How forms of pages look and report: the design system's classes on widgets, domain errors on fields."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError

from portal.lib.problems import Problem

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


def add_problem(form: forms.BaseForm, problem: Problem) -> None:
    """Show a `Problem` on the form: each of its errors on the field of that name, else its sentence above them all."""
    for error in problem.errors:
        name = error.field.partition(".")[0]
        form.add_error(name if name in form.fields else None, ValidationError(error.detail, code=error.code))
    if not problem.errors:
        form.add_error(None, ValidationError(problem.sentence, code=problem.code))


@contextmanager
def errors_on(form: forms.BaseForm) -> Iterator[None]:
    """What an action refuses is shown on the form: leave the view inside the block, show the form again after it.

    with errors_on(form):
        people.change_role(user, form.cleaned_data["role"], by=person(request))
        return redirect(…)
    """
    try:
        yield
    except ValidationError as exc:
        add_errors(form, exc)
    except Problem as exc:
        add_problem(form, exc)
