"""What a body or a query refers to is asked about as what an address names; actions ask for themselves once more."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError
from django.db import transaction

from crews.models import Crew
from executions import actions
from executions.models import Approval
from portal.accounts import invitations, keys, passwords, people, second_factor, sharing
from portal.accounts.models import Identity, Scope, User
from portal.accounts.oidc import linking
from portal.site.management.commands import kickoff
from tests.matrix.asking import Answer, Asker, plain
from tests.matrix.people import BY_NAME
from tests.matrix.probes import probe

TASK = {"name": "zq", "description": "Say something.", "expected_output": "A sentence.", "execution_order": 77}


def send(asker: Asker, who: str, method: str, address: str, body: Any = None, *, form: bool = False) -> Answer:
    return asker.ask(address, method, BY_NAME[who], body=body, form=form)


def refers(asker: Asker, method: str, address: str, body: Callable[[Any], Any], part: str, who: str = "user") -> None:
    """What is hidden is refused in the words of what is missing."""
    hidden, missing = (
        send(asker, who, method, address, body(str(asker.world.things[thing].parts[part]))).body
        for thing in ("private", "missing")
    )
    assert json.loads(hidden)["status"] == 400, hidden
    assert plain(hidden) == plain(missing)


@probe()
def members_of_a_crew_are_agents_that_one_sees(asker: Asker) -> None:
    own = asker.world.things["own"].parts
    refers(asker, "POST", "/api/crews", lambda pk: {"name": "zq", "agent_ids": [pk]}, "agent")
    refers(asker, "PATCH", f"/api/crews/{own['crew']}", lambda pk: {"agent_ids": [pk]}, "agent")
    refers(asker, "PATCH", f"/api/crews/{own['crew']}", lambda pk: {"manager_agent_id": pk}, "agent")
    shared = {"name": "zq", "agent_ids": [str(asker.world.things["shared"].parts["agent"])]}
    assert send(asker, "other user", "POST", "/api/crews", shared).status == 201


@probe()
def a_task_is_made_in_a_crew_that_one_may_change(asker: Asker) -> None:
    def status(thing: str, who: str) -> int:
        body = {**TASK, "crew_id": str(asker.world.things[thing].parts["crew"])}
        return send(asker, who, "POST", "/api/tasks", body).status

    refers(asker, "POST", "/api/tasks", lambda pk: {**TASK, "crew_id": pk}, "crew")
    assert (status("own", "user"), status("shared", "user"), status("granted", "reader")) == (201, 403, 403)
    assert (status("granted", "editor"), status("private", "admin")) == (201, 201)


@probe()
def a_task_refers_to_what_one_sees(asker: Asker) -> None:
    task = f"/api/tasks/{asker.world.things['own'].parts['task']}"
    refers(asker, "PATCH", task, lambda pk: {"agent_id": pk}, "agent")
    refers(asker, "PATCH", task, lambda pk: {"context": [pk]}, "task")


@probe()
def a_page_adds_agents_that_one_sees(asker: Asker) -> None:
    address = f"/crews/{asker.world.things['granted'].parts['crew']}/agents/new"
    for thing, status in {"private": 404, "own": 404, "missing": 404, "shared": 302}.items():
        body = {"agent": str(asker.world.things[thing].parts["agent"])}
        assert send(asker, "editor", "POST", address, body, form=True).status == status, thing


@probe()
def a_guest_of_ones_crew_stays_its_owners(asker: Asker) -> None:
    """Somebody else's agent works in one's crew: it is not changed there, nor is that offered."""
    crew, guest = asker.world.things["own"].parts["crew"], asker.world.things["shared"].parts["agent"]
    address = f"/crews/{crew}/agents/{guest}"
    assert send(asker, "user", "GET", address).status == 403
    assert send(asker, "user", "POST", address, {"role": "zq", "goal": "zq"}, form=True).status == 403
    page = send(asker, "user", "GET", f"/crews/{crew}").body
    assert f"{address}/remove" in page
    assert f'{address}"' not in page


@probe()
def nobody_takes_over_the_inputs_of_a_hidden_run(asker: Asker) -> None:
    shared = asker.world.things["shared"].parts
    address = f"/crews/{shared['crew']}/run?from={shared['run']}"
    told = "zqtoldrunshared"
    assert told in send(asker, "admin", "GET", address, form=True).body
    assert told not in send(asker, "other user", "GET", address, form=True).body


@probe()
def two_runs_are_chosen_among_those_that_one_sees(asker: Asker) -> None:
    run, private = asker.world.things["own"].parts["run"], asker.world.things["private"].parts["run"]
    for query, status in ((f"run={run}&run={run}", 302), (f"run={run}&run={private}", 404), (f"run={private}", 404)):
        assert send(asker, "user", "GET", f"/runs/compare?{query}", form=True).status == status, query


@probe()
def only_admins_make_keys_of_others_and_let_people_in_unasked(asker: Asker) -> None:
    spare, crew = asker.world.catalog["service"], asker.world.things["own"].parts["crew"]
    key = {"name": "zq", "scopes": ["read"], "user_id": str(spare)}
    assert send(asker, "user", "POST", "/api/api-keys", key).status == 403
    assert send(asker, "admin", "POST", "/api/api-keys", key).status == 201
    member = {"user_id": str(asker.world.people["stranger"].pk), "direct": True}
    assert send(asker, "user", "POST", f"/api/crews/{crew}/members", member).status == 403
    assert send(asker, "admin", "POST", f"/api/crews/{crew}/members", member).status == 201


@probe()
def who_is_no_admin_is_told_so_at_the_door_of_django_admin(asker: Asker) -> None:
    statuses = {who: send(asker, who, "GET", "/admin/login/", form=True).status for who in ("viewer", "user", "admin")}
    assert statuses == {"viewer": 403, "user": 403, "admin": 302}


# --- Second lines: what views call asks once more, for whoever calls it next ---------------------------------


def _second_lines(asker: Asker) -> dict[str, Callable[[], Any]]:
    user = asker.world.people["user"]
    spare, service = (User.objects.get(pk=asker.world.catalog[name]) for name in ("spare", "service"))
    parts = asker.world.things["private"].parts
    crew = Crew.objects.get(pk=parts["crew"])
    approval = Approval.objects.get(pk=parts["approval"])
    identity = Identity.objects.get(pk=asker.world.catalog["identity"])
    return {
        "answering": lambda: actions.answer(approval, user, "approve"),
        "sharing": lambda: sharing.set_visibility(crew, "shared", by=user),
        "inviting": lambda: invitations.invite(crew, level="viewer", by=user, email="zq@example.com"),
        "keys of others": lambda: keys.create(service, name="zq", scopes=[Scope.READ], by=user),
        "new people": lambda: people.create_person(username="zq", by=user),
        "roles": lambda: people.change_role(spare, "admin", by=user),
        "links to set passwords": lambda: passwords.make_link(spare, by=user),
        "passwords": lambda: passwords.set_for(spare, "correct horse battery zq", by=user),
        "second factors": lambda: second_factor.remove(spare, by=user),
        "linking": lambda: linking.link(spare, subject="zq", issuer="https://idp.example", by=user),
        "unlinking": lambda: linking.unlink(identity, by=user),
    }


@probe()
def actions_ask_for_themselves(asker: Asker) -> None:
    for name, act in _second_lines(asker).items():
        with transaction.atomic():
            try:
                act()
            except PermissionDenied:
                continue
            finally:
                transaction.set_rollback(True)
            raise AssertionError(f"{name}: done by whom it is not for")


@probe()
def a_command_runs_crews_that_its_user_sees(asker: Asker) -> None:
    stranger = asker.world.people["stranger"]
    assert kickoff._crew("zqcrewshared", stranger)
    for wanted in ("zqcrewprivate", str(asker.world.things["private"].parts["crew"])):
        with pytest.raises(CommandError):
            kickoff._crew(wanted, stranger)
