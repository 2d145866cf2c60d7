"""Parameters of LLM calls that an agent may set."""

from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

# name → (types, lowest, highest)
_WHOLE, _REAL = (int,), (int, float)
_NUMBERS: dict[str, tuple[tuple[type[int] | type[float], ...], float, float]] = {
    "temperature": (_REAL, 0, 2),
    "top_p": (_REAL, 0, 1),
    "top_k": (_WHOLE, 0, 1000),
    "min_p": (_REAL, 0, 1),
    "max_tokens": (_WHOLE, 1, 1_000_000),
    "max_completion_tokens": (_WHOLE, 1, 1_000_000),
    "seed": (_WHOLE, -(2**63), 2**63 - 1),
    "repeat_penalty": (_REAL, 0, 2),
    "presence_penalty": (_REAL, -2, 2),
    "frequency_penalty": (_REAL, -2, 2),
}
_WORDS = {"reasoning_effort"}
KNOWN = sorted([*_NUMBERS, *_WORDS, "stop"])


def validate_llm_config(value: Any) -> None:
    """Refuse what is no parameter of a call, or is out of its range. Raises `ValidationError`."""
    if not isinstance(value, dict):
        raise ValidationError(_("Give an object, for example {“temperature”: 0.4}."), code="not_an_object")
    problems = [problem for name, setting in value.items() if (problem := _problem(name, setting))]
    if problems:
        raise ValidationError([ValidationError(problem, code="bad_parameter") for problem in problems])


def _problem(name: str, setting: Any) -> str:
    if name in _NUMBERS:
        types, low, high = _NUMBERS[name]
        if isinstance(setting, bool) or not isinstance(setting, types) or not low <= setting <= high:
            return _("“%(name)s” must be a number from %(low)s to %(high)s.") % {"name": name, "low": low, "high": high}
    elif name in _WORDS:
        if not isinstance(setting, str) or not 0 < len(setting) <= 50:
            return _("“%(name)s” must be a word.") % {"name": name}
    elif name == "stop":
        words = [setting] if isinstance(setting, str) else setting
        if not isinstance(words, list) or len(words) > 4 or not all(isinstance(word, str) and word for word in words):
            return _("“stop” must be a text, or a list of at most four.")
    else:
        return _("“%(name)s” is no parameter; known are %(known)s.") % {"name": name, "known": ", ".join(KNOWN)}
    return ""
