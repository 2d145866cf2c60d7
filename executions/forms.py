"""The form that starts a run, made from a crew's inputs."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from crews.forms import model_choices
from crews.inputs import InputFile
from crews.models import Crew, CrewInput, LLMModel
from executions.actions import inputs_folder
from executions.models import Execution
from portal.lib.forms import Styled, style
from portal.lib.problems import Problem

PREFIX = "input_"
PRIORITIES = [(9, _("First")), (7, _("High")), (5, _("Normal")), (3, _("Low")), (1, _("Last"))]


class RunForm(Styled, forms.Form):
    """One field for each input of the crew, and how the run should be carried out.

    What a value must be is judged by `crews.inputs.clean_inputs`, the same as for API and command
    line; `show` puts its findings beside the fields.
    """

    model = forms.ModelChoiceField(
        label=_("Model"), queryset=LLMModel.objects.all(), required=False,
        help_text=_("Takes every agent's place in this run."),
    )  # fmt: skip
    priority = forms.TypedChoiceField(label=_("Priority"), choices=PRIORITIES, coerce=int, initial=5)

    def __init__(self, *args: Any, crew: Crew, earlier: Execution | None = None, **kwargs: Any) -> None:
        self.crew = crew
        self.earlier = earlier
        self.definitions = list(crew.inputs.all())
        given = earlier.inputs if earlier else {}
        super().__init__(*args, **kwargs)
        for definition in self.definitions:
            field = self._field(definition, given.get(definition.field_name))
            self.fields[PREFIX + definition.field_name] = style(field)
        self.fields["model"].choices = model_choices(_("As each agent says"))  # type: ignore[attr-defined]

    def _field(self, definition: CrewInput, given: Any) -> forms.Field:
        kind = CrewInput.Type(definition.field_type)
        initial = definition.default if given is None else given
        common: dict[str, Any] = {"label": definition.label, "required": False, "initial": initial}
        field: forms.Field
        if kind is CrewInput.Type.SELECT:
            options = [(option, option) for option in definition.options]
            field = forms.ChoiceField(
                **common, choices=options if definition.is_required and initial else [("", "–"), *options]
            )
        elif kind is CrewInput.Type.BOOLEAN:
            common["initial"] = str(initial).strip().lower() in {"true", "yes", "on", "1"}
            return forms.BooleanField(**common)
        elif kind is CrewInput.Type.FILE:
            field = forms.FileField(**{**common, "initial": None})
            if given:
                field.help_text = _("Without another file, “%(name)s” of the earlier run is used.") % {"name": given}
        elif kind is CrewInput.Type.TEXTAREA:
            field = forms.CharField(**common, widget=forms.Textarea(attrs={"data-rows": 5}))
        else:
            is_number = kind is CrewInput.Type.NUMBER
            widget = forms.TextInput(attrs={"inputmode": "decimal"}) if is_number else forms.TextInput()
            field = forms.CharField(**common, widget=widget)
        if definition.is_required and not (kind is CrewInput.Type.FILE and given):
            field.widget.attrs["required"] = True
        return field

    @property
    def input_fields(self) -> list[tuple[forms.BoundField, bool]]:
        """The crew's inputs, in order, and whether each must be given."""
        return [(self[PREFIX + definition.field_name], definition.is_required) for definition in self.definitions]

    def raw_inputs(self) -> dict[str, Any]:
        """Field name → value as it was sent; a file that was not sent is the earlier run's."""
        values = {}
        for definition in self.definitions:
            name = definition.field_name
            value = self.cleaned_data.get(PREFIX + name)
            if definition.field_type == CrewInput.Type.FILE and not value:
                value = self._earlier_file(name)
            values[name] = value
        return values

    def _earlier_file(self, name: str) -> InputFile | None:
        file_name = self.earlier.inputs.get(name) if self.earlier else None
        if not self.earlier or not file_name:
            return None
        path = inputs_folder(self.earlier.pk) / name / str(file_name)
        return InputFile(str(file_name), path.read_bytes()) if path.is_file() else None

    def show(self, problem: Problem) -> None:
        """Put what is wrong beside the fields it is about, the rest above the form."""
        placed = False
        for error in problem.errors:
            field = PREFIX + error.field.removeprefix("inputs.") if error.field.startswith("inputs.") else error.field
            self.add_error(field if field in self.fields else None, error.detail)
            placed = True
        if not placed:
            self.add_error(None, problem.detail)
