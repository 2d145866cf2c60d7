"""People, keys and the audit log in Django admin. What a person may do is their role; Django's own groups and
flags play no part. All changes of people go through `portal.accounts.people`, as everywhere.

Sessions are not shown here: their rows are named by what opens them.
"""

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext_lazy as _
from unfold.forms import UserCreationForm

from portal.accounts import people
from portal.accounts.models import ApiKey, AuditEntry, Identity, User
from portal.accounts.permissions import person
from portal.lib.admin import ReadOnlyAdmin, ReadOnlyInline, RefusingAdmin
from portal.lib.forms import errors_on

admin.site.unregister(Group)


class _Trial(forms.BaseModelForm):
    """Base of forms whose action may refuse: it is tried while the form is checked, and rolled back."""

    by: User

    def act(self) -> User:
        """Do what the form asks for; the user."""
        raise NotImplementedError

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        with errors_on(self), transaction.atomic():
            try:
                self.act()
            except PermissionDenied as exc:
                self.add_error(None, str(exc))
            transaction.set_rollback(True)


class NewUserForm(_Trial, UserCreationForm):
    """A person with a local account, or a service account."""

    def act(self) -> User:
        given = self.cleaned_data
        facts = {"username": given["username"], "role": given["role"], "by": self.by}
        if given["is_service"]:
            return people.create_service_account(**facts)
        return people.create_person(password=given.get("password1") or None, **facts)


class ChangedUserForm(_Trial, forms.ModelForm):
    """Who somebody is, their role, and whether they may enter."""

    def act(self) -> User:
        given = self.cleaned_data
        user = User.objects.get(pk=self.instance.pk)
        if given["role"] != user.role:
            people.change_role(user, given["role"], by=self.by)
        if given["is_active"] != user.is_active:
            (people.reactivate if given["is_active"] else people.deactivate)(user, by=self.by)
        return people.change_facts(user, by=self.by, **{name: given[name] for name in people.FACTS})


class IdentityInline(ReadOnlyInline):
    """Who they are elsewhere."""

    model = Identity
    fk_name = "user"
    fields = ["issuer", "subject", "roles", "groups", "last_sign_in_at"]


class KeyInline(ReadOnlyInline):
    """Their keys; made and revoked on the portal's pages."""

    model = ApiKey
    fk_name = "user"
    fields = ["name", "prefix", "scopes", "expires_at", "revoked_at", "last_used_at"]


@admin.register(User)
class UserAdmin(RefusingAdmin, DjangoUserAdmin):
    form = ChangedUserForm
    add_form = NewUserForm
    inlines = [IdentityInline, KeyInline]
    list_display = ["username", "email", "role", "is_active", "is_service", "last_login"]
    list_filter = ["role", "is_active", "is_service"]
    search_fields = ["username", "first_name", "last_name", "email"]
    filter_horizontal = []
    readonly_fields = ["username", "is_service", "last_login", "date_joined"]
    fieldsets = [
        (None, {"fields": ["username", "is_service"]}),
        (_("Person"), {"fields": ["first_name", "last_name", "email", "language"]}),
        (_("May do"), {"fields": ["role", "is_active"]}),
        (_("Seen"), {"fields": ["last_login", "date_joined"]}),
    ]
    add_fieldsets = [
        (None, {"classes": ["wide"], "fields": ["username", "role", "is_service", "password1", "password2"]})
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_readonly_fields(request, obj) if obj else []

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj else []

    def get_form(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        form: Any = super().get_form(request, obj, **kwargs)
        form.by = person(request)
        return form

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        done = cast(_Trial, form).act()
        obj.pk, obj._state.adding = done.pk, False
        obj.refresh_from_db()

    def remove(self, thing: User, request: HttpRequest) -> None:
        people.delete(thing, by=person(request))

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        """Passwords are set on the portal's own page, by link."""
        if (who := self.get_object(request, unquote(id))) is None:
            raise Http404
        return redirect("accounts:user", pk=who.pk)


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    list_display = ["name", "prefix", "user", "scopes", "expires_at", "revoked_at", "last_used_at"]
    list_filter = ["scopes"]
    list_select_related = ["user"]
    search_fields = ["name", "prefix", "user__username"]
    exclude = ["digest"]
    ordering = ["-created_at"]


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = ["number", "at", "action", "outcome", "actor_name", "target_name", "address"]
    list_filter = ["outcome", "target_kind"]
    search_fields = ["=action", "=actor_name", "=target_id"]
    ordering = ["-id"]
