"""`manage.py queue`: the django-q2 cluster, whose forks die with it. `worker` starts it."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django_q.cluster import Cluster
from django_q.signals import post_execute_in_worker, pre_execute

from executions.tasks import tell_worker_at_work, tell_worker_done
from portal.lib.processes import forks_die_with_parent


class Command(BaseCommand):
    requires_system_checks: list[str] = []  # `up` and the tests check; a part should start quickly
    help = "Carry rings, schedules and short jobs: the django-q2 cluster."

    def handle(self, *args: Any, **options: Any) -> None:
        # The cluster's own orphans would go on taking tasks that nobody hears of.
        forks_die_with_parent()
        pre_execute.connect(tell_worker_at_work, weak=False)
        post_execute_in_worker.connect(tell_worker_done, weak=False)
        cluster = Cluster()
        cluster.start()
        sentinel = cluster.sentinel
        sentinel.join()
        if not cluster.has_stopped:
            raise CommandError(f"the cluster's guard ended with exit code {sentinel.exitcode}", returncode=3)
