"""What is a stranger's shows in no count, state or filter either."""

import pytest
from django.test import Client

from executions.models import Execution
from executions.status import Status
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.crews import AgentFactory, runnable_crew
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db


def signed_in(user):
    client = Client()
    client.force_login(user)
    return client


def test_home_and_the_list_of_runs_count_what_the_reader_may_see():
    owner, stranger, admin = UserFactory(), UserFactory(), UserFactory(admin=True)
    for status in (Status.RUNNING, Status.PENDING):
        execution_in(status, created_by=owner, access=AccessListFactory(owner=owner))
    for user, seen in ((owner, 1), (stranger, 0), (admin, 1)):
        home = signed_in(user).get("/").context
        assert (home["running"], home["waiting"], len(home["runs"])) == (seen, seen, 2 * seen)
        assert signed_in(user).get("/runs").context["queued"] == seen


def test_who_works_in_a_strangers_crew_is_not_told():
    owner, stranger = UserFactory(), UserFactory()
    shared = AgentFactory(owner=owner, visibility="shared")
    hidden = runnable_crew(owner=owner)
    hidden.members.create(agent=shared, position=9)
    path = f"/api/agents?crew_id={hidden.pk}&count=1"
    assert signed_in(stranger).get(path).json()["count"] == 0
    assert signed_in(owner).get(path).json()["count"] == 2


def test_filtering_by_people_does_not_tell_who_is_there():
    owner, stranger = UserFactory(), UserFactory()
    execution_in(Status.COMPLETED, created_by=owner, access=AccessListFactory(owner=owner))
    unknown = Execution.objects.get().pk
    answers = [signed_in(stranger).get(f"/api/executions?created_by={who}") for who in (owner.pk, unknown)]
    assert [(answer.status_code, answer.json()["results"]) for answer in answers] == [(200, []), (200, [])]
