"""Runs over WebSockets: who may watch is settled by `GuardedConsumer`, what happens comes from `live.follow`."""

import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

from django.utils.translation import gettext as _

from executions import live
from executions.models import Execution
from portal.accounts.models import Role
from portal.accounts.permissions import Action, find
from portal.accounts.sockets import GuardedConsumer
from portal.lib import numbers
from portal.lib.problems import Problem


class ExecutionConsumer(GuardedConsumer):
    """The history of a run after `?after=`, then live until its last event."""

    read_role = Role.VIEWER
    stream_id: uuid.UUID
    after: int

    def find(self) -> uuid.UUID:
        route = self.scope["url_route"]["kwargs"]
        after = numbers.whole(parse_qs(self.scope["query_string"].decode("latin-1")).get("after", ["0"])[0])
        if after is None:
            raise Problem(_("“after” must be the number of an event."))
        runs = Execution.objects.filter(crew_id=route["crew_id"]) if "crew_id" in route else Execution.objects.all()
        # Not its texts: they may be long, and every watcher that comes back asks.
        run = find(runs.only("name", "stream_id", "access"), self.scope["user"], Action.SEE, pk=route["exec_id"])
        self.stream_id, self.after = run.stream_id, after
        return run.access_id

    def events(self) -> AsyncIterator[dict[str, Any]]:
        return live.follow(self.stream_id, self.after)
