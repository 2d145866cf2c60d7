"""The most that a request may use, so that it can be reserved before it is sent."""

import math
import string
from collections.abc import Iterator
from decimal import ROUND_UP, Decimal
from typing import Any
from urllib.parse import urlsplit

import orjson
from django.conf import settings
from django.utils.translation import gettext as _

from executions.budgets import Amount, Limits
from executions.errors import ErrorCode
from executions.gateway.catalog import Target
from executions.gateway.faults import Fault
from executions.models.calls import cost_of

# Tokens a character, above what the tokenizers of OpenAI, Anthropic and local models make of prose, code,
# markup, JSON, tables, hashes and CJK: three small letters or blanks a token at least, two capitals at
# least three quarters of one… Only text that is meant to be hard to read (Base64) takes more.
PLAIN, CAPITAL, OTHER_ASCII, BEYOND_ASCII, BEYOND_16_BITS = 1 / 3, 2 / 3, 1.0, 1.5, 3.0
_PLAIN = (string.ascii_lowercase + string.whitespace).encode()
_CAPITALS = string.ascii_uppercase.encode()
A_MESSAGE = 8  # tokens of its frame
A_PICTURE = 4000  # tokens of a part that is no text
LEAST_ANSWER = 512  # tokens that an answer is left, whatever the estimate of the prompt says of the context
_ASIDE = ("tools", "functions", "response_format")  # what is read beside the messages
_NAMES = ("max_completion_tokens", "max_tokens")


def bound_of(text: str) -> float:
    """At least as many tokens as `text` has."""
    ascii_ = text.encode("ascii", "ignore")
    hard = ascii_.translate(None, _PLAIN)
    other = hard.translate(None, _CAPITALS)
    bound = PLAIN * (len(ascii_) - len(hard)) + CAPITAL * (len(hard) - len(other)) + OTHER_ASCII * len(other)
    if len(ascii_) < len(text):
        wide = len(text.encode("utf-16-le", "surrogatepass")) // 2 - len(text)
        bound += BEYOND_ASCII * (len(text) - len(ascii_) - wide) + BEYOND_16_BITS * wide
    return bound


def prompt_bound(body: dict[str, Any]) -> int:
    """At least as many tokens as a model reads for a request."""
    bound = sum(bound_of(orjson.dumps(body[name]).decode()) for name in _ASIDE if body.get(name))
    for message in body.get("messages") or ():
        bound += A_MESSAGE + sum(bound_of(text) for text in _texts(message))
        content = message.get("content")
        if isinstance(content, list):
            bound += A_PICTURE * sum(not (isinstance(part, dict) and "text" in part) for part in content)
    return math.ceil(bound)


def _texts(message: dict[str, Any]) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (str(part["text"]) for part in content if isinstance(part, dict) and part.get("text"))
    yield str(message.get("name") or "")
    if calls := message.get("tool_calls") or message.get("function_call"):
        yield orjson.dumps(calls).decode()


def limited(target: Target, body: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], Amount]:
    """The request as it goes out under `limits`, with an end to its answer; and the most that it may use.

    The end is what the caller or the model's defaults ask for, else `LLM_MAX_TOKENS`; never more than
    the model's context leaves beside the prompt. Raises `Fault` as `require_price` does.
    """
    require_price(target, limits)
    read = prompt_bound(body)
    left = max(target.context_window - read, LEAST_ANSWER)
    asked = {name: value for name in _NAMES if (value := _number(body.get(name, target.defaults.get(name))))}
    ends = {name: min(value, left) for name, value in asked.items()} or {_name_for(target): _default(left)}
    written = max(ends.values()) * (_number(body.get("n")) or 1)
    cost = cost_of(read, written, target.price_in, target.price_out) or Decimal(0)
    usd = cost.quantize(Decimal("0.00000001"), rounding=ROUND_UP)
    return {**body, **ends}, Amount(usd, read + written)


def require_price(target: Target, limits: Limits) -> None:
    """Raise `Fault` for a model without a price under a budget of money; another may do."""
    if limits.in_usd and (target.price_in is None or target.price_out is None):
        sentence = _("The model %(model)s has no price, so it is not used under a budget of money.")
        raise Fault(
            ErrorCode.BUDGET_EXCEEDED,
            sentence=sentence % {"model": target.id},
            is_passing=False,
            data={"limit": "price"},
        )


def _default(left: int) -> int:
    return min(int(settings.LLM_MAX_TOKENS), left)


def _name_for(target: Target) -> str:
    """OpenAI's newer models refuse the name that everybody else knows."""
    return _NAMES[0] if urlsplit(target.api_base).hostname == "api.openai.com" else _NAMES[1]


def _number(value: Any) -> int:
    """A positive number; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def names_of(limits: Limits) -> list[str]:
    """The ids of `limits`' budgets, as a call's row keeps them."""
    return [str(budget) for budget in limits.budgets]
