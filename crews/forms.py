"""Forms of definitions: crews, agents, tasks, inputs, providers."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import Max, Q
from django.utils.translation import gettext_lazy as _

from crews import actions
from crews.catalog_actions import save_model
from crews.models import Agent, Crew, CrewInput, LLMModel, LLMProvider, Task, Tool
from portal.accounts.models import User, Visibility
from portal.lib.forms import Styled, add_errors

QUESTIONS = ("approval_timeout_seconds", "approval_reminder_seconds")


def model_choices(empty: Any = None) -> list[tuple[Any, Any]]:
    """The catalog for a select: what can be used now first, then the rest with the reason why not. One query."""
    usable, others = [], []
    for model in LLMModel.objects.select_related("provider"):
        if why := model.why_not_runnable:
            others.append((model.pk, f"{model.pk} – {why}"))
        else:
            usable.append((model.pk, f"{model.pk} – {model.name}" if model.name != model.pk else model.pk))
    groups: list[tuple[Any, Any]] = [(_("Ready to use"), usable)]
    if others:
        groups.append((_("Not ready"), others))
    return [("", empty), *groups] if empty is not None else groups


def only_model(form: forms.ModelForm, name: str, empty: Any = None) -> None:
    """Show the catalog in the model field `name`, grouped by what can be used."""
    field = form.fields[name]
    assert isinstance(field, forms.ModelChoiceField)  # noqa: S101 - tells the type checker
    field.choices = model_choices(empty)


class CrewForm(Styled, forms.ModelForm):
    """A crew's own settings; who works in it and on what is edited beside it."""

    is_active = forms.BooleanField(label=_("May be run"), required=False)
    is_shared = forms.BooleanField(
        label=_("Shared"), required=False, help_text=_("Everybody may see, run and copy it. Only you change it.")
    )

    class Meta:
        model = Crew
        fields = [
            "name", "description", "process", "manager_agent", "manager_llm_model",
            "max_duration_seconds", "task_timeout_seconds", "max_llm_calls",
            "approval_timeout_seconds", "approval_reminder_seconds",
        ]  # fmt: skip
        widgets = {
            "process": forms.RadioSelect,
            "description": forms.Textarea(attrs={"data-rows": 2}),
        }

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        crew = self.instance
        self.is_new = crew._state.adding
        self.fields["process"].choices = Crew.Process.choices  # type: ignore[attr-defined]
        agents = self.fields["manager_agent"]
        agents.queryset = Agent.objects.visible_to(user)  # type: ignore[attr-defined]
        agents.empty_label = _("None: the engine's own manager, on the model below")  # type: ignore[attr-defined]
        only_model(self, "manager_llm_model", _("None"))
        self.fields["is_active"].initial = crew.status == Crew.Status.ACTIVE
        if not self.is_new:
            # Who sees an existing crew is changed where its other access stands.
            del self.fields["is_shared"]
        else:
            for name in ("max_duration_seconds", "task_timeout_seconds", "max_llm_calls", "is_active", *QUESTIONS):
                del self.fields[name]

    @property
    def process_notes(self) -> dict[str, tuple[str, Any]]:
        """For each process its icon and what it means."""
        return {
            "sequential": ("list-ordered", _("Each task begins when the one before it has finished.")),
            "parallel": ("git-fork", _("A task begins as soon as the tasks it takes output from have finished.")),
            "hierarchical": ("network", _("A manager hands the tasks out and checks the results.")),
        }

    def save_settings(self) -> Crew:
        """Save an existing crew."""
        crew = self.save(commit=False)
        crew.status = Crew.Status.ACTIVE if self.cleaned_data["is_active"] else Crew.Status.INACTIVE
        crew.save()
        return crew

    def create(self, *, by: User) -> Crew:
        """Make the crew. Its agents and tasks follow on its page."""
        values = {name: self.cleaned_data[name] for name in self._meta.fields or () if name in self.fields}
        shared = self.cleaned_data.get("is_shared")
        return actions.create_crew(by=by, visibility=Visibility.SHARED if shared else Visibility.PRIVATE, **values)


class AgentForm(Styled, forms.ModelForm):
    """An agent; the two call parameters that people change most stand as fields of their own."""

    temperature = forms.FloatField(
        label=_("Temperature"), required=False, min_value=0, max_value=2,
        help_text=_("0 is sober, 1 is inventive. Empty: the model's default."),
        widget=forms.NumberInput(attrs={"step": "0.05"}),
    )  # fmt: skip
    max_tokens = forms.IntegerField(
        label=_("Answer at most, tokens"), required=False, min_value=1, max_value=1_000_000,
        help_text=_("Empty: as long as the model likes."),
    )  # fmt: skip

    class Meta:
        model = Agent
        fields = ["role", "goal", "backstory", "llm_model", "max_iterations", "allow_delegation", "tools"]
        widgets = {
            "goal": forms.Textarea(attrs={"data-rows": 2}),
            "backstory": forms.Textarea(attrs={"data-rows": 2}),
            "tools": forms.CheckboxSelectMultiple,
        }
        help_texts = {"allow_delegation": _("It may hand questions and work to other agents of the crew.")}

    own_parameters = ("temperature", "max_tokens")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        only_model(self, "llm_model")
        self.fields["tools"].queryset = Tool.objects.filter(enabled=True)  # type: ignore[attr-defined]
        self.fields["tools"].label_from_instance = tool_label  # type: ignore[attr-defined]
        for name in self.own_parameters:
            self.fields[name].initial = (self.instance.llm_config or {}).get(name)

    def clean(self) -> dict[str, Any]:
        super().clean()
        config = {k: v for k, v in (self.instance.llm_config or {}).items() if k not in self.own_parameters}
        config |= {name: v for name in self.own_parameters if (v := self.cleaned_data.get(name)) is not None}
        self.instance.llm_config = config
        return self.cleaned_data

    def create(self, *, by: User, crew: Crew) -> Agent | None:
        """Make the agent and put it into the crew; None (and errors on the form) when that cannot be."""
        values = dict(self.cleaned_data)
        for name in self.own_parameters:
            values.pop(name)
        try:
            agent = actions.create_agent(by=by, llm_config=self.instance.llm_config, **values)
            actions.set_members(crew=crew, agents=[*members_of(crew), agent])
        except ValidationError as error:
            add_errors(self, error)
            return None
        return agent


class TaskForm(Styled, forms.ModelForm):
    """A task of a crew."""

    class Meta:
        model = Task
        fields = [
            "name", "agent", "description", "expected_output", "context", "tools", "async_execution", "human_input",
        ]  # fmt: skip
        widgets = {
            "context": forms.CheckboxSelectMultiple,
            "tools": forms.CheckboxSelectMultiple,
            "description": forms.Textarea(attrs={"data-rows": 4}),
            "expected_output": forms.Textarea(attrs={"data-rows": 2}),
        }
        help_texts = {
            "expected_output": _("Say how the answer should look: headings, length, form."),
            "async_execution": _("The next task does not wait for this one."),
            "human_input": _(
                "The run waits here until somebody has approved the output, edited it or sent it back. "
                "No worker is held meanwhile."
            ),
        }

    def __init__(self, *args: Any, crew: Crew, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        task = self.instance
        task.crew = crew
        places = Q(memberships__crew=crew) | Q(pk=crew.manager_agent_id)
        self.fields["agent"].queryset = Agent.objects.filter(places).distinct()  # type: ignore[attr-defined]
        led = crew.process == Crew.Process.HIERARCHICAL
        self.fields["agent"].empty_label = _("The manager decides") if led else _("Choose an agent")  # type: ignore[attr-defined]
        self.fields["context"].queryset = crew.tasks.exclude(pk=task.pk)  # type: ignore[attr-defined]
        self.fields["tools"].queryset = Tool.objects.filter(enabled=True)  # type: ignore[attr-defined]
        self.fields["tools"].label_from_instance = tool_label  # type: ignore[attr-defined]
        names = ", ".join(f"{{{name}}}" for name in crew.inputs.values_list("field_name", flat=True))
        self.fields["description"].help_text = _("Inputs of the crew can stand in it: %(names)s") % {
            "names": names or "–"
        }
        if not self.fields["context"].queryset.exists():  # type: ignore[attr-defined]
            del self.fields["context"]
        if crew.process != Crew.Process.SEQUENTIAL:
            del self.fields["async_execution"]

    def save_task(self) -> Task | None:
        """Save the task; None (and errors on the form) when the crew as a whole forbids it."""
        task = self.save(commit=False)
        if task._state.adding:
            last = task.crew.tasks.aggregate(last=Max("execution_order"))["last"] or 0
            task.execution_order = last + 1
        data = self.cleaned_data
        try:
            return actions.save_task(task, context=data.get("context"), tools=data.get("tools"))
        except ValidationError as error:
            add_errors(self, error)
            return None


class InputForm(Styled, forms.ModelForm):
    """A field of the crew's run form."""

    choices = forms.CharField(
        label=_("Choices"), required=False, help_text=_("One a line."), widget=forms.Textarea(attrs={"data-rows": 3})
    )

    class Meta:
        model = CrewInput
        fields = ["field_label", "field_name", "field_type", "default", "is_required"]
        widgets = {"default": forms.Textarea(attrs={"data-rows": 1})}
        help_texts = {"field_name": _("Texts write it in braces: {topic}")}

    def __init__(self, *args: Any, crew: Crew, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.instance.crew = crew
        self.fields["choices"].initial = "\n".join(map(str, self.instance.options or []))

    def clean(self) -> dict[str, Any]:
        super().clean()
        lines = [line.strip() for line in self.cleaned_data.get("choices", "").splitlines()]
        is_choice = self.cleaned_data.get("field_type") == CrewInput.Type.SELECT
        self.instance.options = [line for line in lines if line] if is_choice else []
        return self.cleaned_data

    def _update_errors(self, errors: ValidationError) -> None:
        # The model speaks of `options`; the form shows them as lines.
        if hasattr(errors, "error_dict") and "options" in errors.error_dict:
            errors.error_dict["choices"] = errors.error_dict.pop("options")
        super()._update_errors(errors)  # type: ignore[misc]

    def save_input(self) -> CrewInput:
        definition = self.save(commit=False)
        if definition._state.adding:
            last = definition.crew.inputs.aggregate(last=Max("display_order"))["last"] or 0
            definition.display_order = last + 1
        definition.save()
        return definition


class PrivateNetwork(forms.ModelForm):
    """Base of forms of a provider: leave to go to private networks is for the address for which it was ticked.

    The form says for which (`private_for`). Where that is another than the one that is sent, the tick is
    taken back and asked for again.
    """

    private_for = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["private_for"] = "" if self.instance._state.adding else self.instance.origin

    def clean(self) -> dict[str, Any]:
        super().clean()
        self.instance.private_given_for = self.cleaned_data.get("private_for", "")
        return self.cleaned_data

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if not self.instance.private_was_dropped:
            return
        shown = {name: value for name, value in self.data.items() if name != self.add_prefix("allow_private")}
        self.data = {**shown, self.add_prefix("private_for"): self.instance.origin}
        message = _("The address has changed. Tick this again if the new one is in a private network too.")
        self.add_error("allow_private", ValidationError(message, code="address_changed"))


class ProviderForm(Styled, PrivateNetwork):
    """A provider of models. The key is only ever written: an empty field keeps the one that is stored."""

    api_key = forms.CharField(
        label=_("API key"), required=False, strip=True, widget=forms.PasswordInput(attrs={"autocomplete": "off"})
    )
    forget_key = forms.BooleanField(label=_("Forget the stored key"), required=False)

    class Meta:
        model = LLMProvider
        fields = ["name", "kind", "api_base", "allow_private", "needs_key", "enabled"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kinds = LLMProvider.Kind
        if self.instance.kind == kinds.EMBEDDED:
            for name in ("kind", "api_base", "allow_private", "private_for", "needs_key", "api_key", "forget_key"):
                del self.fields[name]
            return
        self.fields["kind"].choices = [  # type: ignore[attr-defined]
            (kind.value, kind.label) for kind in (kinds.OPENAI_COMPATIBLE, kinds.LITELLM)
        ]
        if self.instance.has_key:
            self.fields["api_key"].help_text = _("A key is stored, encrypted. Leave this empty to keep it.")
        else:
            self.fields["api_key"].help_text = _("It is stored encrypted, and never shown again.")
            del self.fields["forget_key"]

    def clean(self) -> dict[str, Any]:
        super().clean()
        if self.cleaned_data.get("forget_key"):
            self.instance.api_key = ""
        if key := self.cleaned_data.get("api_key"):
            self.instance.api_key = key
        return self.cleaned_data


def tool_label(tool: Tool) -> str:
    return f"{tool.name} – {tool.description}" if tool.description else tool.name


def members_of(crew: Crew) -> list[Agent]:
    """The crew's agents in their order."""
    return [member.agent for member in crew.members.select_related("agent__access")]


class ModelForm(Styled, forms.ModelForm):
    """An entry of the catalog. Routes and providers of models are made in Django admin or through the API."""

    fallbacks = forms.ModelMultipleChoiceField(
        label=_("Fallbacks"), queryset=LLMModel.objects.none(), required=False, widget=forms.CheckboxSelectMultiple,
        help_text=_("Tried in this order when the model cannot answer."),
    )  # fmt: skip

    class Meta:
        model = LLMModel
        fields = [
            "name", "description", "context_window", "max_concurrency", "price_in", "price_out", "enabled",
        ]  # fmt: skip
        widgets = {"description": forms.Textarea(attrs={"data-rows": 2})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["fallbacks"]
        field.queryset = LLMModel.objects.exclude(pk=self.instance.pk)  # type: ignore[attr-defined]
        field.initial = list(self.instance.fallback_rows.values_list("fallback", flat=True))

    def save_model(self) -> LLMModel | None:
        """Save it with its fallbacks; None (and errors on the form) when the catalog forbids it."""
        try:
            return save_model(self.save(commit=False), fallbacks=self.cleaned_data["fallbacks"])
        except ValidationError as error:
            add_errors(self, error)
            return None
