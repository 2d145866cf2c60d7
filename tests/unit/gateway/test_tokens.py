"""Run tokens."""

import uuid

import pytest

from executions.gateway import tokens
from executions.models import Execution


def test_a_token_names_its_execution_and_attempt() -> None:
    execution = Execution(pk=uuid.uuid4(), attempt=3)
    token = tokens.issue(execution)
    assert token.startswith("run_")
    assert tokens.read(token) == (execution.pk, 3)


def _tampered() -> str:
    mine = tokens.issue(Execution(pk=uuid.uuid4(), attempt=1))
    other = tokens.issue(Execution(pk=uuid.uuid4(), attempt=1))
    return other.rsplit(":", 1)[0] + ":" + mine.rsplit(":", 1)[1]


@pytest.mark.parametrize("token", ["", "run_", "run_x:y", "ap_key", _tampered])
def test_other_tokens_are_refused(token: object) -> None:
    with pytest.raises(tokens.InvalidToken):
        tokens.read(str(token() if callable(token) else token))
