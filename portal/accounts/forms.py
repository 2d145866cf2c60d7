"""Forms of people's own accounts."""

from django import forms
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import User
from portal.lib.forms import Styled


class SignInForm(Styled, AuthenticationForm):
    """Name and password of a local account."""


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


class PasswordForm(Styled, PasswordChangeForm):
    """A new password, for who knows the old one."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        # The page has other forms: nothing here asks for the focus.
        self.fields["old_password"].widget.attrs.pop("autofocus", None)
