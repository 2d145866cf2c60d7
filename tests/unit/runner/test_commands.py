"""`manage.py drain`."""

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from executions.models import Worker
from executions.runner import claims
from executions.runner.supervisor import Supervisor
from executions.status import Status
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db


def worker(name):
    return Worker.objects.create(name=name, started_at=Now(), seen_at=Now(), max_runs=4)


def test_a_worker_is_drained_and_taken_back(capsys):
    worker("machine")
    execution_in(Status.RUNNING)
    call_command("drain", "machine")
    assert claims.is_draining("machine")
    assert "machine takes no new runs; it carries 1." in capsys.readouterr().out
    call_command("drain", "machine", "--undo")
    assert not claims.is_draining("machine")


def test_without_a_name_it_is_this_machine():
    worker(settings.WORKER_NAME)
    worker("machine")
    call_command("drain")
    assert list(Worker.objects.filter(is_draining=True)) == [Worker.objects.get(name=settings.WORKER_NAME)]


def test_a_worker_that_is_not_there_is_named():
    worker("machine")
    with pytest.raises(CommandError, match=r"no worker elsewhere\. Known: machine"):
        call_command("drain", "elsewhere")


def test_a_sign_of_life_keeps_the_flag():
    supervisor = Supervisor()
    worker(supervisor.name)
    call_command("drain")
    supervisor._renew([])
    assert claims.is_draining(supervisor.name)
    supervisor.db.close()
    supervisor.mail.close()
