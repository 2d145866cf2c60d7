"""What can go wrong when an engine calls a model through OpenAI's client, as sentences for people. Any engine's."""

import json

import httpx
from openai import APIConnectionError, APIError, APIStatusError

from executions.engines.output import Failed, GatewayLost

GATEWAY_LOST = "The gateway could not be reached, or broke off its answer."
TOO_LONG = "The text was longer than the model can read."
# Raised while a model is called; an adapter lets nothing else of the client's out.
CALL_ERRORS = (APIError, httpx.HTTPError, json.JSONDecodeError)
_BAD_REQUEST = 400


class TooLong(Failed):
    """The model cannot read that much: a shorter request may do."""


class Refused(Failed):
    """The provider takes no request of this form: a plainer one may do."""


def of_call(error: Exception) -> Failed | GatewayLost:
    """What went wrong with a call: the gateway's own sentence where it gave one."""
    if isinstance(error, APIStatusError) or (isinstance(error, APIError) and not isinstance(error, APIConnectionError)):
        if "context" in str(error.code or "") or "context length" in error.message:
            # In words of ours: CrewAI takes the providers' as a sign to end the process.
            return TooLong(TOO_LONG)
        body = error.body
        sentence = body.get("message") if isinstance(body, dict) else None
        is_refusal = getattr(error, "status_code", None) == _BAD_REQUEST
        return (Refused if is_refusal else Failed)(str(sentence or error.message))
    if isinstance(error, json.JSONDecodeError):
        return Failed("The model's answer could not be read.", reason="bad_output")
    return GatewayLost(GATEWAY_LOST)
