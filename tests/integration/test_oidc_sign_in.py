"""Signing in through the identity provider, staying signed in, and out again from both sides."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import time_machine
from django.test import Client

from portal.accounts import people
from portal.accounts.credential_forms import IdentityForm
from portal.accounts.models import AuditEntry, Identity, Role, Session, User
from portal.accounts.oidc import linking, renewal
from portal.accounts.oidc.backend import ProviderAway
from tests.factories.accounts import UserFactory
from tests.fakes.idp import FakeIdp, Person

pytestmark = pytest.mark.django_db


def there(client: Client, path: str = "/oidc/authenticate") -> str:
    """Where the provider leads back to: the callback, with a code."""
    begun = client.get(path)
    assert begun.status_code == 302, begun.content
    return httpx.get(begun.headers["Location"]).headers["Location"]


def sign_in(client: Client, path: str = "/oidc/authenticate") -> Any:
    return client.get(there(client, path))


def who(client: Client) -> User | None:
    """As whom the portal takes this browser."""
    answer = client.get("/api/me")
    return User.objects.get(pk=answer.json()["id"]) if answer.status_code == 200 else None


def renew_now(client: Client) -> User | None:
    """Who one is with the next request after the session has become due."""
    session = client.session
    session[renewal.RENEW_AT] = 0
    session.save()
    from portal.accounts.models import RateWindow

    RateWindow.objects.all().delete()  # as if the last try was long ago
    return who(client)


@pytest.fixture
def olga(idp: FakeIdp) -> Person:
    return idp.person("olga", roles=["user"], groups=["/blue"])


def test_a_person_signs_in(idp: FakeIdp, olga: Person, client: Client) -> None:
    client.get("/sign-in")
    begun = client.get("/oidc/authenticate?next=/crews")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begun.headers["Location"]).query).items()}
    assert asked["redirect_uri"] == "http://testserver/oidc/callback"
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["state"]) >= 32
    assert len(asked["nonce"]) >= 32
    key_before = client.session.session_key
    answer = client.get(httpx.get(begun.headers["Location"]).headers["Location"])
    assert (answer.status_code, answer.headers["Location"]) == (302, "/crews")
    assert client.session.session_key != key_before
    identity = Identity.objects.select_related("user").get()
    assert (identity.issuer, identity.subject) == (idp.issuer, olga.subject)
    assert (identity.roles, identity.groups) == (["user", "offline_access"], ["/blue"])
    user = identity.user
    assert (user.username, user.email, user.get_full_name()) == ("olga", "olga@example.org", "Olga Park")
    assert (user.role, user.has_usable_password(), user.is_service) == (Role.USER, False, False)
    assert who(client) == user
    row = Session.objects.get(user=user)
    assert (row.method, row.oidc_issuer) == ("oidc", idp.issuer)
    assert row.oidc_sid in idp.sessions
    # What the provider handed out stands in no table in the clear.
    assert row.oidc_sid not in json.dumps(row.get_decoded()[renewal.TOKENS])
    actions = AuditEntry.objects.order_by("id").values_list("action", flat=True)
    assert list(actions) == ["user.created", "user.signed_in"]
    # And again: the same person.
    sign_in(Client())
    assert User.objects.filter(username__startswith="olga").count() == 1


def test_answers_that_do_not_belong_to_this_sign_in(idp: FakeIdp, olga: Person, client: Client) -> None:
    stolen = there(client)
    answers = {
        "another browser": Client().get(stolen),
        "made-up state": client.get("/oidc/callback?code=x&state=y"),
        "nothing": client.get("/oidc/callback"),
        "error": client.get("/oidc/callback?error=access_denied&state=y"),
    }
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(answers, 400)
    assert all(b"Not signed in" in answer.content for answer in answers.values())
    # A wrong code, a wrong PKCE verifier, and the state a second time.
    code = parse_qs(urlsplit(stolen).query)["code"][0]
    assert client.get(stolen.replace(code, "another")).status_code == 400
    assert client.get(stolen).status_code == 400
    again = there(client)
    session = client.session
    for state in session["oidc_states"].values():
        state["code_verifier"] = "v" * 64
    session.save()
    assert client.get(again).status_code == 400
    # Tokens that prove nothing.
    for tampers in ({"nonce": "another"}, {"nonce": None}, {"at_hash": "x"}, {"aud": "another"}, {"sub": "another"}):
        idp.tampers = tampers
        assert sign_in(client).status_code == 400, tampers
    assert who(client) is None
    assert not Identity.objects.exists()


def test_whoever_follows_a_link_with_an_error_stays_signed_in(idp: FakeIdp, olga: Person, client: Client) -> None:
    sign_in(client)
    assert client.get("/oidc/callback?error=x").status_code == 400
    assert who(client)


def test_nobody_is_linked_by_name_or_mail(idp: FakeIdp, client: Client) -> None:
    local = UserFactory(username="olga", email="olga@example.org", admin=True)
    UserFactory(username="OLGA-2")
    idp.person("olga", roles=["viewer"])
    sign_in(client)
    user = who(client)
    assert user is not None
    assert (user.username, user.role) == ("olga-3", Role.VIEWER)
    assert user != local
    assert not local.identities.exists()


def test_odd_claims_do_no_harm(idp: FakeIdp, client: Client) -> None:
    odd = {
        "preferred_username": "<b>o\0lga</b> park" + "x" * 300,
        "email": "no address",
        "given_name": 7,
        "family_name": "\ud800",
        "groups": [{"a": 1}, None, "/blue", "\0"],
        "resource_access": {"agent-portal": {"roles": "admin"}},
        "realm_access": [["admin"], "user"],
    }
    idp.person("odd", groups=[], claims=odd)
    assert sign_in(client).status_code == 403
    assert not Identity.objects.exists()
    idp.person("odd", claims={**odd, "realm_access": {"roles": ["user", 7, {"admin": 1}]}})
    assert sign_in(client).status_code == 302
    user = who(client)
    assert user is not None
    user.full_clean()
    assert (user.role, user.email, user.first_name, user.last_name) == (Role.USER, "", "", "")
    assert Identity.objects.get().groups == ["/blue"]


def test_roles_come_from_where_the_settings_say(idp: FakeIdp, settings: Any) -> None:
    settings.OIDC_ROLE_MAP = {"portal-admins": "admin", "/staff": "user", "guest": "viewer"}
    in_client = {"resource_access": {"agent-portal": {"roles": ["guest"]}, "other": {"roles": ["portal-admins"]}}}
    expected: list[tuple[dict[str, Any], Role | None]] = [
        ({"roles": ["portal-admins", "guest"]}, Role.ADMIN),
        ({"groups": ["/staff", "/blue"]}, Role.USER),
        ({"groups": ["/staff/blue"]}, None),
        ({"claims": in_client}, Role.VIEWER),
        ({"roles": ["admin"]}, None),
    ]
    for number, (facts, role) in enumerate(expected):
        idp.person(f"p{number}", **facts)
        client = Client()
        assert sign_in(client).status_code == (302 if role else 403), facts
        assert getattr(who(client), "role", None) == role, facts
    # From the id token alone; then an access token that nobody can read does not matter.
    settings.OIDC_ROLES_FROM = "id_token"
    settings.OIDC_AUDIENCE = "something-else"
    idp.person("by-id", groups=["/staff"])
    client = Client()
    assert sign_in(client).status_code == 302
    assert getattr(who(client), "role", None) == Role.USER


def test_who_may_not_enter(idp: FakeIdp, client: Client, settings: Any) -> None:
    idp.person("nobody", roles=["offline_access"])
    answer = sign_in(client, "/oidc/authenticate?next=/crews")
    assert answer.status_code == 403
    assert b"no role" in answer.content
    assert not User.objects.filter(username="nobody").exists()
    # They may come as somebody else, though the provider still knows them.
    again = client.get("/oidc/authenticate?again").headers["Location"]
    assert parse_qs(urlsplit(again).query)["prompt"] == ["login"]
    settings.OIDC_DEFAULT_ROLE = "viewer"
    sign_in(client)
    user = who(client)
    assert user is not None
    assert user.role == Role.VIEWER
    people.deactivate(user, by=None)
    assert who(client) is None
    assert sign_in(client).status_code == 403
    assert who(client) is None


def test_without_a_provider_there_is_nothing(client: Client, settings: Any) -> None:
    settings.OIDC_ISSUER = ""
    assert client.get("/oidc/authenticate").status_code == 404
    assert client.get("/oidc/callback?code=a&state=b").status_code == 404
    assert client.post("/oidc/backchannel-logout", {"logout_token": "x"}).status_code == 404


def test_a_provider_that_is_away(idp: FakeIdp, olga: Person, client: Client) -> None:
    idp.is_down = True
    answer = client.get("/oidc/authenticate")
    assert answer.status_code == 503
    assert b"cannot be reached" in answer.content


def test_the_portal_has_one_address_to_come_back_to(idp: FakeIdp, client: Client, settings: Any) -> None:
    settings.PORTAL_URL = "https://portal.example.org"
    answer = client.get("/oidc/authenticate?next=/crews")
    assert answer.headers["Location"] == "https://portal.example.org/oidc/authenticate?next=/crews"


# --- Roles that change ------------------------------------------------------------------------------


def test_a_role_follows_at_renewal_and_sign_in(idp: FakeIdp, olga: Person, client: Client) -> None:
    sign_in(client)
    olga.roles = ["viewer"]
    assert getattr(who(client), "role", None) == Role.USER  # not due yet
    assert getattr(renew_now(client), "role", None) == Role.VIEWER
    olga.roles = ["admin"]
    sign_in(Client())
    assert getattr(who(client), "role", None) == Role.ADMIN
    changes = AuditEntry.objects.filter(action="user.role_changed").order_by("id")
    assert [entry.after for entry in changes] == [{"role": "viewer"}, {"role": "admin"}]
    # None left: signed out, and what keys there are do the least.
    UserFactory(admin=True)
    olga.roles = []
    assert renew_now(client) is None
    assert User.objects.get(username="olga").role == Role.VIEWER


def test_the_last_admin_stays_one(idp: FakeIdp, olga: Person, client: Client) -> None:
    User.objects.filter(role=Role.ADMIN).delete()
    olga.roles = ["admin"]
    sign_in(client)
    olga.roles = ["user"]
    assert getattr(renew_now(client), "role", None) == Role.ADMIN
    refused = AuditEntry.objects.get(action="user.role_changed", outcome="refused")
    assert refused.after["reason"] == "last_admin"
    UserFactory(admin=True)
    assert getattr(renew_now(client), "role", None) == Role.USER


# --- Renewal ------------------------------------------------------------------------------------------


def test_a_session_ends_with_the_one_at_the_provider(idp: FakeIdp, olga: Person, client: Client) -> None:
    for ending in ("ended", "disabled"):
        olga.is_enabled = True
        sign_in(client)
        assert renew_now(client)
        if ending == "ended":
            idp.sessions.clear()
        else:
            olga.is_enabled = False
        assert who(client), ending  # it is asked once in a while
        # By whatever comes next: a form that is sent, a fragment, a request of a script.
        assert renew_now(client) is None, ending
        page = client.get("/crews")
        assert page.headers["Location"].startswith("/sign-in?next=/crews")
    assert not Session.objects.filter(user__username="olga").exists()
    reasons = AuditEntry.objects.filter(action="session.ended").values_list("after__reason", flat=True)
    assert list(reasons) == ["ended_at_the_provider"] * 2


def test_a_form_that_is_sent_renews_too_and_loses_nothing(idp: FakeIdp, olga: Person, client: Client) -> None:
    sign_in(client)
    session = client.session
    session[renewal.RENEW_AT] = 0
    session.save()
    asked = idp.asked["token"]
    answer = client.post("/preferences", {"language": "ko", "next": "/"}, headers={"HX-Request": "true"})
    assert answer.status_code == 302
    assert idp.asked["token"] == asked + 1
    assert User.objects.get(username="olga").language == "ko"
    # At once again: not due.
    client.get("/api/me")
    assert idp.asked["token"] == asked + 1


@pytest.mark.parametrize("path", ["/crews", "/api/docs", "/admin/"])
def test_a_header_beside_the_cookie_keeps_nobody_signed_in(
    idp: FakeIdp, olga: Person, client: Client, path: str
) -> None:
    """Pages, the API's documentation and Django admin go by the cookie, whatever else is sent."""
    UserFactory(admin=True)
    olga.roles = ["admin"]
    sign_in(client)
    headers = {"Authorization": "x"}
    assert client.get(path, headers=headers).status_code == 200
    olga.roles = []
    session = client.session
    session[renewal.RENEW_AT] = 0
    session.save()
    assert client.get(path, headers=headers).status_code == 302  # to the sign-in
    assert not Session.objects.filter(user__username="olga").exists()


def test_an_outage_ends_sessions_after_a_while_only(idp: FakeIdp, olga: Person, settings: Any) -> None:
    settings.OIDC_RENEW_SECONDS, settings.OIDC_OUTAGE_SECONDS = 60, 900
    client = Client()
    with time_machine.travel("2031-01-01T12:00:00Z", tick=False) as clock:
        sign_in(client)
        idp.is_down = True
        for _minute in range(15):
            clock.shift(60)
            assert who(client)
        asked = idp.asked["token"]
        for _ in range(5):
            who(client)
        assert idp.asked["token"] == asked  # a provider in trouble is not asked with every request
        idp.is_down = False
        clock.shift(30)
        assert who(client)
        idp.is_down = True
        clock.shift(60)
        assert who(client)
        clock.shift(901)
        assert who(client) is None


def test_a_session_that_ended_meanwhile_does_not_come_back(idp: FakeIdp, olga: Person, client: Client) -> None:
    sign_in(client)
    session = client.session
    session[renewal.RENEW_AT] = 0
    session.save()
    held = renewal.SessionStore(session.session_key)
    assert held[renewal.RENEW_AT] == 0  # it is read now
    Session.objects.all().delete()
    assert renewal.renew(held) is False
    assert not Session.objects.exists()


def test_open_sockets_renew_their_session(idp: FakeIdp, olga: Person, client: Client) -> None:
    sign_in(client)
    key = str(client.session.session_key)
    asked = idp.asked["token"]
    renewal.renew_open([key])
    assert idp.asked["token"] == asked
    session = client.session
    session[renewal.RENEW_AT] = 0
    session.save()
    until = Session.objects.get(pk=key).expire_date
    renewal.renew_open([key, "of-nobody"])
    assert idp.asked["token"] == asked + 1
    assert Session.objects.get(pk=key).expire_date == until  # watching prolongs nothing here
    olga.is_enabled = False
    assert renew_now(client) is None
    assert not Session.objects.filter(pk=key).exists()


# --- Out ------------------------------------------------------------------------------------------------


def test_signing_out_ends_both_sessions(idp: FakeIdp, olga: Person, client: Client) -> None:
    sign_in(client)
    (sid,) = idp.sessions
    answer = client.post("/sign-out")
    assert who(client) is None
    target = urlsplit(answer.headers["Location"])
    assert f"{target.scheme}://{target.netloc}" == idp.url
    assert parse_qs(target.query)["client_id"] == ["agent-portal"]
    back = httpx.get(answer.headers["Location"]).headers["Location"]
    assert back == "http://testserver/sign-in"
    assert sid not in idp.sessions
    # Who came by a password goes to the sign-in page.
    client.force_login(UserFactory(), backend="django.contrib.auth.backends.ModelBackend")
    assert client.post("/sign-out").headers["Location"] == "/sign-in"


def test_signing_out_works_while_the_provider_is_away(idp: FakeIdp, olga: Person, client: Client) -> None:
    sign_in(client)
    idp.is_down = True
    from portal.accounts.oidc import provider

    provider._provider.cache_clear()
    assert client.post("/sign-out").headers["Location"] == "/sign-in"
    assert who(client) is None


def test_the_provider_ends_one_session_or_all(idp: FakeIdp, olga: Person) -> None:
    laptop, phone, password = Client(), Client(), Client()
    sign_in(laptop)
    sign_in(phone)
    user = User.objects.get(username="olga")
    password.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    boris = Client()
    idp.person("boris", roles=["user"])
    sign_in(boris)
    sid = laptop.session["portal_facts"]["oidc_sid"]

    # No cookie, no CSRF token: it is the provider that calls.
    outside = Client(enforce_csrf_checks=True)
    answer = outside.post("/oidc/backchannel-logout", {"logout_token": idp.logout_token(olga, sid)})
    assert (answer.status_code, answer.content) == (200, b"")
    assert [who(client) is not None for client in (laptop, phone, password, boris)] == [False, True, True, True]

    answer = outside.post("/oidc/backchannel-logout", {"logout_token": idp.logout_token(olga)})
    assert answer.status_code == 200
    assert [who(client) is not None for client in (laptop, phone, password, boris)] == [False, False, True, True]
    # Nobody is signed in there any more: all is as it should be.
    assert outside.post("/oidc/backchannel-logout", {"logout_token": idp.logout_token(olga, sid)}).status_code == 200
    assert outside.get("/oidc/backchannel-logout").status_code == 405
    assert AuditEntry.objects.filter(action="session.ended", target_id=str(user.pk)).count() == 2


# --- Linking by hand ------------------------------------------------------------------------------------


def test_an_admin_links_by_hand(idp: FakeIdp, olga: Person, client: Client) -> None:
    admin, ann = UserFactory(admin=True), UserFactory(username="ann", email="ann@example.com")
    by_admin, by_ann = Client(), Client()
    by_admin.force_login(admin, backend="django.contrib.auth.backends.ModelBackend")
    by_ann.force_login(ann, backend="django.contrib.auth.backends.ModelBackend")
    path, body = f"/api/admin/users/{ann.pk}/identities", {"subject": olga.subject}
    as_json = {"content_type": "application/json"}
    assert client.post(path, body, **as_json).status_code == 401
    assert by_ann.post(path, body, **as_json).status_code == 403
    answer = by_admin.post(path, body, **as_json)
    assert answer.status_code == 201, answer.content
    assert answer.json()["issuer"] == idp.issuer
    assert answer.json()["linked_by_id"] == str(admin.pk)
    assert by_admin.post(path, body, **as_json).json()["code"] == "identity_taken"
    assert by_admin.post(path, {"subject": " "}, **as_json).status_code == 400
    service = people.create_service_account(username="script", by=None)
    assert by_admin.post(f"/api/admin/users/{service.pk}/identities", body, **as_json).status_code == 400

    sign_in(client)
    assert who(client) == ann
    ann.refresh_from_db()
    assert ann.email == "ann@example.com"  # a local account keeps its own facts
    assert [row["subject"] for row in by_admin.get(path).json()["results"]] == [olga.subject]

    identity = answer.json()["id"]
    assert by_ann.delete(f"{path}/{identity}").status_code == 403
    assert by_admin.delete(f"/api/admin/users/{admin.pk}/identities/{identity}").status_code == 404
    assert by_admin.delete(f"{path}/{identity}").status_code == 204
    assert who(client) is None
    sign_in(client)
    assert who(client) not in {ann, None}
    actions = AuditEntry.objects.filter(action__startswith="identity.").order_by("id").values_list("action", flat=True)
    assert list(actions) == ["identity.linked", "identity.unlinked"]


def test_who_is_linked_by_hand_is_known_at_a_provider_whose_name_ends_in_a_slash(
    idp: FakeIdp, olga: Person, client: Client, settings: Any
) -> None:
    """OIDC_ISSUER has no slash at its end; what the provider's tokens say is what counts."""
    idp.issuer = f"{idp.issuer}/"
    admin, ann, bob = UserFactory(admin=True), UserFactory(username="ann"), UserFactory(username="bob")
    boris = idp.person("boris", roles=["user"])
    form = IdentityForm({"subject": olga.subject, "issuer": IdentityForm().fields["issuer"].initial})
    assert form.is_valid()
    linked = [
        form.save(ann, by=admin),
        linking.link(bob, subject=boris.subject, by=admin),
        linking.link(bob, subject="as-in-tokens", issuer=idp.issuer, by=admin),
    ]
    assert {identity.issuer for identity in linked} == {idp.issuer}
    assert linking.link(bob, subject="x", issuer="https://elsewhere.example/", by=admin).issuer.endswith("example/")
    for person, user in ((olga, ann), (boris, bob)):
        idp.at_the_desk = person
        browser = Client()
        sign_in(browser)
        assert who(browser) == user


def test_nobody_is_linked_to_a_provider_that_does_not_say_its_name(idp: FakeIdp, olga: Person) -> None:
    idp.is_down = True
    with pytest.raises(ProviderAway):
        linking.link(UserFactory(), subject=olga.subject, by=UserFactory(admin=True))
    assert not Identity.objects.exists()
