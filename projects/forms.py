"""Forms of projects: a new one, its settings and models, gates, decisions, deliverables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from django import forms
from django.core.files.uploadedfile import UploadedFile
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _

from crews.forms import model_choices
from crews.inputs import InputFile
from crews.models import LLMModel
from portal.accounts.models import User, Visibility
from portal.lib.forms import Styled, style
from projects.deliverables import versions
from projects.models import Deliverable, Project, Stage

TEXTS = {Deliverable.FileType.MARKDOWN, Deliverable.FileType.JSON}
MOMENT = "%Y-%m-%dT%H:%M"


class Files(forms.FileField):
    """Any number of files."""

    class Input(forms.ClearableFileInput):
        allow_multiple_selected = True

    widget = Input

    def clean(self, data: Any, initial: Any = None) -> list[UploadedFile]:
        given = data if isinstance(data, list | tuple) else [data]
        kept = [file for file in given if file]
        if not kept and self.required:
            super().clean(None, initial)
        return [super(Files, self).clean(file, initial) for file in kept]


def input_files(files: Iterable[UploadedFile]) -> list[InputFile]:
    """Files that were sent, as actions take them."""
    return [InputFile(name=file.name or "", content=file.read()) for file in files]


class ProjectForm(Styled, forms.ModelForm):
    """What a project is about, and how it is worked on."""

    class Meta:
        model = Project
        fields = [
            "name", "description", "requirement", "target_audience", "project_type", "language",
            "deadline", "budget_usd", "estimated_hours", "auto_advance",
        ]  # fmt: skip
        widgets = {
            "description": forms.Textarea(attrs={"data-rows": 2}),
            "requirement": forms.Textarea(attrs={"data-rows": 10}),
            "deadline": forms.DateTimeInput(attrs={"type": "datetime-local"}, format=MOMENT),
            "budget_usd": forms.NumberInput(attrs={"step": "any", "inputmode": "decimal", "min": "0"}),
            "estimated_hours": forms.NumberInput(attrs={"step": "any", "inputmode": "decimal", "min": "0"}),
        }
        help_texts = {
            "requirement": _("What should come out, for whom, and what matters. Every role reads it."),
            "budget_usd": _("Empty: no limit. A run that meets it waits. Local models never count as money."),
            "language": _("What the deliverables are written in."),
        }

    options = ("deadline", "budget_usd", "estimated_hours", "auto_advance")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["deadline"].input_formats = [MOMENT, f"{MOMENT}:%S"]  # type: ignore[attr-defined]
        usd = self.instance.budget_usd
        if usd is not None:
            self.initial["budget_usd"] = f"{usd.normalize():f}"

    def values(self) -> dict[str, Any]:
        """The project's fields as they were given."""
        return {name: self.cleaned_data[name] for name in self.Meta.fields}


class MappingFields(forms.Form):
    """For each role its model, and the parameters of calls that people change most."""

    own_parameters = ("temperature", "max_tokens")

    def add_roles(self, roles: Sequence[str], now: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        """Add the fields of `roles`; `now` says for each the model and parameters that it has."""
        self.roles = {str(number): role for number, role in enumerate(roles, start=1)}
        self.configs = {key: dict(now.get(role, ("", {}))[1]) for key, role in self.roles.items()}
        choices = model_choices()
        for key, role in self.roles.items():
            field = forms.ModelChoiceField(
                label=_("Model"), queryset=LLMModel.objects.all(), initial=now.get(role, ("", {}))[0], empty_label=None
            )
            field.choices = choices
            self.fields[f"model_{key}"] = style(field)
            self.fields[f"temperature_{key}"] = style(
                forms.FloatField(
                    label=_("Temperature"),
                    required=False,
                    min_value=0,
                    max_value=2,
                    initial=self.configs[key].get("temperature"),
                    widget=forms.NumberInput(attrs={"step": "0.05"}),
                )
            )
            self.fields[f"max_tokens_{key}"] = style(
                forms.IntegerField(
                    label=_("Answer at most, tokens"),
                    required=False,
                    min_value=1,
                    max_value=1_000_000,
                    initial=self.configs[key].get("max_tokens"),
                )
            )

    @property
    def rows(self) -> list[tuple[str, forms.BoundField, forms.BoundField, forms.BoundField]]:
        """Role, model, temperature, longest answer."""
        return [
            (role, self[f"model_{key}"], self[f"temperature_{key}"], self[f"max_tokens_{key}"])
            for key, role in self.roles.items()
        ]

    def mappings(self) -> list[dict[str, Any]]:
        """What `actions.set_mappings` takes; parameters without a field stay as they are."""
        found = []
        for key, role in self.roles.items():
            config = {name: value for name, value in self.configs[key].items() if name not in self.own_parameters}
            for name in self.own_parameters:
                if (value := self.cleaned_data.get(f"{name}_{key}")) is not None:
                    config[name] = value
            found.append({"role_name": role, "llm_model": self.cleaned_data[f"model_{key}"], "llm_config": config})
        return found


class NewProjectForm(ProjectForm, MappingFields):
    """The wizard's one form: what, files, who works with which model, and options."""

    attachments = Files(
        label=_("Files"), required=False, help_text=_("Text files, 1 MB each at most; every role reads them.")
    )

    def __init__(self, *args: Any, roles: Sequence[str], recommended: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_roles(roles, {role: (model, {}) for role, model in recommended.items()})

    def input_files(self) -> list[InputFile]:
        return input_files(self.cleaned_data["attachments"])

    @property
    def has_faulty_option(self) -> bool:
        """Whether a field is wrong that is folded away at first."""
        return any(name in self.errors for name in self.options)


class MappingForm(Styled, MappingFields):
    """The models of a project's roles, changed at any time."""

    def __init__(
        self, *args: Any, roles: Sequence[str], now: Mapping[str, tuple[str, Mapping[str, Any]]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.add_roles(roles, now)


class AttachForm(Styled, forms.Form):
    """More files for the requirement."""

    attachments = Files(label=_("Files"), help_text=_("Text files, 1 MB each at most; every role reads them."))

    def input_files(self) -> list[InputFile]:
        return input_files(self.cleaned_data["attachments"])


class StageForm(Styled, forms.ModelForm):
    """A stage's gate, and what its role is asked beside.

    `people` may stand in for the owner; `lookers` are those of them who only see the project, and may be named.
    """

    class Meta:
        model = Stage
        fields = [
            "requires_approval", "quorum", "excludes_author", "review_hours", "escalate_to", "instructions",
            "estimated_hours",
        ]  # fmt: skip
        widgets = {
            "instructions": forms.Textarea(attrs={"data-rows": 3}),
            "estimated_hours": forms.NumberInput(attrs={"step": "any", "inputmode": "decimal", "min": "0"}),
        }

    approvers = forms.ModelMultipleChoiceField(
        label=_("Who may decide beside the editors"), queryset=User.objects.none(), required=False,
        widget=forms.CheckboxSelectMultiple, help_text=_("Members who otherwise may only look."),
    )  # fmt: skip

    def __init__(self, *args: Any, people: Iterable[User], lookers: Iterable[User], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        lookers = list(lookers)
        choices = [("", _("The project’s owner")), *((user.pk, str(user)) for user in people)]
        self.fields["escalate_to"].choices = choices  # type: ignore[attr-defined]
        approvers = self.fields["approvers"]
        approvers.queryset = User.objects.filter(pk__in=[user.pk for user in lookers])  # type: ignore[attr-defined]
        named = self.instance.approvers.filter(delegated_by=None, is_escalation=False)
        approvers.initial = list(named.values_list("user", flat=True))
        if not lookers:
            del self.fields["approvers"]

    def options(self) -> dict[str, Any]:
        """What `actions.set_stage` takes."""
        return {name: value for name, value in self.cleaned_data.items() if name in self.fields}


class CompleteForm(Styled, forms.Form):
    """A stage that is closed by hand."""

    actual_hours = forms.DecimalField(
        label=_("Hours it took"), required=False, min_value=0, max_digits=8, decimal_places=2,
        help_text=_("Empty: as measured."),
        widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
    )  # fmt: skip
    notes = forms.CharField(label=_("Notes"), required=False, widget=forms.Textarea(attrs={"data-rows": 2}))


class DelegateForm(Styled, forms.Form):
    """Who may decide too."""

    to = forms.ModelChoiceField(label=_("Who may decide too"), queryset=User.objects.none(), empty_label=None)

    def __init__(self, *args: Any, people: Iterable[User], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.people = list(people)
        keys = [user.pk for user in self.people]
        self.fields["to"].queryset = User.objects.filter(pk__in=keys)  # type: ignore[attr-defined]
        self.fields["to"].choices = [(user.pk, str(user)) for user in self.people]  # type: ignore[attr-defined]


class RollBackForm(Styled, forms.Form):
    """Why the work goes back to a stage."""

    reason = forms.CharField(
        label=_("Why?"), required=False, max_length=2000, widget=forms.Textarea(attrs={"data-rows": 3}),
        help_text=_("It stands in the history of the project."),
    )  # fmt: skip


class ReviewForm(Styled, forms.Form):
    """A decision about the work of a stage. What a decision needs beside it is judged by `actions.review`.

    `about` is what is decided about; `seen` holds the SHA-256 of each as the person saw it. `may_approve` and
    `may_edit` say what the stage's gate lets this person do.
    """

    decision = forms.ChoiceField(
        label=_("Your decision"), widget=forms.RadioSelect,
        choices=[("approve", _("Approve")), ("edit", _("Edit, then approve")), ("reject", _("Send back"))],
    )  # fmt: skip
    content = forms.CharField(
        label=_("The text that you approve"), required=False, strip=False,
        # What was typed over a version belongs to that one, whatever the page shows since.
        widget=forms.Textarea(attrs={"data-rows": 14, "data-goes-with": "seen"}),
    )  # fmt: skip
    seen = forms.CharField(required=False, widget=forms.HiddenInput)
    comments = forms.CharField(
        label=_("Comments"), required=False, max_length=10_000, widget=forms.Textarea(attrs={"data-rows": 3}),
        help_text=_("When you send it back, the role reads this and does the work again."),
    )  # fmt: skip

    def __init__(
        self,
        *args: Any,
        about: Sequence[Deliverable],
        key: str,
        may_approve: bool = True,
        may_edit: bool = True,
        **kwargs: Any,
    ) -> None:
        only = about[0] if len(about) == 1 else None
        # Code is edited on a page of its own, file by file.
        self.may_edit = may_edit and only is not None and only.file_type in TEXTS
        self.now = " ".join(deliverable.sha256 for deliverable in about)
        kwargs.setdefault(
            "initial",
            {
                "decision": "approve" if may_approve else "reject",
                "content": only.content if only is not None else "",
                "seen": self.now,
            },
        )
        # Several gates may stand on one page.
        kwargs.setdefault("auto_id", f"{key}_%s")
        super().__init__(*args, **kwargs)
        if not self.may_edit:
            del self.fields["content"]
        decision: Any = self.fields["decision"]
        offered = {"approve": may_approve, "edit": self.may_edit, "reject": True}
        decision.choices = [(value, label) for value, label in decision.choices if offered[value]]

    def clean_content(self) -> str:
        """Browsers send every end of a line as two characters."""
        return str(self.cleaned_data["content"]).replace("\r\n", "\n")

    @property
    def notes(self) -> dict[str, tuple[str, Any]]:
        """For each decision its icon and what it leads to."""
        return {
            "approve": ("check", _("The next stages build on it as it is.")),
            "edit": ("pencil", _("You change the text; the next stages build on yours.")),
            "reject": ("undo-2", _("The role does it again, with what you say.")),
        }

    def show(self, problem: Any) -> None:
        """Put what is wrong beside the fields it is about, the rest above the form."""
        for error in problem.errors:
            name = error.field.removeprefix("review_")
            self.add_error(name if name in self.fields else None, error.detail)
        if not problem.errors:
            self.add_error(None, problem.sentence)
        if problem.code == "content_changed":  # what stands beside the form now is what the next decision is about
            given = cast(QueryDict, self.data).copy()
            given["seen"] = self.now
            self.data = given

    @property
    def written(self) -> list[tuple[Any, str]]:
        """What the person had typed: label and text of each field, for when the decision cannot be taken any more."""
        typed = [(self.fields[name].label, self.data.get(name, "").strip()) for name in ("content", "comments")
                 if name in self.fields and (name != "content" or self.data.get("decision") == "edit")]  # fmt: skip
        return [(label, text) for label, text in typed if text]


class EditDeliverableForm(Styled, forms.Form):
    """A new version, written by hand. `if_match` is the version that the person had before them."""

    if_match = forms.CharField(widget=forms.HiddenInput)
    title = forms.CharField(label=_("Title"), max_length=200)
    content = forms.CharField(
        label=_("Content"), required=False, strip=False, widget=forms.Textarea(attrs={"data-rows": 24}),
        help_text=_("Markdown."),
    )  # fmt: skip
    tags = forms.CharField(label=_("Tags"), required=False, max_length=500, help_text=_("Separated by commas."))

    def __init__(self, *args: Any, deliverable: Deliverable, files: Mapping[str, str], **kwargs: Any) -> None:
        kwargs.setdefault(
            "initial",
            {
                "if_match": versions.etag(deliverable),
                "title": deliverable.title,
                "content": deliverable.content,
                "tags": ", ".join(deliverable.tags),
            },
        )
        super().__init__(*args, **kwargs)
        self.paths = {f"file_{number}": path for number, path in enumerate(files)}
        for name, path in self.paths.items():
            widget = forms.Textarea(attrs={"data-rows": 12, "class": "is-code", "spellcheck": "false"})
            field = forms.CharField(label=path, initial=files[path], required=False, strip=False, widget=widget)
            self.fields[name] = style(field)

    @property
    def file_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.paths]

    def given_files(self) -> list[dict[str, str]] | None:
        """The files as they were sent; None when there are none."""
        if not self.paths:
            return None
        return [
            {"path": path, "content": self.cleaned_data[name].replace("\r\n", "\n")}
            for name, path in self.paths.items()
        ]

    def tag_list(self) -> list[str]:
        return [tag.strip() for tag in self.cleaned_data["tags"].split(",") if tag.strip()]


class CommentForm(Styled, forms.Form):
    """What a person says about a version."""

    text = forms.CharField(label=_("Comment"), max_length=10_000, widget=forms.Textarea(attrs={"data-rows": 2}))


class SaveTemplateForm(Styled, forms.Form):
    """A template made of a project."""

    name = forms.CharField(label=_("Name"), max_length=200)
    description = forms.CharField(label=_("Description"), required=False, widget=forms.Textarea(attrs={"data-rows": 2}))
    is_shared = forms.BooleanField(
        label=_("Shared"), required=False, help_text=_("Everybody may use it. Only you change it.")
    )

    def values(self) -> dict[str, str]:
        """What `actions.save_as_template` takes."""
        given = self.cleaned_data
        visibility = Visibility.SHARED if given["is_shared"] else Visibility.PRIVATE
        return {"name": given["name"], "description": given["description"], "visibility": visibility}
