"""Projects over WebSockets: who may watch is settled by `GuardedConsumer`, what happens comes from `live.follow`."""

import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

from django.utils.translation import gettext as _

from executions import live
from portal.accounts.models import Role
from portal.accounts.permissions import Action, find
from portal.accounts.sockets import GuardedConsumer
from portal.lib import numbers
from portal.lib.problems import Problem
from projects.models import Project


class ProjectConsumer(GuardedConsumer):
    """What has happened in a project after `?after=`, then live until it is completed or cancelled."""

    read_role = Role.VIEWER
    stream_id: uuid.UUID
    after: int

    def find(self) -> uuid.UUID:
        after = numbers.whole(parse_qs(self.scope["query_string"].decode("latin-1")).get("after", ["0"])[0])
        if after is None:
            raise Problem(_("“after” must be the number of an event."))
        rows = Project.objects.only("name", "stream_id", "access")
        pk = self.scope["url_route"]["kwargs"]["project_id"]
        project = find(rows, self.scope["user"], Action.SEE, pk=pk)
        self.stream_id, self.after = project.stream_id, after
        return project.access_id

    def events(self) -> AsyncIterator[dict[str, Any]]:
        return live.follow(self.stream_id, self.after, deltas=False)
