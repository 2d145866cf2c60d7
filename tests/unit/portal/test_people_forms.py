"""Forms of people and access: what they read, and how they show what an action refuses."""

import pytest

from portal.accounts import forms, people
from portal.accounts.models import User
from portal.lib.forms import errors_on
from tests.factories.accounts import PASSWORD, UserFactory
from tests.factories.crews import CrewFactory
from tests.unit.portal.test_local_sign_in import a_request

pytestmark = pytest.mark.django_db


def test_sign_in_takes_the_throttled_way():
    user = UserFactory(username="ann")
    form = forms.SignInForm(a_request(), {"username": "ann", "password": PASSWORD})
    assert form.is_valid()
    assert form.get_user() == user
    wrong = forms.SignInForm(a_request(), {"username": "ann", "password": "wrong"})
    assert not wrong.is_valid()
    assert wrong.errors.as_data()["__all__"][0].code == "sign_in_refused"


def test_sign_up_names_the_field_that_is_wrong(settings):
    settings.SIGN_UP = True
    sent = {"username": "ann", "password": PASSWORD, "again": PASSWORD}
    form = forms.SignUpForm({**sent, "again": "other"})
    assert list(form.errors) == ["again"]
    for changes, field in (
        ({"password": "12345678", "again": "12345678"}, "password"),
        ({"username": "a b"}, "username"),
        ({"username": "alice@example.com"}, "username"),
        ({"username": "alice＠example.com"}, "username"),
    ):
        form = forms.SignUpForm({**sent, **changes})
        assert form.is_valid()
        with errors_on(form):
            form.save(a_request())
        assert list(form.errors) == [field]
    form = forms.SignUpForm(sent)
    assert form.is_valid()
    assert form.save(a_request()).check_password(PASSWORD)


@pytest.mark.parametrize(
    ("who", "found"), [("ann", "ann"), ("ANN", "ann"), ("b@c", "b@c"), ("x@example.com", "x@example.com")]
)
def test_people_are_invited_by_name_or_by_mail_address(who, found):
    UserFactory(username="ann")
    UserFactory(username="b@c")
    crew = CrewFactory()
    form = forms.InviteForm({"who": who, "level": "viewer"})
    assert form.is_valid(), form.errors
    invitation, link = form.save(crew, by=crew.owner)
    assert found in {invitation.user.username if invitation.user else "", invitation.email}
    assert "/invitations/" in link


def test_a_name_never_stands_in_for_a_mail_address():
    """Whoever is called as an address of somebody else is not who is meant by it."""
    UserFactory(username="alice@example.com", email="mallory@example.com")
    for who in ("alice@example.com", "Alice@example.com"):
        form = forms.WhoForm({"who": who})
        assert form.is_valid()
        assert form.whom == {"email": who}


@pytest.mark.parametrize("who", ["", "nobody", "gone", "no@where", "@"])
def test_who_is_not_here_is_not_invited(who):
    UserFactory(username="gone", is_active=False)
    assert not forms.InviteForm({"who": who, "level": "viewer"}).is_valid()


def test_an_owner_is_named_and_may_stay():
    crew, heir = CrewFactory(), UserFactory(username="heir")
    form = forms.HandOnForm({"to": "heir"})
    assert form.is_valid()
    form.save(crew, by=crew.owner)
    assert crew.owner == heir
    assert not crew.access.grants.exists()


def test_a_person_without_a_password_comes_with_a_link():
    boss = UserFactory(admin=True)
    form = forms.PersonForm({"username": "ann", "role": "user"})
    assert form.is_valid()
    _user, link = form.save(by=boss)
    assert "/password/" in link
    form = forms.PersonForm({"username": "bob", "role": "user", "password": PASSWORD})
    assert form.is_valid()
    user, link = form.save(by=boss)
    assert (user.check_password(PASSWORD), link) == (True, "")


def test_what_an_action_refuses_stands_above_the_fields():
    last = UserFactory(admin=True)
    form = forms.RoleForm({"role": "user"})
    assert form.is_valid()
    with errors_on(form):
        form.save(last, by=last)
    assert form.errors.as_data()["__all__"][0].code == "last_admin"


def test_the_list_of_people_is_narrowed():
    UserFactory(username="ann", email="lee@example.com")
    UserFactory(username="gone", is_active=False)
    people.create_service_account(username="bot", by=None)

    def names(**sent: str) -> list[str]:
        return [user.username for user in forms.PeopleFilterForm(sent).narrow(User.objects.all())]

    assert names(q="lee") == ["ann"]
    assert names(state="inactive") == ["gone"]
    assert names(kind="service") == ["bot"]
    assert names(role="nonsense") == ["ann", "bot", "gone"]
