"""CrewAI's and the model client's failures as sentences for people."""

import json

import httpx
from openai import APIConnectionError, APIError, APIStatusError

from executions.engines.output import Failed, GatewayLost

GATEWAY_LOST = "The gateway could not be reached, or broke off its answer."
TOO_LONG = "The text was longer than the model can read."
# Raised while a model is called; nothing else of the client's leaves `RoleLLM`.
CALL_ERRORS = (APIError, httpx.HTTPError, json.JSONDecodeError)


def of_call(error: Exception) -> Failed | GatewayLost:
    """What went wrong with a call: the gateway's own sentence where it gave one."""
    if isinstance(error, APIStatusError) or (isinstance(error, APIError) and not isinstance(error, APIConnectionError)):
        if "context" in str(error.code or "") or "context length" in error.message:
            # In words of ours: CrewAI takes the providers' as a sign to end the process.
            return Failed(TOO_LONG)
        body = error.body
        sentence = body.get("message") if isinstance(body, dict) else None
        return Failed(str(sentence or error.message))
    if isinstance(error, json.JSONDecodeError):
        return Failed("The model's answer could not be read.", reason="bad_output")
    return GatewayLost(GATEWAY_LOST)


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
