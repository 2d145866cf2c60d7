"""Keys at the door of the API: what they open, and how they are made, listed and revoked."""

import uuid
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from executions.models import Execution
from executions.status import Status
from portal.accounts import keys
from portal.accounts.models import ApiKey, AuditEntry, Role, Scope, User
from tests.factories.accounts import AccessListFactory, UserFactory, key_of
from tests.factories.crews import runnable_crew
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db


def ask(key, method, path, body=None, form="Api-Key", **headers):
    """What the API answers to a program that has a key and nothing else."""
    return getattr(Client(enforce_csrf_checks=True), method)(
        f"/api/{path}", body, content_type="application/json", headers={"Authorization": f"{form} {key}", **headers}
    )


@pytest.fixture
def user(db):
    return UserFactory()


@pytest.fixture
def admin(db):
    return UserFactory(admin=True)


@pytest.fixture
def browser(user):
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    return client


def post(browser, path, body):
    browser.cookies["csrftoken"] = "c" * 32
    return browser.post(f"/api/{path}", body, content_type="application/json", headers={"X-CSRFToken": "c" * 32})


# --- The door ----------------------------------------------------------------------------------------


def test_both_forms_of_a_key_open_the_api_and_no_page(user):
    key = key_of(user, Scope.RUN, Scope.READ)
    for form in ("Api-Key", "Bearer", "bearer"):
        me = ask(key, "get", "me", form=form).json()
        assert (me["username"], me["role"]) == (user.username, "user")
        shown = ApiKey.objects.get()
        wanted = {"kind": "api_key", "label": f"api_key:ap_{shown.prefix}", "scopes": ["read", "run"]}
        assert me["credential"] == {**wanted, "expires_at": None}
    page = Client().get("/crews", headers={"Authorization": f"Api-Key {key}"})
    assert (page.status_code, page.headers["Location"]) == (302, "/sign-in?next=/crews")


def test_a_header_that_is_refused_never_falls_back_to_the_cookie(browser, user):
    assert browser.get("/api/me").json()["credential"]["kind"] == "session"
    key = key_of(user)
    for header in (
        "Bearer ap_12345678_x",
        f"Bearer {key}x",
        "Basic eDp5",
        "Bearer run_1",
        f"Api-Key {key},Api-Key {key}",
    ):
        answer = browser.get("/api/me", headers={"Authorization": header})
        assert (answer.status_code, answer.json()["code"]) == (401, "authentication_failed"), header
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["hint"]
        assert "username" not in answer.content.decode()
    assert browser.get("/api/me", headers={"Authorization": f"Api-Key {key}"}).json()["credential"]["kind"] == "api_key"


def test_a_key_anywhere_but_in_the_header_opens_nothing(user):
    key = key_of(user)
    for query in (f"api_key={key}", f"key={key}", f"access_token={key}", f"authorization=Api-Key+{key}"):
        assert Client().get(f"/api/me?{query}").status_code == 401
    stranger = Client()
    stranger.cookies["api_key"] = stranger.cookies["sessionid"] = key
    assert stranger.get("/api/me", headers={"X-Api-Key": key}).status_code == 401
    assert stranger.post("/api/agents", {"api_key": key}, content_type="application/json").status_code == 401


def test_csrf_is_for_sessions_and_not_for_keys(browser, user):
    body = {"name": "Poets"}
    refused = browser.post("/api/crews", body, content_type="application/json")
    assert (refused.status_code, "CSRF" in refused.json()["detail"]) == (403, True)
    assert post(browser, "crews", body).status_code == 201
    assert ask(key_of(user, Scope.WRITE), "post", "crews", body).status_code == 201


def test_a_key_that_comes_too_often_is_told_when_to_come_back(user):
    key = key_of(user)
    ApiKey.objects.update(requests_per_minute=1)
    assert ask(key, "get", "me").status_code == 200
    answer = ask(key, "get", "me")
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert 0 < int(answer.headers["Retry-After"]) <= 61


def test_a_key_ends_at_once(user):
    key = key_of(user)
    assert ask(key, "get", "me").status_code == 200
    for change, back in (({"revoked_at": timezone.now()}, {"revoked_at": None}), ({"expires_at": timezone.now()}, {})):
        ApiKey.objects.update(**change)
        assert ask(key, "get", "me").status_code == 401, change
        ApiKey.objects.update(**back)


# --- Scopes ------------------------------------------------------------------------------------------


def missing(answer):
    """The scope that a refusal names; empty where it is no refusal for want of one."""
    return answer.json()["detail"] if answer.status_code == 403 and answer.json()["code"] == "scope_missing" else ""


def test_each_scope_opens_its_routes_and_names_what_is_missing(admin):
    run = execution_in(Status.RUNNING, created_by=admin, access=AccessListFactory(owner=admin))
    crew = runnable_crew(owner=admin)
    nobody = uuid.uuid4()
    routes = {
        Scope.READ: [("get", "crews"), ("get", f"executions/{run.pk}"), ("options", "crews"), ("head", "crews")],
        Scope.RUN: [
            ("post", f"crews/{crew.pk}/kickoff"), ("post", f"crews/{crew.pk}/stop"),
            ("post", f"executions/{run.pk}/pause"), ("post", f"executions/{nobody}/resume"),
            ("post", f"executions/{nobody}/retry"), ("post", f"executions/{nobody}/fork"),
            ("post", f"executions/{nobody}/role-llm-mapping"), ("patch", f"executions/{run.pk}"),
            ("post", f"approvals/{nobody}/answer"), ("post", f"executions/{nobody}/stop"), ("post", "executions/stop"),
        ],
        Scope.WRITE: [
            ("post", "crews"), ("put", f"crews/{nobody}"), ("delete", f"agents/{nobody}"),
            ("post", f"crews/{nobody}/copy"), ("delete", f"crews/{crew.pk}/executions/{nobody}"),
            ("put", f"crews/{nobody}/inputs"),
        ],
        Scope.ADMIN: [("get", "budgets"), ("post", "budgets"), ("post", "llm/models"), ("post", "api-keys")],
    }  # fmt: skip
    held = {scope: key_of(admin, scope) for scope in Scope}
    for needed, paths in routes.items():
        for method, path in paths:
            assert ask(held[needed], method, path, {}).status_code not in {401, 403}, (needed, method, path)
            lacking = {Scope.READ, Scope.RUN, Scope.WRITE} - {needed} if (method, path) == paths[0] else {Scope.READ}
            for scope in lacking if needed is not Scope.READ else ():
                assert f"“{needed}”" in missing(ask(held[scope], method, path, {})), (scope, method, path)


def test_scopes_are_never_above_the_owner_also_after_the_owner_is_demoted(admin):
    key = key_of(admin, Scope.ADMIN)
    stranger_crew = runnable_crew()
    assert ask(key, "get", f"crews/{stranger_crew.pk}").status_code == 200
    User.objects.filter(pk=admin.pk).update(role=Role.USER)
    assert ask(key, "get", f"crews/{stranger_crew.pk}").status_code == 404
    assert ask(key, "get", "budgets").status_code == 403
    assert ask(key, "post", "crews", {"name": "Poets"}).status_code == 201
    User.objects.filter(pk=admin.pk).update(role=Role.VIEWER)
    assert ask(key, "post", "crews", {"name": "Poets"}).status_code == 403
    assert ask(key, "get", "me").json()["role"] == "viewer"


def test_an_admins_key_without_the_scope_sees_what_a_user_sees(admin):
    crew = runnable_crew()
    assert ask(key_of(admin, Scope.WRITE), "get", f"crews/{crew.pk}").status_code == 404
    assert ask(key_of(admin, Scope.WRITE), "get", "crews?count=1").json()["count"] == 0
    assert ask(key_of(admin, Scope.ADMIN), "get", f"crews/{crew.pk}").status_code == 200


def test_a_run_is_counted_to_the_key_that_started_it(user, browser):
    crew = runnable_crew(owner=user)
    key = key_of(user, Scope.RUN)
    started = ask(key, "post", f"crews/{crew.pk}/kickoff", {"inputs": {"topic": "Tea"}})
    assert started.status_code == 202, started.content
    assert str(Execution.objects.get().api_key) == str(ApiKey.objects.get())
    assert post(browser, f"crews/{crew.pk}/kickoff", {"inputs": {"topic": "Tea"}}).status_code == 202
    assert Execution.objects.filter(api_key=None).count() == 1


# --- Making and revoking -----------------------------------------------------------------------------


def test_a_key_is_shown_once_and_works(browser, user):
    soon = (timezone.now() + timedelta(days=1)).isoformat()
    body = {"name": "Nightly", "scopes": ["run", "read"], "expires_at": soon, "requests_per_minute": 30}
    made = post(browser, "api-keys", body)
    assert made.status_code == 201, made.content
    assert made.headers["Cache-Control"] == "no-store"
    assert ask(made.json()["key"], "get", "me").json()["credential"]["scopes"] == ["read", "run"]
    (listed,) = browser.get("/api/api-keys").json()["results"]
    assert "key" not in listed
    assert listed == {**{k: v for k, v in made.json().items() if k != "key"}, **{
        name: listed[name] for name in ("last_used_at", "last_used_from")
    }}  # fmt: skip
    assert (listed["scopes"], listed["prefix"], listed["is_usable"]) == (["read", "run"], made.json()["prefix"], True)
    browser.cookies["csrftoken"] = "c" * 32
    gone = browser.delete(f"/api/api-keys/{listed['id']}", headers={"X-CSRFToken": "c" * 32})
    assert gone.status_code == 204
    assert ask(made.json()["key"], "get", "me").status_code == 401
    assert browser.get(f"/api/api-keys/{listed['id']}").json()["is_usable"] is False
    assert list(AuditEntry.objects.filter(action__startswith="key.").values_list("action", "actor_id")) == [
        ("key.revoked", user.pk), ("key.created", user.pk),
    ]  # fmt: skip


def test_what_is_wrong_with_a_key_is_named_field_by_field(browser):
    for body, field, code in (
        ({"scopes": ["read"]}, "name", "required"),
        ({"name": "x", "scopes": []}, "scopes", "empty"),
        ({"name": "x", "scopes": ["admin"]}, "scopes", "above_owner"),
        ({"name": "x", "scopes": ["all"]}, "scopes", "invalid_choice"),
        ({"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "past"),
        ({"name": "x", "scopes": ["read"], "requests_per_minute": 0}, "requests_per_minute", "min_value"),
    ):
        answer = post(browser, "api-keys", body)
        assert answer.status_code == 400, body
        assert [(error["field"], error["code"]) for error in answer.json()["errors"]] == [(field, code)]


def test_only_a_key_with_the_scope_admin_makes_keys_and_none_above_itself(user, admin):
    body = {"name": "More", "scopes": ["read"]}
    assert ask(key_of(user, Scope.WRITE, Scope.RUN), "post", "api-keys", body).status_code == 403
    assert ask(key_of(admin, Scope.WRITE, Scope.RUN), "post", "api-keys", body).status_code == 403
    assert ask(key_of(admin, Scope.ADMIN), "post", "api-keys", body).status_code == 201
    mine, other = ApiKey.objects.filter(user=user).get(), ApiKey.objects.filter(user=admin).first()
    assert ask(key_of(user, Scope.READ), "delete", f"api-keys/{mine.pk}").status_code == 403
    assert ask(key_of(admin, Scope.ADMIN), "delete", f"api-keys/{other.pk}").status_code == 204


def test_keys_of_others_are_for_admins(user, admin, browser):
    service = User.objects.create(username="robot", is_service=True, password="!")
    key = key_of(admin, Scope.ADMIN)
    body = {"name": "CI", "scopes": ["run"]}
    made = ask(key, "post", "api-keys", {**body, "user_id": str(service.pk)})
    assert made.status_code == 201, made.content
    assert ask(made.json()["key"], "get", "me").json()["is_service"] is True
    assert ask(key, "post", "api-keys", {**body, "user_id": str(user.pk)}).status_code == 403, "in a person's name"
    assert ask(key, "post", "api-keys", {**body, "user_id": str(uuid.uuid4())}).status_code == 404
    assert post(browser, "api-keys", {**body, "user_id": str(service.pk)}).status_code == 403
    keys.create(user, name="mine", scopes=[Scope.READ], by=user)

    def names(ask_for, query=""):
        return [row["name"] for row in ask_for(f"api-keys{query}").json()["results"]]

    assert names(lambda path: ask(key, "get", path)) == ["test"], "one's own without a question"
    assert names(lambda path: ask(key, "get", path), f"?user_id={user.pk}") == ["mine"]
    assert names(lambda path: browser.get(f"/api/{path}"), f"?user_id={service.pk}") == []
    assert names(lambda path: browser.get(f"/api/{path}"), f"?user_id={user.pk}") == ["mine"]
    robots = ApiKey.objects.get(user=service)
    assert browser.get(f"/api/api-keys/{robots.pk}").status_code == 404
    browser.cookies["csrftoken"] = "c" * 32
    assert browser.delete(f"/api/api-keys/{robots.pk}", headers={"X-CSRFToken": "c" * 32}).status_code == 404
    assert ask(key, "delete", f"api-keys/{robots.pk}").status_code == 204


# --- The command -------------------------------------------------------------------------------------


def test_the_command_prints_a_key_alone_lists_without_it_and_revokes(user, capsys):
    call_command("api_key", "create", user.username, "--scope", "read", "--scope", "run", "--expires-days", "7")
    text, error = capsys.readouterr()
    assert (text.count("\n"), text[:3], error) == (1, "ap_", "")
    key = text.strip()
    assert ask(key, "get", "me").json()["credential"]["scopes"] == ["read", "run"]
    call_command("api_key", "list")
    listed = capsys.readouterr().out
    assert key[:11] in listed
    assert key not in listed
    assert user.username in listed
    call_command("api_key", "revoke", key[:11])
    assert ask(key, "get", "me").status_code == 401
    assert "revoked" in (call_command("api_key", "list", user.username), capsys.readouterr().out)[1]
    assert AuditEntry.objects.filter(action="key.created", credential="command", actor_id=None).exists()


def test_the_command_says_plainly_what_is_wrong(user):
    for arguments, words in (
        (["create", "nobody", "--scope", "read"], "no user nobody"),
        (["create", user.username, "--scope", "admin"], "more than the owner may do"),
        (["create", user.username, "--scope", "read", "--per-minute", "0"], "Give a number"),
        (["create", user.username, "--scope", "read", "--expires-days", "0"], "--expires-days"),
        (["create", user.username], "--scope"),
        (["revoke", "ap_00000000"], "no key ap_00000000"),
        (["revoke", "ap_00000000_secret"], "no key ap_00000000."),
    ):
        with pytest.raises(CommandError, match=words):
            call_command("api_key", *arguments)
    assert not ApiKey.objects.exists()
