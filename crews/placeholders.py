"""`{field_name}` in the texts of agents and tasks: which names stand there, and putting values in.

Only braces around a plain name count, so that JSON examples in a prompt are left alone.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from django.utils.translation import gettext as _

from portal.lib.problems import FieldError

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def names_in(text: str) -> list[str]:
    """The names that stand in braces in `text`, each once, in order."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(text)))


def fill(text: str, values: Mapping[str, Any]) -> str:
    """`text` with each `{field_name}` replaced by its value; names without a value stay as they are.

    Values are put in as they are and not searched again, so that an input cannot pull in another.
    """
    return _PLACEHOLDER.sub(lambda found: _shown(values[found[1]]) if found[1] in values else found[0], text)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def unknown_names(texts: Mapping[str, str], known: Collection[str], *, whose: str = "") -> list[FieldError]:
    """One error for each unknown `{name}` in `texts` (field → text); `whose` names the task or agent."""
    errors = []
    for field, text in texts.items():
        for name in names_in(text):
            if name not in known:
                detail = _("{%(name)s} is no input of the crew.") % {"name": name}
                if whose:
                    detail = f"{whose}: {detail}"
                errors.append(FieldError(field, "unknown_placeholder", detail))
    return errors
