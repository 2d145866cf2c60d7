"""What pages of projects tell beside the things that they are about: statistics, and what waits for whom."""

from django.db import transaction

from projects.models import Approver, Project
from tests.matrix.asking import Asker, plain
from tests.matrix.people import BY_NAME
from tests.matrix.probes import probe


def page(asker: Asker, who: str, address: str) -> str:
    answer = asker.ask(address, "GET", BY_NAME[who], form=True)
    assert answer.status == 200, (who, address, answer.status)
    return answer.body


@probe("/templates", "/templates/{template}")
def templates_count_no_hidden_projects(asker: Asker, address: str) -> None:
    shared, private = (asker.world.things[name].parts for name in ("shared", "private"))
    address = address.format(**shared)
    before = plain(page(asker, "other user", address))
    with transaction.atomic():
        Project.objects.filter(pk=private["project"]).update(template=shared["template"], status="completed")
        after = plain(page(asker, "other user", address))
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
