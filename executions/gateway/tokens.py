"""Run tokens: what an engine shows the gateway. Good for one attempt of one execution, while it runs.

The signature says that the portal issued it; whether that attempt still runs is looked up in the
database with every request (`executions.gateway.ledger`).
"""

import uuid

from django.core import signing

from executions.models import Execution

PREFIX = "run_"
_SALT = "executions.gateway.run"


class InvalidToken(Exception):
    """Not a token that this portal has issued."""


def issue(execution: Execution) -> str:
    """A token for the execution's current attempt."""
    return PREFIX + signing.Signer(salt=_SALT).sign(f"{execution.pk.hex}.{execution.attempt}")


def read(token: str) -> tuple[uuid.UUID, int]:
    """Execution id and attempt of a token. Raises `InvalidToken`."""
    if not token.startswith(PREFIX):
        raise InvalidToken("not a run token")
    try:
        execution, _, attempt = signing.Signer(salt=_SALT).unsign(token.removeprefix(PREFIX)).partition(".")
        return uuid.UUID(hex=execution), int(attempt)
    except (signing.BadSignature, ValueError) as exc:
        raise InvalidToken(str(exc)) from exc
