"""Forms of what people and scripts show at the door: API keys, identities elsewhere."""

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from portal.accounts import keys
from portal.accounts.models import ApiKey, Identity, Scope, User
from portal.accounts.oidc import linking
from portal.lib.forms import Styled

# What each scope lets a script do, for who gives it.
SCOPE_NOTES = {
    Scope.READ: (pgettext_lazy("scope", "Read"), _("See what you see: crews, runs, results.")),
    Scope.RUN: (pgettext_lazy("scope", "Run"), _("Start, stop and fork runs, answer questions, call models.")),
    Scope.WRITE: (pgettext_lazy("scope", "Write"), _("Create, change and delete crews, agents and the like.")),
    Scope.ADMIN: (
        pgettext_lazy("scope", "Admin"),
        _("Everything that you may do as an admin. For few scripts, and not for long."),
    ),
}
LIFETIMES = [("7", _("7 days")), ("30", _("30 days")), ("90", _("90 days")), ("365", _("1 year")), ("", _("Never"))]


class KeyForm(Styled, forms.Form):
    """Name, scopes, lifetime and rate of a new key of `owner`; offered are the scopes that its role can use."""

    name = forms.CharField(
        label=_("Name"), max_length=100, help_text=_("What it is for, so that you know it again later.")
    )
    scopes = forms.MultipleChoiceField(
        label=_("What it may do"), widget=forms.CheckboxSelectMultiple, help_text=_("Each also lets read.")
    )
    lifetime = forms.ChoiceField(label=_("Expires"), choices=LIFETIMES, initial="90", required=False)
    requests_per_minute = forms.IntegerField(
        label=_("Requests a minute, at most"), min_value=1, max_value=keys.MOST_A_MINUTE, initial=600
    )

    def __init__(self, *args: Any, owner: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.owner = owner
        offered = [scope for scope in Scope if owner.has_role(scope.cap)]
        scopes = self.fields["scopes"]
        assert isinstance(scopes, forms.MultipleChoiceField)  # noqa: S101 - tells the type checker
        scopes.choices = [(scope.value, SCOPE_NOTES[scope][0]) for scope in offered]
        scopes.initial = [Scope.READ]
        self.fields["name"].widget.attrs["autocomplete"] = "off"

    @property
    def scope_options(self) -> list[tuple[Any, Any]]:
        """Each choice's bound tick box, with what the scope lets do."""
        return [(option, SCOPE_NOTES[Scope(option.data["value"])][1]) for option in self["scopes"]]

    def save(self, *, by: User) -> tuple[ApiKey, str]:
        """The key and its text, which can be shown this once only. Raises `InvalidValues`."""
        given = self.cleaned_data
        days = given["lifetime"]
        return keys.create(
            self.owner,
            name=given["name"],
            scopes=[Scope(value) for value in given["scopes"]],
            by=by,
            expires_at=timezone.now() + timedelta(days=int(days)) if days else None,
            requests_per_minute=given["requests_per_minute"],
        )


class IdentityForm(Styled, forms.Form):
    """Who somebody is at the identity provider, as an admin says it."""

    subject = forms.CharField(
        label=_("Subject"),
        max_length=255,
        help_text=_("The provider's own id of the person (“sub”), not the name or the mail address."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    issuer = forms.CharField(
        label=_("Issuer"), max_length=500, widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"})
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["issuer"].initial = settings.OIDC_ISSUER

    def save(self, user: User, *, by: User) -> Identity:
        """Raises `Problem`, `PermissionDenied`."""
        given = self.cleaned_data
        return linking.link(user, subject=given["subject"], issuer=given["issuer"], by=by)
