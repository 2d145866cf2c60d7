"""Django admin of people obeys the actions that pages and API call."""

import pytest
from django.test import Client
from django.urls import reverse

from portal.accounts.models import ApiKey, AuditEntry, Role, Session, User
from tests.factories.accounts import PASSWORD, UserFactory, key_of
from tests.factories.crews import CrewFactory

pytestmark = pytest.mark.django_db


def page(name: str, model: str = "user", *args) -> str:
    return reverse(f"admin:accounts_{model}_{name}", args=args)


@pytest.fixture
def boss() -> User:
    return UserFactory(username="boss", admin=True)


@pytest.fixture
def site(boss) -> Client:
    client = Client()
    client.force_login(boss)
    return client


def change(site: Client, user: User, **fields):
    names = ("first_name", "last_name", "email", "language", "role")
    sent = {**{name: getattr(user, name) for name in names}, "is_active": "on" if user.is_active else "", **fields}
    inlines = {f"{name}-{count}_FORMS": 0 for name in ("identities", "api_keys") for count in ("TOTAL", "INITIAL")}
    return site.post(page("change", "user", user.pk), {**sent, **inlines})


def test_a_change_goes_the_way_of_all(site, boss):
    user = UserFactory(viewer=True)
    answer = change(site, user, role="user", first_name="Ann")
    assert answer.status_code == 302, answer.context["errors"]
    user.refresh_from_db()
    assert (user.role, user.first_name) == (Role.USER, "Ann")
    assert AuditEntry.objects.get(action="user.role_changed").actor_id == boss.pk
    Client().force_login(user)
    key_of(user)
    assert change(site, user, is_active="").status_code == 302
    user.refresh_from_db()
    assert not user.is_active
    assert not Session.objects.filter(user=user).exists()
    assert not ApiKey.objects.filter(user=user, revoked_at=None).exists()


def test_the_last_admin_stays(site, boss):
    for fields in ({"role": "user"}, {"is_active": ""}):
        answer = change(site, boss, **fields)
        assert answer.status_code == 200
        assert "last active admin" in answer.content.decode()
    site.post(page("delete", "user", boss.pk), {"post": "yes"})
    site.post(page("changelist"), {"action": "delete_selected", "_selected_action": [str(boss.pk)], "post": "yes"})
    boss.refresh_from_db()
    assert (boss.role, boss.is_active) == (Role.ADMIN, True)


def test_who_owns_things_is_not_deleted(site):
    crew, nobody = CrewFactory(), UserFactory()
    for user in (crew.owner, nobody):
        site.post(page("delete", "user", user.pk), {"post": "yes"})
    assert set(User.objects.values_list("username", flat=True)) == {"boss", crew.owner.username}


def test_a_service_account_is_made_without_a_password(site):
    sent = {"username": "bot", "role": "user", "is_service": "on", "password1": PASSWORD, "password2": PASSWORD}
    assert site.post(page("add"), {**sent, "usable_password": "true"}).status_code == 302
    bot = User.objects.get(username="bot")
    assert (bot.is_service, bot.has_usable_password()) == (True, False)


def test_names_that_pass_for_one_another_are_refused(site):
    sent = {"username": "BOSS", "role": "user", "password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
    assert site.post(page("add"), sent).status_code == 200
    assert User.objects.count() == 1


def test_passwords_are_set_elsewhere(site, boss):
    assert site.post(f"/admin/accounts/user/{boss.pk}/password/", {"password1": "x"}).status_code == 302
    assert User.objects.get(pk=boss.pk).check_password(PASSWORD)


@pytest.mark.parametrize("model", ["apikey", "auditentry"])
def test_keys_and_the_log_are_only_looked_at(site, boss, model):
    key_of(boss)
    row = (ApiKey if model == "apikey" else AuditEntry).objects.first()
    assert site.get(page("changelist", model)).status_code == 200
    shown = site.get(page("change", model, row.pk))
    assert shown.status_code == 200
    if model == "apikey":
        assert row.digest not in shown.content.decode()
    for answer in (
        site.post(page("change", model, row.pk), {"name": "other"}),
        site.post(page("delete", model, row.pk), {"post": "yes"}),
        site.get(page("add", model)),
    ):
        assert answer.status_code == 403
    assert type(row).objects.filter(pk=row.pk).exists()
