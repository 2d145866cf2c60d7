"""What pages of projects tell beside the things that they are about: statistics, and what waits for whom; what a
new project refers to; and what actions and commands ask for themselves."""

import io

import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError
from django.db import transaction
from django.db.models.functions import Now

from crews.models import Crew
from executions.models import Execution
from portal.accounts.permissions import Action
from portal.lib.problems import InvalidValues
from portal.site.management.commands import project as command
from projects import actions, analytics
from projects.deliverables import access
from projects.models import Approver, Deliverable, Project, Template
from tests.matrix.asking import Asker, plain
from tests.matrix.deep import refers, send
from tests.matrix.people import BY_NAME
from tests.matrix.probes import probe


def page(asker: Asker, who: str, address: str) -> str:
    answer = asker.ask(address, "GET", BY_NAME[who], form=True)
    assert answer.status == 200, (who, address, answer.status)
    return answer.body


@probe("/templates", "/templates/{template}", "/api/templates/stats")
def templates_count_no_hidden_projects(asker: Asker, address: str) -> None:
    shared, private = (asker.world.things[name].parts for name in ("shared", "private"))
    address = address.format(**shared)
    before = plain(page(asker, "other user", address))
    with transaction.atomic():
        Project.objects.filter(pk=private["project"]).update(template=shared["template"], status="completed")
        after = plain(page(asker, "other user", address))
        transaction.set_rollback(True)
    assert after == before


@probe("crewai", "metagpt")
def an_engine_counts_no_hidden_runs(asker: Asker, engine: str) -> None:
    address = f"/api/{engine}/status"
    before = page(asker, "other user", address)
    with transaction.atomic():
        running = {"status": "running", "engine": engine, "lease_worker": "zq", "lease_until": Now()}
        run = Execution.objects.filter(pk=asker.world.things["private"].parts["run"])
        assert run.update(**running, ended_at=None) == 1
        after = page(asker, "other user", address)
        transaction.set_rollback(True)
    assert after == before


@probe("/", "/approvals")
def who_was_named_and_is_let_in_no_more_is_not_asked(asker: Asker, address: str) -> None:
    with transaction.atomic():
        stage = asker.world.things["private"].parts["stage"]
        Approver.objects.create(stage_id=stage, user=asker.world.people["stranger"])
        body = page(asker, "other user", address)
        transaction.set_rollback(True)
    assert "zqprojectprivate" not in body


@probe("/", "/approvals")
def who_may_only_look_is_not_asked_to_decide(asker: Asker, address: str) -> None:
    gate = f"/projects/{asker.world.things['granted'].parts['project']}#gate-requirement"
    assert gate in page(asker, "editor", address)
    assert gate not in page(asker, "reader", address)


@probe()
def a_new_project_takes_templates_and_crews_that_one_sees(asker: Asker) -> None:
    said = []
    for thing in ("private", "missing"):
        template = asker.world.things[thing].parts["template"]
        answer = send(asker, "user", "POST", "/api/projects", {"name": "zq", "template_id": template})
        assert answer.status == 400, answer
        said.append(answer.body.replace(str(template), ""))  # it is a name, and stands in the answer
    assert said[0] == said[1]
    crewed = {"name": "zq", "selected_ai": "crew-ai"}
    refers(asker, "POST", "/api/projects", lambda pk: {**crewed, "crew_id": pk}, "crew")


@probe()
def actions_of_projects_ask_once_more(asker: Asker) -> None:
    private, shared = (asker.world.things[name].parts for name in ("private", "shared"))
    stranger = asker.world.people["stranger"]
    for given in (
        {"template": Template.objects.get(pk=private["template"])},
        {"selected_ai": "crew-ai", "crew": Crew.objects.get(pk=private["crew"])},
    ):
        with pytest.raises(InvalidValues):
            actions.create(by=stranger, name="zq", **given)
    with pytest.raises(PermissionDenied):
        actions.force_complete(Project.objects.get(pk=shared["project"]), asker.world.people["maker"])
    with pytest.raises(PermissionDenied):
        analytics.dashboard(stranger)
    with pytest.raises(PermissionDenied):  # also with somebody who sees it anyway
        access.share(Deliverable.objects.get(pk=shared["deliverable"]), stranger, user=stranger)


@probe()
def a_command_works_on_projects_that_its_user_sees(asker: Asker) -> None:
    stranger = asker.world.people["stranger"]
    assert command._project("zqprojectshared", stranger, Action.SEE)
    assert command._template(asker.world.things["shared"].parts["template"], stranger)
    private = asker.world.things["private"].parts
    for wanted in ("zqprojectprivate", str(private["project"]), "zqnothing"):
        with pytest.raises(CommandError) as caught:
            command._project(wanted, stranger, Action.SEE)
        # It says which there are.
        assert "zqprojectprivate" not in str(caught.value).replace(f"“{wanted}”", "")
    with pytest.raises(CommandError):
        command._template(private["template"], stranger)
    listed = io.StringIO()
    command.Command(stdout=listed)._list(stranger, {"json": True})
    assert "zqprojectshared" in listed.getvalue()
    assert "zqprojectprivate" not in listed.getvalue()
