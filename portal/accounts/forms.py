"""Forms of people and access. Each calls the action of its name in `save`; what that refuses, the form shows.

Views are left with: `if form.is_valid(): with errors_on(form): form.save(…); return redirect(…)`.
"""

from typing import Any, cast

from django import forms
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db.models import Q
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from portal.accounts import invitations, local, passwords, people, sharing
from portal.accounts.models import AccessGrant, Guarded, Invitation, Role, User
from portal.lib.addresses import address_of
from portal.lib.forms import Styled
from portal.lib.problems import Problem

# --- Coming in ---------------------------------------------------------------------------------------


class SignInForm(Styled, AuthenticationForm):
    """Name and password of a local account, judged by `local.check_password`; then `local.begin(request, user)`."""

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        if given.get("username") and given.get("password"):
            request = cast(HttpRequest, self.request)
            try:
                self.user_cache = local.check_password(request, username=given["username"], password=given["password"])
            except Problem as exc:
                raise ValidationError(exc.sentence, code=exc.code) from exc
        return given


class CodeForm(Styled, forms.Form):
    """A code of the app, or a recovery code: at sign-in, when the factor is set up, and when it is taken away."""

    code = forms.CharField(
        label=_("Code"),
        max_length=40,
        widget=forms.TextInput(
            attrs={"autocomplete": "one-time-code", "autocapitalize": "none", "spellcheck": "false"}
        ),
    )


class TwicePassword(Styled, forms.Form):
    """A new password, typed twice. Django's validators are asked by the action."""

    password = forms.CharField(
        label=_("Password"), strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "new-password"})
    )
    again = forms.CharField(
        label=_("Once more"), strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "new-password"})
    )

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        if "password" in given and "again" in given and given["password"] != given["again"]:
            self.add_error("again", ValidationError(_("The two passwords differ."), code="password_mismatch"))
        return given


class SignUpForm(TwicePassword):
    """A new account of a stranger, where `SIGN_UP` is on."""

    username = forms.CharField(
        label=_("Name"), max_length=150, widget=forms.TextInput(attrs={"autocomplete": "username"})
    )
    email = forms.EmailField(
        label=_("Mail address"), required=False, help_text=_("To set a new password when you forget yours.")
    )
    field_order = ["username", "email", "password", "again"]

    def save(self, request: HttpRequest) -> User:
        """The account; the caller signs it in with `local.begin`. Raises `ValidationError`, `Problem`."""
        given = self.cleaned_data
        return people.sign_up(
            username=given["username"],
            email=given["email"],
            password=given["password"],
            address=address_of(request.META),
        )


class ResetForm(Styled, forms.Form):
    """Whom to mail a link; the answer is the same whether anybody has this address."""

    email = forms.EmailField(label=_("Mail address"), widget=forms.EmailInput(attrs={"autocomplete": "email"}))

    def save(self, request: HttpRequest) -> None:
        passwords.request_reset(self.cleaned_data["email"], address=address_of(request.META))


class NewPasswordForm(TwicePassword):
    """A password set by a link, or by an admin."""

    def save_by_link(self, uid: str, token: str) -> User:
        """Raises `passwords.LinkDead`, `ValidationError`."""
        return passwords.reset(uid, token, self.cleaned_data["password"])

    def save_for(self, user: User, *, by: User) -> None:
        passwords.set_for(user, self.cleaned_data["password"], by=by)


# --- Oneself -----------------------------------------------------------------------------------------


class ProfileForm(Styled, forms.ModelForm):
    """What a person may say about themselves."""

    class Meta:
        model = User
        fields = ["first_name", "last_name", "email", "language"]

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        language = self.fields["language"]
        assert isinstance(language, forms.TypedChoiceField)  # noqa: S101 - tells the type checker
        language.choices = [("", _("As the browser asks")), ("en", "English"), ("ko", "한국어")]
        language.help_text = ""

    def save(self, commit: bool = True, *, by: User | None = None) -> User:
        """`by`: the admin who says it about somebody; None: the person themselves."""
        user = cast(User, self.instance)
        return people.change_facts(user, by=by or user, **self.cleaned_data)


class PasswordForm(Styled, PasswordChangeForm):
    """A new password, for who knows the old one."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        # The page has other forms: nothing here asks for the focus.
        self.fields["old_password"].widget.attrs.pop("autofocus", None)

    def save_in(self, request: HttpRequest) -> None:
        """Set it; the session of `request` goes on, the person's others end."""
        passwords.change(request, self.user, self.cleaned_data["new_password1"])


# --- Access ------------------------------------------------------------------------------------------


def _person_field(**kwargs: Any) -> forms.CharField:
    return forms.CharField(
        max_length=254,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
        **kwargs,
    )


def _person_named(name: str) -> User:
    """Raises `ValidationError` when there is no active person of that name."""
    found = User.objects.filter(Q(username=name) | Q(username__iexact=name), is_active=True)
    user = found.filter(username=name).first() or found.first()
    if user is None:
        raise ValidationError(_("There is nobody of that name here."), code="unknown")
    return user


class WhoForm(Styled, forms.Form):
    """Somebody who may not be here yet, by name or mail address."""

    who = _person_field(label=_("Name or mail address"))

    def clean_who(self) -> User | str:
        """A mail address as it stands, else the person of that name.

        What can be an address is one, even where somebody is called so: a name proves nothing of whose mail it is.
        """
        who: str = self.cleaned_data["who"]
        if "@" not in who:
            return _person_named(who)
        try:
            validate_email(who)
        except ValidationError:
            if not User.objects.filter(username__iexact=who, is_active=True).exists():
                raise
            return _person_named(who)
        return who

    @property
    def whom(self) -> dict[str, Any]:
        """A valid form's answer: `user`, or `email`."""
        who = self.cleaned_data["who"]
        return {"user": who} if isinstance(who, User) else {"email": who}


class InviteForm(WhoForm):
    """Whom to let in, and as what."""

    level = forms.ChoiceField(label=_("As"), choices=AccessGrant.Level.choices, initial=AccessGrant.Level.VIEWER)

    def save(self, thing: Guarded, *, by: User) -> tuple[Invitation, str]:
        """The invitation, and its link when no mail told of it ("" when one did)."""
        invitation, token = invitations.invite(thing, level=self.cleaned_data["level"], by=by, **self.whom)
        return invitation, "" if invitations.tell(invitation, token) else invitations.link_of(token)


class LevelForm(Styled, forms.Form):
    """As what somebody is in."""

    level = forms.ChoiceField(label=_("As"), choices=AccessGrant.Level.choices)

    def save(self, thing: Guarded, user: User, *, by: User) -> AccessGrant:
        return sharing.grant(thing, user, self.cleaned_data["level"], by=by)


class HandOnForm(Styled, forms.Form):
    """To whom a thing shall belong."""

    to = _person_field(label=_("New owner"))
    stay = forms.BooleanField(label=_("The owner until now stays on as an editor"), required=False, initial=True)

    def clean_to(self) -> User:
        return _person_named(self.cleaned_data["to"])

    def save(self, thing: Guarded, *, by: User) -> None:
        given = self.cleaned_data
        sharing.hand_on(thing, to=given["to"], by=by, keep=AccessGrant.Level.EDITOR if given["stay"] else None)


# --- Of admins ---------------------------------------------------------------------------------------


class PersonForm(Styled, forms.Form):
    """A new person with a local account."""

    username = forms.CharField(label=_("Name"), max_length=150, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    role = forms.ChoiceField(label=_("Role"), choices=Role.choices, initial=Role.USER)
    first_name = forms.CharField(label=_("First name"), max_length=150, required=False)
    last_name = forms.CharField(label=_("Last name"), max_length=150, required=False)
    email = forms.EmailField(label=_("Mail address"), required=False)
    password = forms.CharField(
        label=_("Password"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=_("Empty: you get a link with which the person sets one."),
    )

    def save(self, *, by: User) -> tuple[User, str]:
        """The person, and the link to set a password where none was given (else "")."""
        given = {**self.cleaned_data}
        user = people.create_person(by=by, **{**given, "password": given["password"] or None})
        return user, "" if given["password"] else passwords.make_link(user, by=by)


class ServiceAccountForm(Styled, forms.Form):
    """A new account for scripts."""

    username = forms.CharField(label=_("Name"), max_length=150, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    role = forms.ChoiceField(label=_("Role"), choices=Role.choices, initial=Role.USER)

    def save(self, *, by: User) -> User:
        return people.create_service_account(by=by, **self.cleaned_data)


class RoleForm(Styled, forms.Form):
    """Somebody's role."""

    role = forms.ChoiceField(label=_("Role"), choices=Role.choices)

    def save(self, user: User, *, by: User) -> User:
        return people.change_role(user, self.cleaned_data["role"], by=by)


class PeopleFilterForm(Styled, forms.Form):
    """What narrows the list of people."""

    q = forms.CharField(label=_("Search"), required=False, max_length=100)
    role = forms.ChoiceField(label=_("Role"), choices=[("", _("Any role")), *Role.choices], required=False)
    state = forms.ChoiceField(
        label=_("State"),
        choices=[("", _("Any state")), ("active", _("Active")), ("inactive", _("Deactivated"))],
        required=False,
    )
    kind = forms.ChoiceField(
        label=_("Kind"),
        choices=[("", _("People and service accounts")), ("person", _("People")), ("service", _("Service accounts"))],
        required=False,
    )

    def narrow(self, users: Any) -> Any:
        """`users`, narrowed to what is asked for; an unusable filter narrows nothing."""
        given = self.cleaned_data if self.is_valid() else {}
        if text := given.get("q"):
            users = people.matching(users, text, mail_too=True)
        if role := given.get("role"):
            users = users.filter(role=role)
        if state := given.get("state"):
            users = users.filter(is_active=state == "active")
        if kind := given.get("kind"):
            users = users.filter(is_service=kind == "service")
        return users
