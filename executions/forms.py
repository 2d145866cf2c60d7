"""Forms of runs: starting one, its limits and models, answers to its questions."""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from crews.forms import model_choices
from crews.models import Crew, CrewInput, LLMModel
from executions import budgets, forks
from executions.actions.starting import kept_file
from executions.models import Approval, Budget, Execution, RoleModel, TaskRun
from executions.models.budget import MOST_TOKENS
from portal.accounts.models import User
from portal.lib.forms import Styled, add_errors, style
from portal.lib.problems import Problem

PREFIX = "input_"
MODEL_PREFIX = "model_"
PRIORITIES = [(9, _("First")), (7, _("High")), (5, _("Normal")), (3, _("Low")), (1, _("Last"))]


class InputFields(Styled, forms.Form):
    """One field for each input that is asked for, filled in with what an earlier run was given.

    What a value must be is judged by `crews.inputs`, the same as for API and command line; `show`
    puts its findings beside the fields.
    """

    def __init__(self, *args: Any, definitions: list[CrewInput], earlier: Execution | None, **kwargs: Any) -> None:
        self.earlier = earlier
        self.definitions = definitions
        self.given = earlier.inputs if earlier else {}
        super().__init__(*args, **kwargs)
        for definition in definitions:
            field = self._field(definition, self.given.get(definition.field_name))
            self.fields[PREFIX + definition.field_name] = style(field)

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
        """The inputs, in order, and whether each must be given."""
        return [(self[PREFIX + definition.field_name], definition.is_required) for definition in self.definitions]

    def raw_inputs(self) -> dict[str, Any]:
        """Field name → value as it was sent; a file that was not sent is the earlier run's."""
        values = {}
        for definition in self.definitions:
            name = definition.field_name
            value = self.cleaned_data.get(PREFIX + name)
            if definition.field_type == CrewInput.Type.FILE and not value and self.earlier:
                value = kept_file(self.earlier, name)
            values[name] = value
        return values

    def name_of(self, error: str) -> str:
        """The form's field that an error of the domain is about."""
        return PREFIX + error.removeprefix("inputs.") if error.startswith("inputs.") else error

    def show(self, problem: Problem) -> None:
        """Put what is wrong beside the fields it is about, the rest above the form."""
        for error in problem.errors:
            name = self.name_of(error.field)
            self.add_error(name if name in self.fields else None, error.detail)
        if not problem.errors:
            self.add_error(None, problem.sentence)


class LimitFields(forms.Form):
    """The limits of one run, in money and tokens; empty is none."""

    budget_usd = forms.DecimalField(
        label=_("Limit, US$"), required=False, min_value=0, max_digits=12, decimal_places=6,
        widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
    )  # fmt: skip
    budget_tokens = forms.IntegerField(label=_("Limit, tokens"), required=False, min_value=0, max_value=MOST_TOKENS)


def limits_of(run: Execution) -> dict[str, Any]:
    """The run's limits as the fields show them."""
    usd = run.budget_usd
    return {"budget_usd": None if usd is None else f"{usd.normalize():f}", "budget_tokens": run.budget_tokens}


class RunForm(LimitFields, InputFields):
    """What a run of a crew starts with: its inputs, and how it should be carried out."""

    model = forms.ModelChoiceField(
        label=_("Model"), queryset=LLMModel.objects.all(), required=False,
        help_text=_("Takes every agent's place in this run."),
    )  # fmt: skip
    priority = forms.TypedChoiceField(label=_("Priority"), choices=PRIORITIES, coerce=int, initial=5)

    def __init__(self, *args: Any, crew: Crew, earlier: Execution | None = None, **kwargs: Any) -> None:
        super().__init__(*args, definitions=list(crew.inputs.all()), earlier=earlier, **kwargs)
        if earlier is not None:
            self.initial.update(limits_of(earlier))
        self.fields["model"].choices = model_choices(_("As each agent says"))  # type: ignore[attr-defined]

    @property
    def has_faulty_option(self) -> bool:
        """Whether a field is wrong that is folded away at first."""
        return any(name in self.errors for name in ("model", "priority", "budget_usd", "budget_tokens"))


class ForkForm(LimitFields, InputFields):
    """What a fork changes: inputs, texts of the tasks that run again and of agents, models, limits.

    Every field holds what the earlier run had; only what was changed counts as an edit.
    """

    def __init__(self, *args: Any, run: Execution, task: str, task_runs: Iterable[TaskRun], **kwargs: Any) -> None:
        super().__init__(*args, definitions=forks.definitions(run), earlier=run, initial=limits_of(run), **kwargs)
        for name in ("budget_usd", "budget_tokens"):
            self.fields[name].help_text = _("Empty: no limit.")
        self.run = run
        self.again = forks.runs_again(run, task, task_runs)
        self.texts = forks.texts(run)
        self.rows = list(run.role_models.select_related("llm_model").order_by("pk"))
        labels = {
            "description": _("Description"), "expected_output": _("Expected output"),
            "role": _("Role"), "goal": _("Goal"), "backstory": _("Backstory"),
        }  # fmt: skip
        for kind in ("tasks", "agents"):
            for key, texts in self.texts[kind].items():
                if kind == "tasks" and key not in self.again:
                    continue
                for name, text in texts.items():
                    widget = forms.TextInput() if name == "role" else forms.Textarea(attrs={"data-rows": 3})
                    field = forms.CharField(
                        label=labels[name], initial=text, required=name != "backstory", strip=False, widget=widget
                    )
                    self.fields[f"{kind}.{key}.{name}"] = style(field)
        choices = model_choices()
        for row in self.rows:
            self.fields[MODEL_PREFIX + row.key] = style(model_field(row, choices))

    def fields_of(self, kind: str, key: str) -> list[forms.BoundField]:
        """The fields of one task or agent."""
        return [self[f"{kind}.{key}.{name}"] for name in self.texts[kind].get(key, {})]

    def model_of(self, key: str) -> forms.BoundField | None:
        """The field for the model of a role."""
        name = MODEL_PREFIX + key
        return self[name] if name in self.fields else None

    def is_faulty(self, kind: str, key: str) -> bool:
        return any(name.startswith(f"{kind}.{key}.") or name == MODEL_PREFIX + key for name in self.errors)

    def edits(self) -> dict[str, Any]:
        """The arguments of `forks.fork` that say what was changed."""
        found: dict[str, Any] = {"tasks": {}, "agents": {}}
        for kind in ("tasks", "agents"):
            for key, texts in self.texts[kind].items():
                sent = {name: self.cleaned_data.get(f"{kind}.{key}.{name}", text) for name, text in texts.items()}
                changed = {name: plain(value) for name, value in sent.items() if plain(value) != plain(texts[name])}
                if changed:
                    found[kind][key] = changed
        inputs = self.raw_inputs()
        is_other = {name: plain(value) != plain(self.given.get(name)) for name, value in inputs.items()}
        for definition in self.definitions:
            if definition.field_type == CrewInput.Type.FILE:
                is_other[definition.field_name] = bool(self.cleaned_data.get(PREFIX + definition.field_name))
        return {
            **found,
            "inputs": inputs if any(is_other.values()) else None,
            "models": {row.key: self.cleaned_data[MODEL_PREFIX + row.key] for row in self.rows},
            "budget_usd": self.cleaned_data["budget_usd"],
            "budget_tokens": self.cleaned_data["budget_tokens"],
        }

    def name_of(self, error: str) -> str:
        if error.startswith("models."):
            role = error.removeprefix("models.")
            keys = [row.key for row in self.rows if role in {row.role, row.key}]
            return MODEL_PREFIX + keys[0] if keys else ""
        return super().name_of(error)


def plain(value: Any) -> str:
    """A value as a form sends it, for comparing: browsers end lines their own way."""
    return "" if value is None else str(value).replace("\r\n", "\n")


def model_field(row: RoleModel, choices: list[tuple[Any, Any]]) -> forms.ModelChoiceField:
    """The choice of a role's model."""
    field = forms.ModelChoiceField(
        label=row.role, queryset=LLMModel.objects.all(), initial=row.llm_model_id, empty_label=None
    )
    field.choices = choices
    return field


class BudgetOfRunForm(Styled, LimitFields):
    """The limits of a run, changed while it is there."""

    def __init__(self, *args: Any, run: Execution, **kwargs: Any) -> None:
        super().__init__(*args, initial=limits_of(run), **kwargs)


class RoleModelsForm(Styled, forms.Form):
    """Which model each role of a run uses from its next call on."""

    def __init__(self, *args: Any, rows: Iterable[RoleModel], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows = list(rows)
        choices = model_choices()
        for row in self.rows:
            self.fields[MODEL_PREFIX + row.key] = style(model_field(row, choices))

    def changed(self) -> dict[str, LLMModel]:
        """The models that are other ones now, by the role's key."""
        chosen = {row.key: self.cleaned_data[MODEL_PREFIX + row.key] for row in self.rows}
        return {row.key: chosen[row.key] for row in self.rows if chosen[row.key].pk != row.llm_model_id}


class AnswerForm(Styled, forms.Form):
    """A decision about a piece of work. What a decision needs beside it is judged by `actions.answer`."""

    decision = forms.ChoiceField(
        label=_("Your decision"), widget=forms.RadioSelect,
        choices=[("approve", _("Approve")), ("edit", _("Edit, then approve")), ("reject", _("Send back"))],
    )  # fmt: skip
    text = forms.CharField(
        label=_("The text that you approve"), required=False, strip=False,
        widget=forms.Textarea(attrs={"data-rows": 10}),
    )  # fmt: skip
    feedback = forms.CharField(
        label=_("What should be done differently?"), required=False,
        help_text=_("The agent reads this, and does the task again."),
        widget=forms.Textarea(attrs={"data-rows": 4}),
    )  # fmt: skip

    def __init__(self, *args: Any, question: Approval, **kwargs: Any) -> None:
        self.question = question
        kwargs.setdefault("initial", {"decision": "approve", "text": question.output})
        # Several questions may stand on one page.
        kwargs.setdefault("auto_id", f"{question.pk.hex[:8]}_%s")
        super().__init__(*args, **kwargs)

    @property
    def notes(self) -> dict[str, tuple[str, Any]]:
        """For each decision its icon and what it leads to."""
        return {
            "approve": ("check", _("The run goes on with the work as it is.")),
            "edit": ("pencil", _("You change the text; the run goes on with yours.")),
            "reject": ("undo-2", _("The agent does it again, with what you say.")),
        }

    def show(self, problem: Problem) -> None:
        """Put what is wrong beside the fields it is about, the rest above the form."""
        for error in problem.errors:
            self.add_error(error.field if error.field in self.fields else None, error.detail)
        if not problem.errors:
            self.add_error(None, problem.sentence)


class BudgetForm(Styled, forms.ModelForm):
    """What somebody may spend in a period, at most."""

    user = forms.ModelChoiceField(label=_("For whom"), queryset=User.objects.all())

    class Meta:
        model = Budget
        fields = ["period", "limit_usd", "limit_tokens"]
        widgets = {"limit_usd": forms.NumberInput(attrs={"step": "any", "inputmode": "decimal", "min": "0"})}
        help_texts = {"limit_usd": _("Empty: no limit. Local models never count as money.")}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["limit_tokens"].max_value = MOST_TOKENS  # type: ignore[attr-defined]
        if not self.instance._state.adding:
            del self.fields["user"]
            usd = self.instance.limit_usd
            self.initial["limit_usd"] = None if usd is None else f"{usd.normalize():f}"

    def _post_clean(self) -> None:
        if user := self.cleaned_data.get("user"):
            self.instance.subject_id = user.pk
        super()._post_clean()  # type: ignore[misc]
        if not self.errors:
            try:
                budgets.check(self.instance)
            except ValidationError as error:
                add_errors(self, error)

    def save_budget(self) -> Budget:
        """Save it. What is spent and reserved changes meanwhile, and is not written back."""
        budget = self.instance
        if budget._state.adding:
            budget.save(force_insert=True)
        else:
            budget.save(update_fields=[*self.Meta.fields, "updated_at"])
        return budget
