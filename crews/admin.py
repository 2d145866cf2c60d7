"""Definitions in Django admin: the same checks as everywhere (`Model.clean`, `crews.validation`, `crews.actions`)."""

from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, StackedInline, TabularInline
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminSelectWidget

from crews import actions, catalog_actions, extensions
from crews.forms import PrivateNetwork
from crews.models import Agent, Crew, CrewInput, CrewMember, LLMFallback, LLMModel, LLMProvider, Task, Tool
from crews.validation import context_errors, problems_of
from portal.accounts import sharing
from portal.accounts.models import AccessList, Role, User, Visibility
from portal.accounts.permissions import person
from portal.lib.admin import RefusingAdmin
from portal.lib.problems import Conflict


class GuardedForm(forms.ModelForm):
    """Owner and visibility, which stand in the access list, as fields of the thing itself."""

    owner = forms.ModelChoiceField(User.objects.none(), label=_("owner"), widget=UnfoldAdminSelectWidget)
    visibility = forms.ChoiceField(
        choices=Visibility.choices, label=_("visibility"), initial=Visibility.PRIVATE, widget=UnfoldAdminSelectWidget
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        may_own = Q(is_active=True, role__in=[Role.USER, Role.ADMIN])
        if not self.instance._state.adding:
            may_own |= Q(pk=self.instance.access.owner_id)
        cast(forms.ModelChoiceField, self.fields["owner"]).queryset = User.objects.filter(may_own)
        if not self.instance._state.adding:
            self.fields["owner"].initial = self.instance.access.owner_id
            self.fields["visibility"].initial = self.instance.access.visibility


class GuardedAdmin(ModelAdmin):
    """Base of what has an owner."""

    form = GuardedForm
    exclude = ["access"]
    list_select_related = ["access__owner"]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"owner": request.user.pk, **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        wanted = {"owner": form.cleaned_data["owner"], "visibility": form.cleaned_data["visibility"]}
        if not change:
            obj.access = AccessList.objects.create(**wanted)
        super().save_model(request, obj, form, change)
        if change:
            by = person(request)
            if wanted["owner"] != obj.owner:
                sharing.hand_on(obj, to=wanted["owner"], by=by)
            sharing.set_visibility(obj, wanted["visibility"], by=by)

    @admin.display(description=_("owner"), ordering="access__owner__username")
    def owner(self, thing: Any) -> str:
        return str(thing.access.owner)

    @admin.display(description=_("visibility"), ordering="access__visibility")
    def visibility(self, thing: Any) -> str:
        return str(thing.access.get_visibility_display())


class MemberInline(TabularInline):
    model = CrewMember
    extra = 0
    autocomplete_fields = ["agent"]


class TaskForm(forms.ModelForm):
    """A task; the tasks whose output it takes are of the same crew and close no circle."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "context" in self.fields and self.instance.crew_id:
            others = Task.objects.filter(crew=self.instance.crew_id).exclude(pk=self.instance.pk)
            self.fields["context"].queryset = others  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        crew = cleaned.get("crew") or getattr(self.instance, "crew", None)
        if crew and cleaned.get("context"):
            task = Task(pk=self.instance.pk, crew=crew, name=cleaned.get("name", ""))
            for error in context_errors(task, cleaned["context"]):
                self.add_error("context", ValidationError(error.detail, code=error.code))
        return cleaned


class TaskInline(StackedInline):
    model = Task
    form = TaskForm
    extra = 0
    show_change_link = True
    autocomplete_fields = ["agent"]
    filter_horizontal = ["tools"]


class InputFormSet(forms.BaseInlineFormSet):
    """Inputs of a crew; one that texts still use is not deleted."""

    def clean(self) -> None:
        super().clean()
        for form in self.deleted_forms:
            if form.instance.pk and (users := form.instance.used_in()):
                message = _("{%(name)s} is still used in: %(where)s.")
                named = {"name": form.instance.field_name, "where": ", ".join(users)}
                raise ValidationError(message % named, code="in_use")


class InputInline(StackedInline):
    model = CrewInput
    formset = InputFormSet
    extra = 0


@admin.register(Crew)
class CrewAdmin(GuardedAdmin, RefusingAdmin):
    list_display = ["name", "process", "status", "owner", "visibility", "updated_at"]
    list_filter = ["process", "status", "crew_type", "engine", "access__visibility"]
    search_fields = ["name", "description"]
    autocomplete_fields = ["manager_agent", "manager_llm_model"]
    inlines = [MemberInline, InputInline, TaskInline]

    def get_inlines(self, request: HttpRequest, obj: Any) -> list[Any]:
        # Tasks are checked against the crew's members and inputs, so these come first.
        return self.inlines if obj else [MemberInline, InputInline]

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        for problem in problems_of(form.instance):
            messages.warning(request, problem.detail)

    def why_not_deletable(self, thing: Crew, request: HttpRequest) -> str:
        try:
            extensions.require_deletable(thing)
        except Conflict as conflict:
            return conflict.detail
        return ""

    def remove(self, thing: Crew, request: HttpRequest) -> None:
        actions.delete_crew(crew=thing)


@admin.register(Agent)
class AgentAdmin(GuardedAdmin, RefusingAdmin):
    list_display = ["role", "llm_model", "owner", "visibility", "updated_at"]
    list_filter = ["llm_model", "access__visibility"]
    search_fields = ["role", "goal"]
    autocomplete_fields = ["llm_model"]
    filter_horizontal = ["tools"]

    def remove(self, thing: Agent, request: HttpRequest) -> None:
        actions.delete_agent(agent=thing)


@admin.register(Task)
class TaskAdmin(ModelAdmin):
    form = TaskForm
    list_display = ["name", "crew", "agent", "execution_order"]
    list_select_related = ["crew", "agent"]
    search_fields = ["name", "description", "crew__name"]
    autocomplete_fields = ["crew", "agent"]
    filter_horizontal = ["context", "tools"]


@admin.register(Tool)
class ToolAdmin(ModelAdmin):
    """The tools that come along; they are switched on and off here."""

    list_display = ["name", "kind", "enabled"]
    list_filter = ["kind", "enabled"]
    search_fields = ["name"]
    readonly_fields = ["name", "kind", "config"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ProviderForm(PrivateNetwork):
    """A provider; its key is only ever written, and an empty field keeps the stored one."""

    new_key = forms.CharField(
        label=_("API key"), required=False, widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"})
    )
    forget_key = forms.BooleanField(label=_("Forget the stored key"), required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        stored = _("A key is stored, encrypted. Leave this empty to keep it.")
        self.fields["new_key"].help_text = stored if self.instance.has_key else _("It is stored encrypted.")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("forget_key"):
            self.instance.api_key = ""
        if cleaned.get("new_key"):
            self.instance.api_key = cleaned["new_key"]
        return cleaned


@admin.register(LLMProvider)
class LLMProviderAdmin(RefusingAdmin):
    form = ProviderForm
    exclude = ["api_key"]
    list_display = ["name", "kind", "api_base", "allow_private", "key_is_stored", "enabled"]
    list_filter = ["kind", "enabled", "allow_private"]
    search_fields = ["name", "api_base"]
    actions = ["test"]

    @admin.display(description=_("key"), boolean=True)
    def key_is_stored(self, provider: LLMProvider) -> bool:
        return provider.has_key

    def save_model(self, request: HttpRequest, obj: LLMProvider, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if obj.key_was_dropped:
            messages.warning(request, _("The stored key was dropped, because it was given for another host."))

    def remove(self, thing: LLMProvider, request: HttpRequest) -> None:
        catalog_actions.delete_provider(provider=thing)

    @admin.action(description=_("Test the selected providers"))
    def test(self, request: HttpRequest, queryset: QuerySet[LLMProvider]) -> None:
        for provider in queryset:
            report = catalog_actions.test_provider(provider, by=person(request))
            tell = messages.success if report.ok else messages.warning
            tell(request, f"{provider}: {report.detail}")


class FallbackInline(TabularInline):
    model = LLMFallback
    fk_name = "model"
    extra = 0
    autocomplete_fields = ["fallback"]


@admin.register(LLMModel)
class LLMModelAdmin(RefusingAdmin):
    list_display = ["id", "name", "provider", "route", "health", "enabled", "can_run"]
    list_filter = ["provider", "enabled", "health", "is_local"]
    list_select_related = ["provider"]
    search_fields = ["id", "name", "route"]
    readonly_fields = ["health", "health_detail", "health_checked_at"]
    inlines = [FallbackInline]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        # Another id would make another row, and leave this one behind.
        return [*self.readonly_fields, *(["id"] if obj else [])]

    @admin.display(description=_("can be used"), boolean=True)
    def can_run(self, model: LLMModel) -> bool:
        return model.is_runnable

    def remove(self, thing: LLMModel, request: HttpRequest) -> None:
        catalog_actions.delete_model(model=thing)
