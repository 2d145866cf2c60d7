"""What a request came to, when its provider does not say."""

from time import perf_counter

import pytest

from executions.errors import ErrorCode
from executions.gateway.accounts import Measured, closing_of
from executions.gateway.answers import Answer, Piece, event
from executions.gateway.faults import Fault


def answer(*texts: str) -> Answer:
    found = Answer()
    for text in texts:
        chunk = {"choices": [{"index": 0, "delta": {"content": text}}]}
        found.take([Piece(event(chunk), chunk)])
    return found


@pytest.mark.parametrize(
    ("is_sent", "fault", "read"),
    [
        (True, None, 10),
        (False, None, 0),  # cancelled in the moment in which it was opened
        (True, Fault(ErrorCode.LLM_UNAVAILABLE), 0),
        (True, Fault(ErrorCode.LLM_RATE_LIMITED, http_status=429), 0),
        (True, Fault(ErrorCode.LLM_TIMEOUT), 10),
    ],
)
def test_what_was_read_is_estimated_if_it_was_read(is_sent: bool, fault: Fault | None, read: int) -> None:
    measured = Measured(perf_counter(), is_sent=is_sent)
    closing = closing_of(answer(), measured, fault, prompt_tokens=10, keep_text=True)
    assert (closing.prompt_tokens, closing.completion_tokens, closing.is_estimated) == (read, 0, bool(read))


def test_what_was_written_is_counted_and_can_be_stored() -> None:
    closing = closing_of(
        answer("a\0b", "\ud83d"), Measured(perf_counter(), is_sent=True), None, prompt_tokens=1, keep_text=True
    )
    assert closing.completion_tokens == 2
    assert closing.text == "ab?"
