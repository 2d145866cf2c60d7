"""CrewAI's failures as sentences for people."""

from executions.engines.calls import CALL_ERRORS as CALL_ERRORS
from executions.engines.calls import GATEWAY_LOST as GATEWAY_LOST
from executions.engines.calls import of_call as of_call
from executions.engines.output import Failed


def of_run(error: BaseException) -> Failed:
    """Why a run ended: the failure underneath what CrewAI made of it, else its own words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Failed):
            return cause
        cause = cause.__cause__ or cause.__context__
    text = str(error) or type(error).__name__
    if "without reaching a final answer" in text or type(error).__name__ == "OutputParserError":
        return Failed("The agent came to no answer that could be used.", reason="bad_output")
    return Failed(text)
