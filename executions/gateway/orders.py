"""What a client asks the gateway for, and what it is given."""

import uuid
from dataclasses import dataclass
from typing import Any

from executions.gateway import journal
from executions.gateway.answers import Answer
from executions.gateway.catalog import Caller, Run
from executions.models import JournalEntry


@dataclass(frozen=True)
class Order:
    """What is asked, by whom, and on whose behalf.

    `role` is the agent's role and `agent` its key, `task` a RunSpec key. `ordinal` counts equal requests;
    without one (None) every request is another.
    """

    caller: Caller
    run: Run
    task: str
    role: str
    agent: str
    ordinal: int | None
    body: dict[str, Any]
    call_id: uuid.UUID

    @property
    def model(self) -> str:
        """What the request calls its model."""
        return str(self.body.get("model") or "")

    def key(self) -> journal.Key:
        digest = journal.chat_hash(self.body, self.agent)
        return journal.Key(
            self.caller.execution or self.call_id, JournalEntry.Kind.LLM.value, self.task, digest, self.ordinal or 0
        )


@dataclass
class Reply:
    """A finished upstream answer, and the usage that the client is told."""

    answer: Answer
    usage: dict[str, Any]
